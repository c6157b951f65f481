"""Which activation serves, and what limits it: bias or variance?"""

from itertools import cycle

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tripartite.figures import palette
from tripartite.figures.panels import interval, line, mark, points

N_COLUMNS = 4
ERRORS = (1e-3, 30)  # widest axis of relative errors
DASHES = (0, (3, 1.2))


def feature_maps(fits: dict[str, xr.Dataset]) -> Figure:
    """Bias and standard deviation of the output against m, a panel per variant, and ranks below.

    Values are medians over heads, and so are the ends of their 95 % intervals over seeds. A bias is
    drawn where its interval excludes 0 in the median head. The floor is that of infinitely many
    neurons; ranks are those at the largest m.
    """
    palette.apply()
    variants = list(dict.fromkeys(name for fit in fits.values() for name in fit["variant"].values))
    n_rows = -(-len(variants) // N_COLUMNS)
    rank_height = 0.5 + 0.15 * len(variants) * (1 + 0.3 * (len(fits) - 1))
    figure = plt.figure(figsize=(palette.PAGE, 0.7 + 1.45 * n_rows + rank_height))
    heights = [1.45 * n_rows + 0.4, rank_height]
    curves, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).flat
    axes = curves.subplots(n_rows, N_COLUMNS, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat[len(variants) :]:
        axis.set_axis_off()
    for place, (axis, name) in enumerate(zip(axes.flat, variants)):
        for fit, colour, marker in styled(fits):
            if name in fit["variant"].values:
                draw_variant(axis, fit.sel(variant=name), colour, marker)
        axis.set(xscale="log", yscale="log")
        axis.set_title(words(name), loc="left")
        if place + N_COLUMNS >= len(variants):
            axis.tick_params(labelbottom=True)
    low, high = axes[0, 0].get_ylim()
    axes[0, 0].set_ylim(max(low, ERRORS[0]), min(high, ERRORS[1]))
    curves.supxlabel("hidden neurons $m$", fontsize=7)
    curves.supylabel("relative error of the output", fontsize=7)
    draw_ranks(bottom.subplots(), fits, variants)
    bottom.legend(handles=legend(fits), loc="outside right center")
    return figure


def styled(fits: dict[str, xr.Dataset]):
    """Each experiment with its colour and marker."""
    for fit, (colour, marker) in zip(
        fits.values(), cycle(zip(palette.COLOURS, palette.MARKERS, strict=True))
    ):
        yield fit, colour, marker


def draw_variant(axis, fit: xr.Dataset, colour: str, marker: str) -> None:
    """Standard deviation, bias and floor of one variant of one experiment."""
    m = fit["n_features"].values

    def median(name: str) -> np.ndarray:
        return fit[name].median(("layer", "head")).values

    for name, style, fill in (("variance", "-", colour), ("bias_squared", DASHES, "white")):
        middle, low, high = (np.sqrt(median(name + end).clip(0)) for end in ("", "_low", "_high"))
        shown = np.isfinite(middle) & (middle > 0) & ((low > 0) | (name == "variance"))
        middle, low, high = (np.where(shown, x, np.nan) for x in (middle, low, high))
        points(
            axis,
            m,
            (middle, np.fmax(low, middle / 10), high),
            colour,
            marker,
            linestyle=style,
            markersize=2.5,
            markerfacecolor=fill,
            markeredgewidth=0.7,
            linewidth=0.9,
            elinewidth=0.7,
        )
    floor = median("output_floor")
    axis.plot(m, np.where(floor > ERRORS[0], floor, np.nan), ":", color=colour, linewidth=1.2)


def draw_ranks(axis, fits: dict[str, xr.Dataset], variants: list[str]) -> None:
    """Rank of each variant at the largest m, in the order of the first experiment's ranks."""
    first = next(iter(fits.values()))["rank"].isel(n_features=-1)
    order = sorted(
        variants,
        key=lambda name: (
            float(first.sel(variant=name)) if name in first["variant"].values else np.inf
        ),
    )
    for row, (fit, colour, marker) in enumerate(styled(fits)):
        last = fit.isel(n_features=-1)
        shift = 0.5 * (row - (len(fits) - 1) / 2) / max(1, len(fits) - 1)
        for place, name in enumerate(order):
            if name in fit["variant"].values:
                middle, low, high = interval(last.sel(variant=name), "rank")
                y = place + shift
                axis.hlines(y, low, high, color=colour, linewidth=0.9)
                axis.plot(middle, y, marker, color=colour, markersize=3, markeredgewidth=0)
    axis.set_yticks(range(len(order)), [words(name) for name in order])
    axis.invert_yaxis()
    axis.set(xlim=(0.5, len(variants) + 0.5))
    axis.set_xlabel(
        "rank by mean square error at the largest $m$ (1 the best): mean over heads, 95 %"
    )


def words(name: str) -> str:
    """The name of a variant as it is written."""
    return palette.plain_text(str(name).replace("_", " "))


def legend(fits: dict[str, xr.Dataset]) -> list[Line2D]:
    """What colours, lines and markers mean."""
    grey, dots = {"color": "0.35", "linewidth": 0.9}, {"marker": "o", "markersize": 2.5}
    return [
        *(
            mark(label, marker, color=colour)
            for label, (_, colour, marker) in zip(palette.labels(fits), styled(fits))
        ),
        line("standard deviation", **dots, **grey),
        line(
            "bias, where it is\nnot within its error",
            linestyle=DASHES,
            markerfacecolor="white",
            **dots,
            **grey,
        ),
        line("error at $m = \\infty$", linestyle=":", color="0.35", linewidth=1.2),
    ]
