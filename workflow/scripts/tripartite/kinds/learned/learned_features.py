"""How much better is a trained hidden layer than random ones of the same size, or than none?"""

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from tripartite.figures import palette
from tripartite.figures.panels import interval, line, points

MAX_COLUMNS = 3  # experiments side by side
LOOKS = {  # colour, marker and line, and where marks stand beside their number of neurons
    "learned": (palette.COLOURS[0], "o", "-", 1.0),
    "random": (palette.COLOURS[1], "s", "-", 1.04),
    "fitted random": (palette.COLOURS[2], "^", "-", 0.96),
    "uniform": (palette.EXACT, "", "--", 1.0),
}
LABELS = {
    "learned": "trained hidden layer",
    "random": "random hidden layer",
    "fitted random": "random, fitted to the same inputs",
    "uniform": "equal attention to all keys read",
}


def learned_features(fits: dict[str, xr.Dataset]) -> Figure:
    """Divergence from softmax attention against hidden neurons, a column per experiment.

    Medians over test inputs, heads and seeds with 95 % intervals; below, the share of heads that
    are better than equal attention, by divergence and by the error of the output.
    """
    palette.apply()
    n_columns = min(MAX_COLUMNS, len(fits))
    n_rows = -(-len(fits) // n_columns)
    figure, axes = plt.subplots(
        2 * n_rows,
        n_columns,
        squeeze=False,
        sharey="row",
        figsize=(max(palette.COLUMN, palette.PAGE * n_columns / 3), 0.7 + 3.5 * n_rows),
        gridspec_kw={"height_ratios": [2, 1.2] * n_rows},
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for place, fit in enumerate(fits.values()):
        row, column = divmod(place, n_columns)
        upper, lower = axes[2 * row : 2 * row + 2, column]
        for axis in (upper, lower):
            axis.set_axis_on()
            axis.tick_params(labelleft=True)
        draw_divergence(upper, fit)
        draw_shares(lower, fit)
        if column == 0:
            upper.set_ylabel("median KL$(A\\,\\|\\,\\hat{A})$ (nats)")
            lower.set_ylabel("share better than\nequal attention")
    handles = [
        line(LABELS[origin], color=colour, marker=marker, markersize=3, linestyle=style)
        for origin, (colour, marker, style, _) in LOOKS.items()
    ]
    grey = {"color": "0.35", "marker": "o", "markersize": 3}
    handles += [
        line("share of heads by divergence", **grey),
        line("by error of the output", linestyle=":", markerfacecolor="white", **grey),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if n_columns > 1 else 1)
    return figure


def draw_divergence(axis, fit: xr.Dataset) -> None:
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
    if (fit["median_kl"] > 0).any():  # attention to equal keys does not diverge
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    of_sizes(axis, m)
    axis.yaxis.set_major_formatter("{x:g}")
    words = [f"times the trained one's at $m$ = {m[-1]}:"]
    for baseline in fit["baseline"].values:
        largest = fit.sel(origin="learned", n_features=m[-1], baseline=baseline)
        ratio, most, least = (10 ** -float(x) for x in interval(largest, "log10_kl_ratio"))
        if np.isfinite(ratio):
            ends = f" ({least:.2g} to {most:.2g})" if np.isfinite(most) else ""
            words.append(f"{baseline} {ratio:.2g}{ends}")
    palette.title_of(axis, fit, "\n".join(words) if len(words) > 1 else "")


def draw_shares(axis, fit: xr.Dataset) -> None:
    """Share of heads of each origin that are better than equal attention, by both measures."""
    m = fit["n_features"].values
    for of_measure, (name, style) in enumerate((("kl", "-"), ("output_error", ":"))):
        for origin, (colour, marker, _, shift) in LOOKS.items():
            if origin == "uniform":
                continue
            of_origin = fit.sel(origin=origin, baseline="uniform")
            x = m * shift * (1.08 if of_measure else 1.0)
            fill = "white" if of_measure else colour
            look = {"linestyle": style, "markerfacecolor": fill, "markeredgewidth": 0.7}
            triple = interval(of_origin, f"share_of_heads_{name}")
            points(axis, x, triple, colour, marker, linewidth=0.9, elinewidth=0.6, **look)
    axis.set_ylim(-0.04, 1.04)
    axis.set_xlabel("hidden neurons $m$")
    of_sizes(axis, m)


def of_sizes(axis, m: np.ndarray) -> None:
    """A logarithmic axis with a tick for each number of neurons."""
    axis.set(xscale="log", xlim=(m[0] / 1.4, m[-1] * 1.4))
    axis.set_xticks(m, [str(size) for size in m])
    axis.minorticks_off()
