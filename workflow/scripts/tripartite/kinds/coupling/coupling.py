"""Do gap junctions between astrocyte processes help or harm?"""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tripartite.figures import palette
from tripartite.figures.panels import interval, line, mark, spread

MAX_PANELS = 4  # side by side
MAX_SIZES = 4  # numbers of neurons in a panel
NO_COUPLING = 8  # kappa = 0 stands this factor below the weakest coupling


def coupling(fits: dict[str, xr.Dataset]) -> Figure:
    """Two panels per experiment and layout: errors of gain and output against the coupling kappa.

    Root mean squares over all heads with 95 % intervals over seeds, the law of the gain, and the
    best kappa with its interval.
    """
    palette.apply()
    panels = [(fit, str(layout)) for fit in fits.values() for layout in fit["layout"].values]
    n_columns = 2 if len(panels) < 3 else 3 if len(panels) == 3 else MAX_PANELS
    n_columns = min(n_columns, len(panels))
    n_blocks = -(-len(panels) // n_columns)
    figure, axes = plt.subplots(
        2 * n_blocks,
        n_columns,
        squeeze=False,
        figsize=(palette.PAGE if n_columns > 1 else palette.COLUMN, 0.8 + 3.6 * n_blocks),
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for place, (fit, layout) in enumerate(panels):
        block, column = divmod(place, n_columns)
        upper, lower = axes[2 * block : 2 * block + 2, column]
        one = fit.sel(layout=layout)
        palette.title_of(upper, fit, _words(one, layout))
        draw(upper, one, "gain")
        draw(lower, one, "output")
        if column == 0:
            upper.set_ylabel("gain error, rms of $p_i/Z - 1$")
            lower.set_ylabel("relative output error")
    grey = {"color": "0.3", "linewidth": 1}
    best = {"marker": "D", "markersize": 5, "markerfacecolor": "none"}
    handles = [
        mark("networks, bars: 95 % over seeds", color="0.3"),
        line("law of the gain error", **grey),
        line("its part that is mixed in from other heads", linestyle=":", **grey),
        line("best $\\kappa$, bar: 95 % over seeds", **best, **grey),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if n_columns > 1 else 1)
    return figure


def _words(one: xr.Dataset, layout: str) -> str:
    n_heads = int(one["gain_error_mixing"].notnull().any("strength").sum())
    rows, processes = int(one["rows"]), n_heads * int(one["processes"])
    size = f"{rows} × {processes // rows} grid" if layout == "grid" else f"chain of {processes}"
    return f"{n_heads} head{'s' * (n_heads != 1)} on a {size}"


def draw(axis, one: xr.Dataset, kind: str) -> None:
    """kind is gain or output."""
    axis.set_axis_on()
    kappa, m = one["strength"].values, one["n_features"].values
    smallest = kappa[kappa > 0][0]
    x = np.where(kappa > 0, kappa, smallest / NO_COUPLING)
    shown = spread(range(len(m)), MAX_SIZES)
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(shown)))
    best = "best_strength" if kind == "gain" else "best_output_strength"
    heights = []
    for place, (index, colour) in enumerate(zip(shown, colours)):
        of_size = one.isel(n_features=index)
        shifted = x * 1.06 ** (place - len(shown) / 2)
        middle, low, high = interval(of_size, f"{kind}_error_all")
        heights += [*middle, *low, *high]
        label = palette.power(np.log10(m[index]))
        axis.vlines(shifted, low, high, color=colour, linewidth=0.8)
        axis.plot(shifted, middle, "o", color=colour, markersize=2.8, label=label)
        if kind == "gain":
            law = _root_mean_square(of_size["gain_error_law"])
            axis.plot(x[kappa > 0], law[kappa > 0], color=colour, linewidth=0.9)
            axis.plot(x[kappa == 0], law[kappa == 0], "_", color=colour, markersize=9)
        draw_best(axis, of_size, best, x, kappa, middle, colour)
    if kind == "gain":
        mixing = _root_mean_square(one["gain_error_mixing"])
        seen = (kappa > 0) & (mixing > 0)
        axis.plot(x[seen], mixing[seen], ":", color="0.3")
    axis.set(xscale="log", xlim=(x[0] / 1.6, x[-1] * 1.6))
    heights = [y for y in heights if np.isfinite(y) and y > 0]
    if heights:
        low, high = min(heights) / 1.6, max(heights) * 1.6
        high *= (high / low) ** (0.35 if kind == "gain" else 0)  # room for the legend
        axis.set(yscale="log", ylim=(low, high))
        palette.few_decades(axis)
        axis.yaxis.set_major_formatter("{x:g}")
        if kind == "gain" and (one["gain_error_law"] > high).any():
            axis.annotate("law beyond ↑", (0.02, 0.03), xycoords="axes fraction")
    decades = 10.0 ** np.arange(np.floor(np.log10(smallest)), np.log10(x[-1]) + 0.01)
    decades = decades[decades >= smallest * 0.99][:: -(-len(decades) // 3)]
    zero = [x[0]] if kappa[0] == 0 else []
    axis.set_xticks([*zero, *decades], [*("0" for _ in zero), *(f"{d:g}" for d in decades)])
    axis.xaxis.set_minor_locator(NullLocator())
    if zero:
        gap = x[0] * NO_COUPLING**0.5
        axis.plot(
            [gap],
            [0],
            marker=(2, 0, -25),
            markersize=6,
            color="black",
            clip_on=False,
            transform=axis.get_xaxis_transform(),
        )
    axis.set_xlabel("coupling $\\kappa$")
    if kind == "gain":
        axis.legend(
            title="neurons per process",
            ncols=MAX_SIZES,
            loc="upper right",
            handletextpad=0,
            columnspacing=0.4,
            handlelength=1.2,
        ).set_in_layout(False)


def _root_mean_square(values: xr.DataArray) -> np.ndarray:
    """Root mean square over heads."""
    squares = np.square(values)
    return np.sqrt(squares.mean(("layer", "head"))).values  # type: ignore[arg-type]  # a DataArray


def draw_best(axis, of_size: xr.Dataset, name: str, x, kappa, middle, colour) -> None:
    """A diamond at the best strength, and a bar for its interval."""
    best, low, high = (float(x) for x in interval(of_size, name))
    if np.isnan(best):
        return
    place, *ends = (x[np.abs(kappa - value).argmin()] for value in (best, low, high))
    height = middle[np.abs(kappa - best).argmin()]
    axis.plot([place], [height], "D", color=colour, markersize=6, markerfacecolor="none")
    axis.plot(ends, [height] * 2, color=colour, linewidth=2, alpha=0.5, solid_capstyle="butt")
