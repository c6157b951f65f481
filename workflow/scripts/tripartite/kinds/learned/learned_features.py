"""How much better is a trained hidden layer than a random one of the same size?"""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from tripartite.figures import palette
from tripartite.figures.panels import grid, interval, line, points

MAX_COLUMNS = 3  # experiments side by side
LOOKS = {  # colour, marker and line, and where marks stand beside their number of neurons
    "learned": (palette.COLOURS[0], "o", "-", 1.0),
    "random": (palette.COLOURS[1], "s", "-", 1.03),
    "uniform": (palette.EXACT, "", "--", 1.0),
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
    n_columns = min(MAX_COLUMNS, len(fits))
    width = max(palette.COLUMN, palette.PAGE * n_columns / 3)
    figure, axes = grid(
        len(fits), n_columns, lambda n_rows: (width, 0.6 + 2.2 * n_rows), sharey=True
    )
    for axis, fit in zip(axes, fits.values()):
        draw(axis, fit)
        axis.tick_params(labelleft=True)
    for axis in axes[::n_columns]:
        axis.set_ylabel(
            "divergence from softmax attention,\nmedian KL$(A\\,\\|\\,\\hat{A})$ (nats)"
        )
    handles = [
        line(LABELS[origin], color=colour, marker=marker, markersize=3, linestyle=style)
        for origin, (colour, marker, style, _) in LOOKS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if n_columns > 1 else 1)
    return figure


def draw(axis, fit: xr.Dataset) -> None:
    """One line per origin; the band or bar is the interval."""
    m = fit["n_features"].values
    wide = np.array([m[0] / 1.4, *m, m[-1] * 1.4])
    for origin, (colour, marker, style, shift) in LOOKS.items():
        triple = interval(fit.sel(origin=origin), "median_kl")
        if origin == "uniform":
            middle, low, high = (np.pad(x, 1, mode="edge") for x in triple)
            axis.plot(wide, middle, style, color=colour, zorder=2.2)  # over those of `points`
            axis.fill_between(wide, low, high, color=colour, alpha=0.12, linewidth=0)
        else:
            points(axis, m * shift, triple, colour, marker, linestyle=style)
    axis.set(xscale="log", xlim=(wide[0], wide[-1]))
    if (fit["median_kl"] > 0).any():  # attention to equal keys does not diverge
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_xticks(m, [str(size) for size in m])
    axis.minorticks_off()
    axis.set_xlabel("hidden neurons $m$")
    axis.yaxis.set_major_formatter("{x:g}")
    largest = fit.sel(origin="learned", n_features=m[-1])
    ratio, most, least = (10 ** -float(x) for x in interval(largest, "log10_kl_ratio"))
    words = f"random / trained at $m$ = {m[-1]}:\n{ratio:.2g}" if np.isfinite(ratio) else ""
    words += f" ({least:.2g} to {most:.2g})" if np.isfinite(most) else ""
    palette.title_of(axis, fit, words)
