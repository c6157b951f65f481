"""How many decades of firing rate does a head need? Error against the threshold of the rates."""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from tripartite.figures import palette

MOST = 4  # heads of an experiment that fit in a panel
COLUMNS = 3
LEAST = 1e-3  # floors below are not drawn


def dynamic_range(fits: dict[str, xr.Dataset]) -> Figure:
    """Output error and decades of firing rate against the threshold, a column per experiment.

    All at the largest m, for the first heads that were run; the untruncated map stands at the right.
    The error is the root of the mean square with its 95 % interval over seeds; floors are those of
    infinitely many neurons; a ring marks the best threshold, a bar at the foot its interval.
    """
    palette.apply()
    n_columns = min(COLUMNS, len(fits))
    n_rows = -(-len(fits) // n_columns)
    figure, axes = plt.subplots(
        2 * n_rows,
        n_columns,
        squeeze=False,
        sharey="row",
        figsize=(max(palette.COLUMN, palette.PAGE * n_columns / 3), 0.6 + 3.0 * n_rows),
        gridspec_kw={"height_ratios": [2, 1] * n_rows},
    )
    for place in range(n_rows * n_columns):
        row, column = divmod(place, n_columns)
        upper, lower = axes[2 * row : 2 * row + 2, column]
        if place >= len(fits):
            upper.set_axis_off(), lower.set_axis_off()
            continue
        draw_experiment(upper, lower, list(fits.values())[place])
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
    kinds = np.isin(fit["feature_map"].values, ("truncated_performer", "performer"))
    last = fit.isel(n_features=-1, variant=np.flatnonzero(kinds)).sortby("threshold")
    thresholds = last["threshold"].values
    finite = np.isfinite(thresholds)
    palette.title_of(upper, fit, f"$m$ = {palette.power(np.log10(fit['n_features'].values[-1]))}")
    for axis, scale in ((upper, "log"), (lower, "linear")):
        axis.set(xscale="log", yscale=scale)
    if not finite.any():
        upper.annotate("no thresholds compared", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    top = thresholds[finite].max()
    infinity = top * 10

    def place(x):
        return np.where(np.isfinite(x), x, infinity)

    found = np.argwhere(last["mean_square"].notnull().any("variant").values)[:MOST]
    for (i, j), colour, marker in zip(found, palette.COLOURS, palette.MARKERS):
        one = last.isel(layer=i, head=j)
        middle, low, high = (
            np.sqrt(one["mean_square" + end].clip(min=0).values) for end in ("", "_low", "_high")
        )
        low = np.fmax(low, middle / 10)  # an interval down to 0 has no place on a log axis
        for part, line in ((finite, "-"), (~finite, "")):
            upper.errorbar(
                place(thresholds[part]),
                middle[part],
                np.maximum((middle - low, high - middle), 0)[:, part],
                linestyle=line,
                marker=marker,
                markersize=2.5,
                color=colour,
                markeredgewidth=0,
                elinewidth=0.7,
                label=palette.head_name(fit, one["layer"], one["head"]) if line else None,
            )
            lower.plot(
                place(thresholds[part]),
                one["log10_rate_range"].values[part],
                linestyle=line,
                marker=marker,
                markersize=2.5,
                color=colour,
                markeredgewidth=0,
            )
        floor = one["output_floor"].values
        upper.plot(
            thresholds[finite],
            np.where(floor > LEAST, floor, np.nan)[finite],
            "--",
            color=colour,
            linewidth=0.8,
        )
        best = float(one["best_threshold"])
        if not np.isnan(best):
            upper.plot(
                place(best),
                middle[thresholds == best][0],
                "o",
                markersize=6,
                color=colour,
                markerfacecolor="none",
                markeredgewidth=0.8,
            )
            ends = place(
                np.array([float(one["best_threshold" + end]) for end in ("_low", "_high")])
            )
            upper.plot(
                ends,
                [0.02 + 0.025 * list(map(tuple, found)).index((i, j))] * 2,
                "|-",
                color=colour,
                markersize=3,
                linewidth=1.2,
                transform=upper.get_xaxis_transform(),
            )
    upper.yaxis.set_minor_formatter(NullFormatter())
    decades = 10.0 ** np.arange(np.ceil(np.log10(thresholds.min() / 1.01)), np.log10(top) + 0.5)
    lower.set_xticks([*decades, infinity], [*(palette.power(np.log10(x)) for x in decades), "none"])
    upper.tick_params(axis="x", which="minor", bottom=False)
    lower.minorticks_off()
    upper.set_xlim(lower.get_xlim())
    lower.set_xlabel("threshold of the firing rate")
    above = (0, 0.06)  # the bars of the best thresholds
    upper.legend(loc="lower left", bbox_to_anchor=above, handlelength=1.5).set_in_layout(False)


def legend() -> list[Line2D]:
    """What line styles and marks mean."""
    grey = {"color": "0.35"}
    return [
        Line2D(
            [], [], marker="o", markersize=2.5, label="measured (bars: 95 % over seeds)", **grey
        ),
        Line2D([], [], linestyle="--", linewidth=0.8, label="error at $m = \\infty$", **grey),
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            markersize=6,
            markerfacecolor="none",
            label="best threshold",
            **grey,
        ),
        Line2D([], [], linewidth=1.2, label="its 95 % interval", **grey),
    ]
