"""As which softmax attention does a network of m neurons behave?"""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import heads_by, interval, line, mark

MAX_COLUMNS = 3
MAX_HEADS = 6  # in a panel


def effective_temperature(fits: dict[str, xr.Dataset]) -> Figure:
    """Two panels per experiment: inverse temperatures, and what explanations leave unexplained.

    Upper: inverse temperature against m with 95 % intervals over inputs and seeds, and its
    prediction. Lower: what each explanation leaves unexplained, and how often AIC prefers it.
    """
    palette.apply()
    n_columns = 2 if len(fits) == 4 else min(MAX_COLUMNS, len(fits))
    n_rows = -(-len(fits) // n_columns)
    figure, axes = plt.subplots(
        2 * n_rows,
        n_columns,
        squeeze=False,
        figsize=(palette.PAGE if n_columns > 1 else palette.COLUMN, 3.9 * n_rows),
        height_ratios=[1.6, 1] * n_rows,
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for place, fit in enumerate(fits.values()):
        row, column = divmod(place, n_columns)
        draw_temperatures(axes[2 * row, column], fit)
        draw_explanations(axes[2 * row + 1, column], fit, labels=column == 0)
    handles = [
        mark("fitted (bars: 95 %)", color="0.35"),
        line("random-energy model, one shift fitted", color="0.35", linestyle="--"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def draw_temperatures(axis, fit: xr.Dataset) -> None:
    axis.set_axis_on()
    m = fit["n_features"].values
    temperature = fit.sel(explanation="temperature")
    heads = heads_by(fit["sigma_squared"].values, MAX_HEADS)
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, max(len(heads), 1)))
    for rank, (place, colour) in enumerate(zip(heads, colours)):
        head = temperature.isel(dict(zip(("layer", "head"), place)))
        shifted = m * 1.05 ** (rank - len(heads) / 2)
        middle, low, high = interval(head, "inverse_temperature")
        axis.plot(
            m, head["inverse_temperature_predicted"].values, "--", color=colour, linewidth=0.8
        )
        axis.vlines(shifted, low, high, color=colour, linewidth=0.8)
        label = f"{float(head['sigma_squared']):.1f}"
        axis.plot(shifted, middle, "o", color=colour, markersize=3, label=label)
    axis.axhline(1, color=palette.EXACT, linewidth=0.6, linestyle=":")
    axis.set(xscale="log", ylim=(0, 1.25), xlim=(m[0] / 1.6, m[-1] * 1.6))
    axis.set_xlabel("hidden neurons $m$")
    axis.set_ylabel("inverse temperature $\\beta$")
    shift = "shift {:.2f} [{:.2f}, {:.2f}]".format(*interval(fit, "reach_shift"))
    words = shift if np.isfinite(fit["reach_shift"]) else "no shift fitted"
    palette.title_of(axis, fit, words.replace("-", "−"))
    if heads:
        axis.legend(
            title="$\\sigma^2$", ncols=3, loc="lower right", handletextpad=0.1
        ).set_in_layout(False)


def draw_explanations(axis, fit: xr.Dataset, labels: bool) -> None:
    """Divergence at the largest m, mean over heads; beside it how often AIC prefers it."""
    axis.set_axis_on()
    last = fit.isel(n_features=-1)
    kl, best = (last[name].mean(("layer", "head")).values for name in ("kl", "share_best"))
    y = np.arange(len(kl))[::-1]
    axis.barh(y, np.nan_to_num(kl), height=0.6, color=palette.SMALL)
    for place, value, share in zip(y, kl, best):
        text = "not fitted" if np.isnan(value) else f"{100 * share:.0f} %"
        axis.annotate(
            text,
            (np.nan_to_num(value), place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=6,
        )
    names = [str(name) for name in fit["explanation"].values]
    axis.set_yticks(y, names if labels else [""] * len(names))
    axis.set_xlim(0, max(np.nanmax(kl, initial=0) * 1.25, 1e-6))
    axis.set_xlabel(
        f"unexplained (nat) at $m$ = {palette.power(np.log10(fit['n_features'].values[-1]))};\n"
        "best by AIC in … of networks"
    )
