"""How much better is a trained hidden layer than a random one of the same size?"""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from tripartite.figures import palette

MOST = 3  # experiments in a row
LOOKS = {  # colour, marker, and where it stands beside its number of neurons
    "learned": (palette.COLOURS[0], "o", 1.0),
    "random": (palette.COLOURS[1], "s", 1.03),
    "uniform": (palette.EXACT, "", 1.0),
}
LABELS = {
    "learned": "trained hidden layer",
    "random": "random hidden layer",
    "uniform": "equal attention to all tokens",
}


def learned_features(fits: dict[str, xr.Dataset]) -> Figure:
    """Divergence from softmax attention against hidden neurons, one panel per experiment.

    Medians over test inputs, heads and seeds with 95 % intervals.
    """
    palette.apply()
    n_columns = min(MOST, len(fits))
    n_rows = -(-len(fits) // n_columns)
    figure, axes = plt.subplots(
        n_rows,
        n_columns,
        squeeze=False,
        sharey=True,
        figsize=(max(palette.COLUMN, palette.PAGE * n_columns / 3), 0.6 + 2.2 * n_rows),
    )
    for axis in axes.flat[len(fits) :]:
        axis.set_axis_off()
    for axis, fit in zip(axes.flat, fits.values()):
        draw(axis, fit)
        axis.tick_params(labelleft=True)
    for axis in axes[:, 0]:
        axis.set_ylabel(
            "divergence from softmax attention,\nmedian KL$(A\\,\\|\\,\\hat{A})$ (nats)"
        )
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3 if n_columns > 1 else 1)
    return figure


def draw(axis, fit: xr.Dataset) -> None:
    """One line per origin; the band or bar is the interval."""
    m = fit["n_features"].values
    wide = np.array([m[0] / 1.4, *m, m[-1] * 1.4])
    for origin, (colour, marker, shift) in LOOKS.items():
        one = fit.sel({"origin": origin})
        middle, low, high = (one[f"median_kl{end}"].values for end in ("", "_low", "_high"))
        if origin == "uniform":
            middle, low, high = (np.pad(x, 1, mode="edge") for x in (middle, low, high))
            axis.plot(wide, middle, "--", color=colour, label=LABELS[origin])
            axis.fill_between(wide, low, high, color=colour, alpha=0.12, linewidth=0)
            continue
        axis.plot(m * shift, middle, marker + "-", color=colour, markersize=3, label=LABELS[origin])
        axis.errorbar(
            m * shift,
            middle,
            np.maximum((middle - low, high - middle), 0),
            fmt="none",
            color=colour,
            elinewidth=0.8,
        )
    axis.set(xscale="log", xlim=(wide[0], wide[-1]))
    if (fit["median_kl"] > 0).any():  # attention to equal keys does not diverge
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_xticks(m, [str(size) for size in m])
    axis.minorticks_off()
    axis.set_xlabel("hidden neurons $m$")
    axis.yaxis.set_major_formatter("{x:g}")
    largest = fit.sel({"origin": "learned", "n_features": m[-1]})
    ratio, most, least = (
        10 ** -float(largest[f"log10_kl_ratio{end}"]) for end in ("", "_low", "_high")
    )
    words = f"random / trained at $m$ = {m[-1]}:\n{ratio:.2g}" if np.isfinite(ratio) else ""
    words += f" ({least:.2g} to {most:.2g})" if np.isfinite(most) else ""
    palette.title_of(axis, fit, words)
