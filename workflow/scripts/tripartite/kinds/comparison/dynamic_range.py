"""How many decades of firing rate does a head need? Error against the threshold of the rates."""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from tripartite.figures import palette
from tripartite.figures.panels import interval, line, mark, points

MAX_HEADS = 4  # of an experiment that fit in a panel
MAX_COLUMNS = 3
MIN_FLOOR = 1e-3  # floors below are not drawn
UNTRUNCATED = 10  # place of the untruncated map, over the highest threshold


def dynamic_range(fits: dict[str, xr.Dataset]) -> Figure:
    """Output error and decades of firing rate against the threshold, a column per experiment.

    All at the largest m, for the first heads that were run; the untruncated map stands at the
    right. The error is the root of the mean square with its 95 % interval over seeds; floors are
    those of infinitely many neurons; a ring marks the best threshold, a bar at the foot its
    interval.
    """
    palette.apply()
    n_columns = min(MAX_COLUMNS, len(fits))
    n_rows = -(-len(fits) // n_columns)
    figure, axes = plt.subplots(
        2 * n_rows,
        n_columns,
        squeeze=False,
        sharey="row",
        figsize=(max(palette.COLUMN, palette.PAGE * n_columns / 3), 0.6 + 3.0 * n_rows),
        gridspec_kw={"height_ratios": [2, 1] * n_rows},
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for place, fit in enumerate(fits.values()):
        row, column = divmod(place, n_columns)
        upper, lower = axes[2 * row : 2 * row + 2, column]
        upper.set_axis_on()
        lower.set_axis_on()
        draw_experiment(upper, lower, fit)
        upper.tick_params(labelbottom=False)
        if column == 0:
            upper.set_ylabel("relative error of the output")
            lower.set_ylabel("log$_{10}$ highest /\nmedian rate")
    for upper in axes[::2, 0]:  # at least a decade, and room for the bars
        low, high = upper.get_ylim()
        upper.set_ylim(min(low, high / 10) / (high / low) ** 0.15, high)
    for lower in axes[1::2, 0]:
        lower.set_ylim(0)
    figure.legend(handles=legend(), loc="outside lower center", ncols=4 if n_columns == 3 else 2)
    return figure


def draw_experiment(upper, lower, fit: xr.Dataset) -> None:
    """Every head of one experiment: errors above, decades of firing rate below."""
    saturating = np.isin(fit["feature_map"].values, ("truncated_performer", "performer"))
    last = fit.isel(n_features=-1, variant=np.flatnonzero(saturating)).sortby("threshold")
    thresholds = last["threshold"].values
    finite = np.isfinite(thresholds)
    palette.title_of(upper, fit, f"$m$ = {palette.power(np.log10(fit['n_features'].values[-1]))}")
    for axis, scale in ((upper, "log"), (lower, "linear")):
        axis.set(xscale="log", yscale=scale)
    if not finite.any():
        upper.annotate("no thresholds compared", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    top = thresholds[finite].max()
    run = np.argwhere(last["mean_square"].notnull().any("variant").values)[:MAX_HEADS]
    for height, ((i, j), colour, marker) in enumerate(zip(run, palette.COLOURS, palette.MARKERS)):
        of_head = last.isel(layer=i, head=j)
        draw_head(upper, lower, of_head, UNTRUNCATED * top, colour, marker)
        draw_best(upper, of_head, UNTRUNCATED * top, colour, 0.02 + 0.025 * height)
    upper.yaxis.set_minor_formatter(NullFormatter())
    decades = 10.0 ** np.arange(np.ceil(np.log10(thresholds.min() / 1.01)), np.log10(top) + 0.5)
    names = [*(palette.power(np.log10(x)) for x in decades), "none"]
    lower.set_xticks([*decades, UNTRUNCATED * top], names)
    upper.tick_params(axis="x", which="minor", bottom=False)
    lower.minorticks_off()
    upper.set_xlim(lower.get_xlim())
    lower.set_xlabel("threshold of the firing rate")
    above = (0, 0.06)  # the bars of the best thresholds
    upper.legend(loc="lower left", bbox_to_anchor=above, handlelength=1.5).set_in_layout(False)


def draw_head(upper, lower, fit: xr.Dataset, infinity: float, colour: str, marker: str) -> None:
    """Error, floor and range of rates of one head; the untruncated map stands at infinity."""
    thresholds, decades = fit["threshold"].values, fit["log10_rate_range"].values
    finite = np.isfinite(thresholds)
    middle, low, high = (np.sqrt(x.clip(0)) for x in interval(fit, "mean_square"))
    low = np.fmax(low, middle / 10)  # an interval down to 0 has no place on a log axis
    x = np.where(finite, thresholds, infinity)
    for part, style in ((finite, "-"), (~finite, "")):
        look = {"linestyle": style, "markersize": 2.5, "markeredgewidth": 0}
        triple = middle[part], low[part], high[part]
        name = palette.head_name(fit, fit["layer"], fit["head"]) if style else None
        points(upper, x[part], triple, colour, marker, elinewidth=0.7, label=name, **look)
        lower.plot(x[part], decades[part], marker=marker, color=colour, **look)
    floor = fit["output_floor"].values
    drawn = np.where(floor > MIN_FLOOR, floor, np.nan)[finite]
    upper.plot(thresholds[finite], drawn, "--", color=colour, linewidth=0.8)


def draw_best(axis, fit: xr.Dataset, infinity: float, colour: str, height: float) -> None:
    """A ring at the best threshold of one head, and its interval at a height above the foot."""
    best, *ends = map(float, interval(fit, "best_threshold"))
    if np.isnan(best):
        return
    error = np.sqrt(fit["mean_square"].values[fit["threshold"].values == best][0])
    ring = {"marker": "o", "markersize": 6, "markerfacecolor": "none", "markeredgewidth": 0.8}
    axis.plot(min(best, infinity), error, color=colour, **ring)
    axis.plot(
        np.minimum(ends, infinity),
        [height, height],
        "|-",
        color=colour,
        markersize=3,
        linewidth=1.2,
        transform=axis.get_xaxis_transform(),
    )


def legend() -> list[Line2D]:
    """What line styles and marks mean."""
    grey = {"color": "0.35"}
    return [
        line("measured (bars: 95 % over seeds)", marker="o", markersize=2.5, **grey),
        line("error at $m = \\infty$", linestyle="--", linewidth=0.8, **grey),
        mark("best threshold", markersize=6, markerfacecolor="none", **grey),
        line("its 95 % interval", linewidth=1.2, **grey),
    ]
