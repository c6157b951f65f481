"""Which activation serves, and what limits it: bias or variance?"""

from itertools import cycle

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tripartite.figures import palette
from tripartite.figures.panels import heads_run, interval, line, mark, points

N_COLUMNS = 4
MAX_HEADS = 8  # whose ranks have rows of their own
ERRORS = (1e-3, 30)  # widest axis of relative errors
DASHES = (0, (3, 1.2))


def feature_maps(fits: dict[str, xr.Dataset]) -> Figure:
    """Bias and standard deviation of the output against m, a panel per variant, and ranks below.

    Values are medians over heads, and so are the ends of their 95 % intervals over seeds. A bias is
    drawn where its interval excludes 0 in the median head. The floor is that of infinitely many
    neurons; thin lines are equal attention, crosses the best constant gain. Ranks are those of each
    head at the largest m, with 95 % intervals over inputs and seeds.
    """
    palette.apply()
    variants = list(dict.fromkeys(name for fit in fits.values() for name in fit["variant"].values))
    n_rows = -(-len(variants) // N_COLUMNS)
    n_heads = sum(len(heads_run(fit["mean_square"])) for fit in fits.values())
    rank_height = 0.5 + 0.15 * len(variants) * (1 + 0.2 * (min(n_heads, MAX_HEADS) - 1))
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
    yield from zip(fits.values(), cycle(palette.COLOURS), cycle(palette.MARKERS))


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
    axis.axhline(median("uniform_error"), color=colour, linewidth=0.5, alpha=0.7)
    constant = np.sqrt(median("constant_gain_mean_square"))
    axis.plot(m, constant, "x", color=colour, markersize=3, markeredgewidth=0.6)


def draw_ranks(axis, fits: dict[str, xr.Dataset], variants: list[str]) -> None:
    """Rank of each variant in each head at the largest m, in the order of the mean ranks."""
    rows = [
        (fit.isel(n_features=-1).sel(head), colour, marker)
        for fit, colour, marker in styled(fits)
        for head in heads_run(fit["mean_square"])
    ]
    seen = {
        name: [
            of_head["rank"].sel(variant=name)
            for of_head, *_ in rows
            if name in of_head["variant"].values
        ]
        for name in variants
    }
    order = sorted(variants, key=lambda name: float(np.mean(seen[name])))
    for row, (of_head, colour, marker) in enumerate(rows):
        shift = 0.6 * (row - (len(rows) - 1) / 2) / max(1, len(rows) - 1)
        for place, name in enumerate(order):
            if name in of_head["variant"].values:
                middle, low, high = interval(of_head.sel(variant=name), "rank")
                y = place + shift
                axis.hlines(y, low, high, color=colour, linewidth=0.7)
                axis.plot(middle, y, marker, color=colour, markersize=2.2, markeredgewidth=0)
    axis.set_yticks(range(len(order)), [words(name) for name in order])
    axis.invert_yaxis()
    axis.set(xlim=(0.5, len(variants) + 0.5))
    axis.set_xlabel("rank by mean square error at the largest $m$ (1 the best) in each head, 95 %")


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
        line("equal attention", color="0.35", linewidth=0.5),
        mark("best constant gain", "x", color="0.35", markeredgewidth=0.6),
    ]
