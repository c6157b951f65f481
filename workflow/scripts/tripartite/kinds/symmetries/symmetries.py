"""Neurons that heads need before and after fits to some inputs: a slope chart for each model."""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import interval

LIMITS = (2, 25)  # log10 of neurons
MAX_LOG10_FEW = 5  # of the neurons that are few, as in calibrate
SHOWN = {  # each adds to the one before
    "plain": "as they are",
    "centred": "centred",
    "centred, balanced": "and balanced",
    "generalized": "and one width\nof hidden weights",
    "fitted normal": "or a width for\neach direction",
}


def symmetries(fits: dict[str, xr.Dataset]) -> Figure:
    """From left to right more is fitted to queries and keys; lines are heads, on the tested inputs.

    Points are medians over heads. Below: what is fitted, and the median change of log10 m with its
    95 % interval over inputs and heads. Above: how many heads need at most 10^5 neurons.
    """
    palette.apply()
    figure, axes = plt.subplots(
        1,
        len(fits),
        squeeze=False,
        sharey=True,
        figsize=(max(palette.COLUMN, palette.PAGE * min(len(fits), 3) / 3), 3.9),
    )
    for axis, fit in zip(axes.flat, fits.values()):
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
        words = f"{needed.shape[1]} heads; with at most $10^{MAX_LOG10_FEW}$ neurons:\n"
        palette.title_of(axis, fit, words)
    axes[0, 0].set_ylabel(
        "log$_{10}$ hidden neurons\nfor 10 % rms normaliser error\n(median query)"
    )
    return figure


def _change(x: float) -> str:
    """With one decimal; with three digits where queries of huge norm make it long."""
    return f"{x:+.1f}" if not abs(x) >= 1000 else f"{x:+.3g}"
