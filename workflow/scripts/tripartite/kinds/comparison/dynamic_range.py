"""How many decades of firing rate does a head need, and how many do neurons have?"""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from tripartite.figures import palette
from tripartite.figures.panels import grid, interval, line, mark, points

MAX_HEADS = 4  # of an experiment that fit in a panel
MAX_COLUMNS = 3
MIN_FLOOR = 1e-3  # floors below are not drawn
# Decades from the lowest to the highest rate of cortical neurons: .15 to 16 Hz (Attwell &
# Laughlin, J Cereb Blood Flow Metab 2001), and below .01 to above 50 Hz (Hromadka et al., PLoS Biol
# 2008).
CORTEX = (np.log10(16 / 0.15), np.log10(50 / 0.01))


def dynamic_range(fits: dict[str, xr.Dataset]) -> Figure:
    """Output error against decades of firing rate below a ceiling, a panel per experiment.

    All at the largest m, for the first heads that were run. Decades are those between the median
    and the highest rate; each mark is a threshold, the open one has none. The error is the root of
    the mean square with its 95 % interval over seeds, cut at a tenth; floors are those of infinite
    networks, dotted lines those of equal attention. A ring marks the best threshold, a bar at
    the foot its interval. The band is what neurons have.
    """
    palette.apply()
    n_columns = min(MAX_COLUMNS, len(fits))
    width = max(palette.COLUMN, palette.PAGE * n_columns / 3)
    figure, axes = grid(
        len(fits), n_columns, lambda n_rows: (width, 0.7 + 2.3 * n_rows), sharex=True, sharey=True
    )
    for place, (axis, fit) in enumerate(zip(axes, fits.values())):
        draw_experiment(axis, fit)
        axis.tick_params(labelleft=True)
        if place + n_columns >= len(fits):
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("log$_{10}$ highest / median firing rate")
    for axis in axes[::n_columns]:
        axis.set_ylabel("relative error of the output")
    low, high = axes[0].get_ylim()  # room for the bars, and at least a decade
    axes[0].set_ylim(min(low, high / 10) / (high / low) ** 0.12, high)
    axes[0].set_xlim(0)
    figure.legend(handles=legend(), loc="outside lower center", ncols=3 if n_columns > 1 else 1)
    return figure


def draw_experiment(axis, fit: xr.Dataset) -> None:
    """Every head of one experiment."""
    saturating = np.isin(fit["feature_map"].values, ("truncated_performer", "performer"))
    last = fit.isel(n_features=-1, variant=np.flatnonzero(saturating)).sortby("threshold")
    palette.title_of(axis, fit, f"$m$ = {palette.power(np.log10(fit['n_features'].values[-1]))}")
    axis.set(yscale="log")
    axis.axvspan(*CORTEX, color="0.9", linewidth=0, zorder=0)
    if not np.isfinite(last["threshold"]).any():
        axis.annotate("no thresholds compared", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    run = np.argwhere(last["mean_square"].notnull().any("variant").values)[:MAX_HEADS]
    for height, ((i, j), colour, marker) in enumerate(zip(run, palette.COLOURS, palette.MARKERS)):
        of_head = last.isel(layer=i, head=j)
        draw_head(axis, of_head, colour, marker)
        draw_best(axis, of_head, colour, 0.02 + 0.025 * height)
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(loc="lower left", bbox_to_anchor=(0, 0.08), handlelength=1.5).set_in_layout(False)


def draw_head(axis, fit: xr.Dataset, colour: str, marker: str) -> None:
    """Error and floor of one head, and the error of equal attention."""
    decades = fit["log10_rate_range"].values
    finite = np.isfinite(fit["threshold"].values)
    middle, low, high = (np.sqrt(x.clip(0)) for x in interval(fit, "mean_square"))
    axis.plot(decades, middle, color=colour, linewidth=0.9)
    for part, fill in ((finite, colour), (~finite, "white")):
        look = {"markersize": 2.8, "markerfacecolor": fill, "markeredgewidth": 0.7}
        triple = middle[part], np.fmax(low, middle / 10)[part], high[part]
        points(axis, decades[part], triple, colour, marker, elinewidth=0.7, **look)
    name = palette.head_name(fit, fit["layer"], fit["head"])
    axis.plot([], [], marker=marker, color=colour, markersize=2.8, label=name)
    floor = fit["output_floor"].values
    drawn = np.where(floor > MIN_FLOOR, floor, np.nan)[finite]
    axis.plot(decades[finite], drawn, "--", color=colour, linewidth=0.8)
    axis.axhline(float(fit["uniform_error"]), color=colour, linestyle=":", linewidth=1)


def draw_best(axis, fit: xr.Dataset, colour: str, height: float) -> None:
    """A ring at the best threshold of one head, and its interval at a height above the foot."""
    best, *ends = map(float, interval(fit, "best_threshold_decades"))
    if np.isnan(best):
        return
    threshold = fit["threshold"].values == float(fit["best_threshold"])
    error = np.sqrt(fit["mean_square"].values[threshold][0])
    ring = {"marker": "o", "markersize": 6, "markerfacecolor": "none", "markeredgewidth": 0.8}
    axis.plot(best, error, color=colour, **ring)
    axis.plot(
        ends,
        [height, height],
        "|-",
        color=colour,
        markersize=3,
        linewidth=1.2,
        transform=axis.get_xaxis_transform(),
    )


def legend() -> list[Line2D | Patch]:
    """What line styles and marks mean."""
    grey = {"color": "0.35"}
    return [
        line("measured, by threshold (bars: 95 % over seeds)", marker="o", markersize=2.8, **grey),
        mark("no threshold", markersize=2.8, markerfacecolor="white", markeredgewidth=0.7, **grey),
        line("error at $m = \\infty$", linestyle="--", linewidth=0.8, **grey),
        line("equal attention to all keys that are read", linestyle=":", linewidth=1, **grey),
        mark("best threshold", markersize=6, markerfacecolor="none", **grey),
        line("its 95 % interval", linewidth=1.2, **grey),
        Patch(color="0.9", label="cortex, lowest to highest rate: 2.0 and 3.7 decades"),
    ]
