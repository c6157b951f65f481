"""Where networks are among the phases of the estimate, and what holds there."""

from itertools import cycle

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy.special import ndtr

from tripartite.figures import palette
from tripartite.figures.panels import interval, mark

SIGMA_SQUARED = (0.1, 200)
LOG10_M = (0.2, 7.5)
REACH = (-6.5, 4.5)
MAX_BROAD_BARS = 12  # heads with exponents in one phase; the bars of more would hide one another
DODGE = 0.06  # of log10 of m
COLOURS = {"frozen": "#0072B2", "anomalous": "#E69F00", "gaussian": "#009E73"}


def phase_diagram(fits: dict[str, xr.Dataset]) -> Figure:
    """Three panels: the phases with the networks in them, the collapse of p / Z, and exponents.

    Each point is a head at one m, at its sigma^2 = ln R (median over queries); colour is the median
    of p / Z; data of one m stand a little above one another. Lines: m = exp(sigma^2 / 2) and m =
    exp(2 sigma^2), the borders for the log-normal rates of plain hidden weights.
    """
    palette.apply()
    figure = plt.figure(figsize=(palette.PAGE, 5.8))
    grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    styles = list(zip(fits.values(), cycle(palette.COLOURS), cycle(palette.MARKERS)))
    draw_map(figure, figure.add_subplot(grid[:, 0]), styles, palette.labels(fits))
    draw_collapse(figure.add_subplot(grid[0, 1]), styles)
    draw_exponents(figure.add_subplot(grid[1, 1]), styles)
    return figure


def draw_map(figure: Figure, axis, styles: list, labels: list[str]) -> None:
    sigma_squared = np.geomspace(*SIGMA_SQUARED, 300)
    for factor, words in ((0.5, "$m = e^{\\sigma^2/2}$"), (2, "$m = e^{2\\sigma^2}$")):
        border = factor * sigma_squared / np.log(10)
        axis.plot(sigma_squared, border, color=palette.EXACT, linewidth=1)
        place = 6.2 * np.log(10) / factor, 6.2
        axis.annotate(words, place, xytext=(4, 0), textcoords="offset points", va="center")
    names = {"Gaussian": (0.3, 7.2), "anomalous": (16.6, 7.2), "frozen": (90, 0.9)}
    for words, place in names.items():
        axis.annotate(words, place, weight="bold", ha="center", va="center", fontsize=6.5)
    norm, beyond, handles = mpl.colors.Normalize(0, 1), 0, []
    for row, ((fit, _, marker), label) in enumerate(zip(styles, labels)):
        x = np.broadcast_to(fit["sigma_squared"].values, fit["normalizer_ratio"].shape)
        y = np.broadcast_to(np.log10(fit["n_features"].values)[:, None, None], x.shape)
        run = fit["normalizer_ratio"].notnull().values & np.isfinite(x)
        y = y + DODGE * row  # so that data of one size do not hide one another
        beyond += int((x[run] > SIGMA_SQUARED[1]).sum())
        axis.scatter(
            x[run],
            y[run],
            c=fit["normalizer_ratio"].values[run],
            norm=norm,
            cmap="cividis",
            marker=marker,
            s=14,
            linewidths=0.2,
            edgecolors="white",
            zorder=3,
        )
        handles.append(mark(label, marker, color="0.35", markersize=4))
    axis.set(xscale="log", xlim=SIGMA_SQUARED, ylim=LOG10_M)
    axis.set_xlabel("$\\sigma^2 = \\ln R$ of a head (median query)")
    axis.set_ylabel("log$_{10}$ hidden neurons $m$")
    if beyond:
        axis.annotate(f"{beyond} beyond →", (0.99, 0.02), xycoords="axes fraction", ha="right")
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    scale = mpl.cm.ScalarMappable(norm, "cividis")
    figure.colorbar(
        scale,
        ax=axis,
        orientation="horizontal",
        aspect=40,
        pad=0.01,
        label="response over normaliser $p / Z$ (median over queries and seeds)",
    )


def draw_collapse(axis, styles: list) -> None:
    x = np.linspace(*REACH, 200)
    axis.plot(x, ndtr(x), color=palette.EXACT, label="$\\Phi(b_m - \\sigma)$")
    for fit, colour, marker in styles:
        reach, ratio = fit["reach"].values.ravel(), fit["normalizer_ratio"].values.ravel()
        axis.plot(reach, ratio, marker, color=colour, markersize=1.8, markeredgewidth=0)
        shift, low, high = interval(fit, "collapse_shift")
        if np.isfinite(shift):
            text = f"moved by {shift:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")
            axis.plot(x, ndtr(x + shift), "--", color=colour, linewidth=0.8)
            axis.plot(
                [], [], "--", marker=marker, color=colour, linewidth=0.8, markersize=2.5, label=text
            )
    axis.set(xlim=REACH, yscale="log", ylim=(1e-4, 2))
    axis.set_xlabel("$b_m - \\sigma$")
    axis.set_ylabel("$p / Z$ (median)")
    axis.legend(loc="lower right", fontsize=5.5, handlelength=2.5).set_in_layout(False)


def draw_exponents(axis, styles: list) -> None:
    axis.axhline(-0.5, color=palette.EXACT, linewidth=0.8)
    for fit, _, marker in styles:
        for phase, colour in COLOURS.items():
            x = fit["sigma_squared"].values.ravel()
            middle, low, high = (
                values.ravel() for values in interval(fit.sel(phase=phase), "exponent")
            )
            broad = np.isfinite(middle).sum() <= MAX_BROAD_BARS
            axis.vlines(x, low, high, color=colour, linewidth=0.7 if broad else 0.2)
            size = 3 if broad else 1.5
            axis.plot(x, middle, marker, color=colour, markersize=size, markeredgewidth=0)
    for phase, colour in COLOURS.items():
        axis.plot([], [], "o", color=colour, markersize=3, label=phase)
    axis.set(xscale="log", xlim=SIGMA_SQUARED, ylim=(-0.62, 0.12))
    axis.set_xlabel("$\\sigma^2$")
    axis.set_ylabel("exponent of the typical error in $m$")
    axis.legend(loc="upper left", title="fitted inside one phase").set_in_layout(False)
