"""Is there a better mechanism? Errors of the network and its rivals, and how fast they settle."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from tripartite.figures import palette
from tripartite.figures.panels import heads_run, interval, line, mark, points, spread

MAX_HEADS = 2  # side by side
EXACT = 1e-9  # error below which a mechanism is exact, and drawn at the lower edge
MIN_LAG = 1e-3  # error below which nothing is drawn of what settles
N_BARS = 6  # of the associative memory
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
    """Columns are heads, at most two: errors against units and synapses, and what has to settle.

    Below, of the first experiment: overlaps and energy of the associative memory. Means over inputs
    and seeds with 95 % intervals over both (of what settles over inputs, of the memory over seeds).
    """
    palette.apply()
    heads: list[tuple[xr.Dataset, dict[str, int]]] = [
        (fit, pair)
        for fit in fits.values()
        for pair in heads_run(fit["output_error"])[: max(1, MAX_HEADS // len(fits))]
    ][:MAX_HEADS]
    heads = heads or [(next(iter(fits.values())), {})]
    figure = plt.figure(figsize=(palette.PAGE, 7.4))
    parts = figure.subfigures(3, 1, squeeze=False, height_ratios=(3.9, 1.7, 1.8))
    above, middle, below = parts[:, 0]
    options: dict[str, Any] = {"ncols": len(heads), "squeeze": False, "sharey": True}
    axes = np.concatenate([above.subplots(2, **options), middle.subplots(1, **options)])
    lowest = lowest_error([fit.sel(pair) for fit, pair in heads if pair])
    for column, (fit, pair) in zip(axes.T, heads):
        words = palette.head_name(fit, **pair) if pair else "no result"
        palette.title_of(column[0], fit, words)
        column[0].set_xlabel("units: hidden neurons or stored tokens")
        column[1].set_xlabel("synapses")
        column[2].set_xlabel("reading time over time constant")
        if pair:
            draw_errors(column[0], fit, pair, "units", lowest / 2)
            draw_errors(column[1], fit, pair, "synapses", lowest / 2)
            draw_lags(column[2], fit.sel(pair))
    for axis in axes[:2, 0]:
        axis.set_ylabel("relative output error")
    axes[2, 0].set_ylabel("relative output error")
    legend(above, mechanism_handles(), "bars: 95 % over inputs\nand seeds")
    lag_handles = [
        line(words, color=colour, linestyle=dash) for words, colour, dash in LAGS.values()
    ]
    legend(middle, lag_handles, "what has not settled,\nexact otherwise\n(bars: 95 % over inputs)")
    draw_memory(below.subplots(1, 2), next(iter(fits.values())))
    memory_handles = [line(words, color=colour) for words, colour in STARTS.values()]
    memory_handles += [line(words, color="0.35", linestyle=x) for words, x in PATTERNS.values()]
    legend(below, memory_handles, "bars: 95 % over seeds")
    return figure


def legend(part: SubFigure, handles: list, title: str) -> None:
    """A legend on the right of a part, all of the same width."""
    part.legend(
        handles=handles,
        title=title,
        loc="outside right upper",
        alignment="left",
        handlelength=1.6,
    )


def mechanism_handles() -> list:
    """Entries of the legend of the errors."""
    handles = [
        mark(words, marker, color=colour, **hollow(name))
        for name, (words, colour, marker) in (SIZED | FIXED).items()
    ]
    look = {"color": "0.5", "linewidth": 0.8}
    return handles + [line(words, linestyle=dash, **look) for words, dash in LEVELS.values()]


def lowest_error(of_heads: list[xr.Dataset]) -> float:
    """The least error that is drawn and not exact."""
    every = [fit[name].values for fit in of_heads for name in ("output_error_low", "rival_error")]
    values = np.concatenate([x.ravel() for x in every]) if every else np.empty(0)
    values = values[values > EXACT]
    return float(max(values.min(), 1e-4)) if len(values) else 0.1


def hollow(name: str) -> dict[str, Any]:
    """The look of marks that would otherwise be taken for another mechanism's."""
    return {"markerfacecolor": "white"} if name in HOLLOW else {}


def draw_errors(
    axis: Axes, fit: xr.Dataset, pair: dict[str, int], count: str, bottom: float
) -> None:
    """Errors of one head against units or synapses; what is exact stands at the lower edge."""
    for name, (_, colour, marker) in SIZED.items():
        one = fit.sel(mechanism=name)
        triple = interval(one.sel(pair), "output_error")
        exact = triple[0] < EXACT
        shown = [np.where(exact, bottom, x) for x in triple]
        drawn = slice(int(exact.argmax()) + 1 if exact.any() else None)  # then all are the same
        look = {"linestyle": "-", "linewidth": 0.8} | hollow(name)
        x = one[count].values[drawn]
        points(axis, x, tuple(y[drawn] for y in shown), colour, marker, **look)
    for name, (_, colour, marker) in FIXED.items():
        one = fit.sel(rival=name)
        error = tuple(x[None] for x in interval(one.sel(pair), "rival_error"))
        points(axis, one[f"rival_{count}"].values[None], error, colour, marker, markersize=5)
    for name, (_, dash) in LEVELS.items():
        level = float(fit["rival_error"].sel({"rival": name, **pair}))
        if np.isfinite(level):
            axis.axhline(level, color="0.5", linestyle=dash, linewidth=0.8, zorder=0)
    axis.set(xscale="log", yscale="log", ylim=(bottom * 0.8, 3))
    axis.annotate(
        "lower edge: exact",
        (1, bottom),
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
        drawn = triple[0] >= MIN_LAG
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
    axis.set(xscale="log", yscale="log", ylim=(MIN_LAG * 0.8, 3))


def draw_memory(axes: np.ndarray, fit: xr.Dataset) -> None:
    """Overlaps and energy of the associative memory from both starts."""
    fit = fit.isel(moment=slice(1, None))  # the axis is logarithmic
    barred = spread([*range(fit.sizes["moment"])], N_BARS)

    def draw(axis: Axes, one: xr.Dataset, name: str, colour: str, dash: str) -> None:
        axis.plot(one["moment"], one[name], color=colour, linestyle=dash, linewidth=1.0)
        few = one.isel(moment=barred)
        points(axis, few["moment"].values, interval(few, name), colour, marker="")

    for name, (_, colour) in STARTS.items():
        one = fit.sel(start=name)
        for pattern, (_, dash) in PATTERNS.items():
            draw(axes[0], one.sel(pattern=pattern), "naam_overlap", colour, dash)
        draw(axes[1], one, "naam_energy", colour, "-")
    for axis in axes:
        axis.set(xscale="log", xlabel="time over time constant")
    palette.title(axes[0], "associative memory", "of neurons and astrocytes, not of a head")
    axes[0].set(ylabel="overlap of neurons", ylim=(-0.05, 1.08))
    palette.title(axes[1], "", "its energy falls from either start")
    axes[1].set_ylabel("energy per neuron")
