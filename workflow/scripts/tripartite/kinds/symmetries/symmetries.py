"""Neurons that heads need before and after fits to some inputs: a slope chart for each model."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import interval, line

FILLED: dict[str, Any] = {"marker": "o", "linestyle": "", "color": palette.LARGE, "markersize": 3}
OPEN = FILLED | {"marker": "s", "markerfacecolor": "white"}
LIMITS = (2, 25)  # log10 of neurons
MAX_LOG10_FEW = 5  # of the neurons that are few, as in calibrate
SHOWN = {  # each adds to the one before
    "plain": "as they are",
    "centred": "centred",
    "centred, balanced": "and balanced",
    "centred, balanced, one width": "and one width\nof hidden weights",
    "centred, balanced, width of each direction": "or a width for\neach direction",
}
PARTS = {  # what each thing brings alone, and added to those before it
    "centring": ("centred", "centred"),
    "balancing": ("balanced", "centred, balanced"),
    "one width": ("one width", "centred, balanced, one width"),
    "a width for\neach direction": (
        "width of each direction",
        "centred, balanced, width of each direction",
    ),
}


def symmetries(fits: dict[str, xr.Dataset]) -> Figure:
    """What is fitted to queries and keys, in order (above) and by itself (below), on tested inputs.

    Above: lines are heads, points medians over heads; the median change of log10 m with its 95 %
    interval over inputs and distinct heads; how many heads need at most 10^5 neurons. Below: the
    median reduction by each thing alone, and by adding it to those before it; on the right, heads
    that need more with it alone than as they are.
    """
    palette.apply()
    figure, (axes, below) = plt.subplots(
        2,
        len(fits),
        squeeze=False,
        sharey="row",
        height_ratios=(2.2, 1),
        figsize=(max(palette.COLUMN, palette.PAGE * min(len(fits), 3) / 3), 5.6),
    )
    for axis, fit in zip(below, fits.values()):
        draw_parts(axis, fit)
    below[0].set_yticks(np.arange(len(PARTS)), list(PARTS))
    handles = [line("alone", **FILLED), line("added to those above it (in order)", **OPEN)]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    for axis, fit in zip(axes, fits.values()):
        fit = fit.sel(recipe=list(SHOWN))
        tested = fit["role"].values == "tested"
        medians = fit["log10_features_needed"].isel(input=tested).median("input")
        needed = medians.stack(point=("layer", "head")).transpose("recipe", "point").values
        needed = needed[:, np.isfinite(needed).all(0)]  # heads to which everything could be fitted
        place = np.arange(len(SHOWN))
        axis.plot(place, needed, color="0.6", linewidth=0.3, alpha=0.6)
        middle = np.median(needed, 1) if needed.shape[1] else np.full(len(place), np.nan)
        axis.plot(place, middle, "o-", color=palette.LARGE, markersize=4, linewidth=1.2, zorder=3)
        axis.axhline(MAX_LOG10_FEW, color=palette.EXACT, linewidth=0.6, linestyle=":")
        labels = []
        for x, (recipe, words) in enumerate(SHOWN.items()):
            of_recipe = fit.sel(recipe=recipe)
            axis.annotate(
                str(int(of_recipe["heads_with_few"])),
                (x, 1),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                fontsize=6.5,
            )
            if x:
                middle, low, high = map(float, interval(of_recipe, "reduction_all"))
                words += f"\n{_change(-middle)} [{_change(-high)}, {_change(-low)}]"
            labels.append(words.replace("-", "−"))
        axis.set_xticks(place, labels, rotation=90, fontsize=6)
        axis.set(ylim=LIMITS, xlim=(-0.4, place[-1] + 0.4))
        words = f"{needed.shape[1]} heads; with at most\n$10^{MAX_LOG10_FEW}$ neurons:\n"
        palette.title_of(axis, fit, words)
    axes[0].set_ylabel("log$_{10}$ hidden neurons\nfor 10 % rms normaliser error\n(median query)")
    return figure


def draw_parts(axis: Axes, fit: xr.Dataset) -> None:
    """Reductions by each thing alone and added to those before, with 95 % intervals."""
    axis.axvline(0, color=palette.EXACT, linewidth=0.6)
    alone, added = (list(recipes) for recipes in zip(*PARTS.values()))
    for recipes, shift, look in ((alone, -0.15, FILLED), (added, 0.15, OPEN)):
        middle, low, high = interval(fit.sel(recipe=recipes), "reduction_step")
        place = np.arange(len(PARTS)) + shift
        axis.hlines(place, low, high, color=palette.LARGE, linewidth=0.8)
        axis.plot(middle, place, **look)
    n_heads = int((fit["note"] == "").sum())
    for y, recipe in enumerate(alone):
        axis.annotate(
            f"{int(fit['heads_worse'].sel(recipe=recipe))} / {n_heads}",
            (1, y),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="center",
            fontsize=6,
        )
    axis.set_title("heads worse alone", loc="right", fontsize=6)
    axis.set(ylim=(len(PARTS) - 0.5, -0.5), xlabel="reduction of log$_{10}$ $m$")
    left, right = axis.get_xlim()
    axis.set_xlim(left, right + 0.25 * (right - left))  # leaves room for the numbers


def _change(x: float) -> str:
    """With one decimal; with three digits where queries of huge norm make it long."""
    return f"{x:+.1f}" if not abs(x) >= 1000 else f"{x:+.3g}"
