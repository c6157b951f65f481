"""Is there a better mechanism? Errors of the network and its rivals, and how fast they settle."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import heads_run, interval, line, mark, points

MAX_HEADS = 3  # side by side
MIN_DRAWN = 1e-3  # error below which a mechanism is drawn as exact
SIZED: dict[str, tuple[str, str, str]] = {  # words, colour, marker
    "network": ("network, random neurons", palette.SMALL, "o"),
    "network, fitted": ("network, fitted neurons", palette.LARGE, "o"),
    "no division, fitted": ("the same without division (best gain)", palette.COLOURS[4], "v"),
    "delta rule, fitted": ("delta rule, fitted neurons", palette.COLOURS[2], "s"),
    "delta rule, elu + 1": ("delta rule, elu + 1 neurons", palette.COLOURS[2], "D"),
    "elu + 1": ("elu + 1 neurons, division", palette.COLOURS[3], "^"),
    "elu + 1, exponent": ("elu + 1, best exponent and gain", palette.COLOURS[6], "P"),
    "replicator": ("replicator gains, tokens at random", palette.EXACT, "X"),
}
HOLLOW = ("delta rule, elu + 1", "elu + 1, exponent")
FIXED: dict[str, tuple[str, str, str]] = {
    "match and control, threshold": ("matches above a threshold", palette.COLOURS[0], "*"),
    "match and control, best matches": ("best matches", palette.COLOURS[0], "p"),
    "elu + 1, d_head neurons": ("elu + 1 of queries and keys", palette.COLOURS[3], "*"),
}
LEVELS = {"equal attention": ("equal attention", ":"), "a constant output": ("a constant", "--")}
LAGS: dict[str, tuple[str, str, str]] = {  # words, colour, line
    "calcium from rest": ("calcium that divides, from 0", palette.LARGE, ":"),
    "calcium in turn": ("the same, query after query", palette.LARGE, "-"),
    "replicator from rest": ("replicator, from equal gains", palette.EXACT, ":"),
    "replicator in turn": ("the same, query after query", palette.EXACT, "-"),
}
PATTERNS = {"memory": ("with the memory", "-"), "cue": ("with the cue", ":")}
STARTS = {
    "of the tutorial": ("start of the tutorial", palette.LARGE),
    "zero": ("from zero", palette.SMALL),
}


def rivals(fits: dict[str, xr.Dataset]) -> Figure:
    """Columns are heads, at most three: errors against units and synapses, and what has to settle.

    Below, of the first experiment: overlaps and energy of the associative memory. Means over inputs
    and seeds with 95 % intervals over both (of what settles over inputs, of the memory over seeds).
    """
    palette.apply()
    heads = [
        (fit, pair)
        for fit in fits.values()
        for pair in heads_run(fit["output_error"])[: max(1, MAX_HEADS // len(fits))]
    ][:MAX_HEADS] or [(next(iter(fits.values())), None)]
    figure = plt.figure(figsize=(palette.PAGE, 7.8))
    above, below = figure.subfigures(2, 1, height_ratios=(5.6, 2.2))
    axes = above.subplots(3, len(heads), squeeze=False, sharey="row")
    for column, (fit, pair) in zip(axes.T, heads):
        words = palette.head_name(fit, **pair) if pair else "no result"
        palette.title_of(column[0], fit, words)
        column[0].set_xlabel("units: hidden neurons or stored tokens")
        column[1].set_xlabel("synapses")
        column[2].set_xlabel("reading time over time constant")
        if pair:
            draw_errors(column[0], fit, pair, "units")
            draw_errors(column[1], fit, pair, "synapses")
            draw_lags(column[2], fit.sel(pair))
    for axis in axes[:2, 0]:
        axis.set_ylabel("relative output error")
    axes[2, 0].set_ylabel("relative output error\nof what has not settled")
    above.legend(
        handles=above_handles(),
        loc="outside right upper",
        title="bars: 95 % over inputs\nand seeds (below: inputs)",
    )
    draw_memory(below.subplots(1, 2), next(iter(fits.values())))
    below.legend(handles=below_handles(), loc="outside right upper", title="bars: 95 % over seeds")
    return figure


def above_handles() -> list:
    """Entries of the legend of the upper panels."""
    handles = [
        mark(words, marker, color=colour, **hollow(name))
        for name, (words, colour, marker) in (SIZED | FIXED).items()
    ]
    handles += [
        line(words, color="0.5", linestyle=dash, linewidth=0.8) for words, dash in LEVELS.values()
    ]
    handles += [line(words, color=colour, linestyle=dash) for words, colour, dash in LAGS.values()]
    return handles


def below_handles() -> list:
    """Entries of the legend of the lower panels."""
    handles = [line(words, color=colour) for words, colour in STARTS.values()]
    return handles + [
        line(words, color="0.35", linestyle=dash) for words, dash in PATTERNS.values()
    ]


def hollow(name: str) -> dict[str, Any]:
    """The look of marks that would otherwise be taken for another mechanism's."""
    return {"markerfacecolor": "white"} if name in HOLLOW else {}


def draw_errors(axis: Axes, fit: xr.Dataset, pair: dict[str, int], count: str) -> None:
    """Errors of one head against units or synapses; what is exact stands at the lower edge."""
    for name, (_, colour, marker) in SIZED.items():
        one = fit.sel(mechanism=name)
        middle, low, high = interval(one.sel(pair), "output_error")
        exact = middle < MIN_DRAWN
        shown = tuple(np.where(exact, MIN_DRAWN, x) for x in (middle, low.clip(MIN_DRAWN), high))
        x = one[count].values
        look = {"linestyle": "-", "linewidth": 0.8} | hollow(name)
        first = int(exact.argmax()) + 1 if exact.any() else len(x)  # all further ones are the same
        points(axis, x[:first], tuple(y[:first] for y in shown), colour, marker, **look)
    for name, (_, colour, marker) in FIXED.items():
        one = fit.sel(rival=name)
        triple = tuple(x[None] for x in interval(one.sel(pair), "rival_error"))
        points(axis, one[f"rival_{count}"].values[None], triple, colour, marker, markersize=5)
    for name, (_, dash) in LEVELS.items():
        level = float(fit["rival_error"].sel(rival=name, **pair))
        if np.isfinite(level):
            axis.axhline(level, color="0.5", linestyle=dash, linewidth=0.8, zorder=0)
    axis.set(xscale="log", yscale="log", ylim=(MIN_DRAWN * 0.8, 3))
    axis.annotate(
        "exact",
        (1, MIN_DRAWN),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=6,
    )


def draw_lags(axis: Axes, of_head: xr.Dataset) -> None:
    """Errors of calcium and gains that have not settled, against the time that a query is read."""
    ratio = of_head["ratio"].values
    for name, (_, colour, dash) in LAGS.items():
        triple = interval(of_head.sel(reading=name), "lag_error")
        drawn = triple[0] >= MIN_DRAWN
        if drawn.any():
            points(
                axis,
                ratio[drawn],
                tuple(x[drawn] for x in triple),
                colour,
                marker="",
                linestyle=dash,
                linewidth=1.0,
            )
    axis.axhline(0.1, color="0.75", linewidth=0.6, zorder=0)
    axis.set(xscale="log", yscale="log", ylim=(MIN_DRAWN * 0.8, 20))


def draw_memory(axes: np.ndarray, fit: xr.Dataset) -> None:
    """Overlaps and energy of the associative memory from both starts."""
    moment = fit["moment"].values
    later = moment > 0
    for name, (_, colour) in STARTS.items():
        one = fit.sel(start=name).isel(moment=later)
        for pattern, (_, dash) in PATTERNS.items():
            triple = interval(one.sel(pattern=pattern), "naam_overlap")
            points(axes[0], moment[later], triple, colour, marker="", linestyle=dash, linewidth=1.0)
        points(
            axes[1], moment[later], interval(one, "naam_energy"), colour, marker="", linestyle="-"
        )
    for axis in axes:
        axis.set(xscale="log", xlabel="time over time constant")
    palette.title(axes[0], "associative memory", "of neurons and astrocytes, not of a head")
    axes[0].set(ylabel="overlap of neurons", ylim=(-0.05, 1.08))
    palette.title(axes[1], "", "its energy falls from either start")
    axes[1].set_ylabel("energy per neuron")
