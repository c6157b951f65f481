"""Gap junctions between astrocyte processes: a better gain, and what becomes of the output."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tripartite.figures import palette
from tripartite.figures.panels import heads_run, interval, line, mark, points, spread

MAX_PANELS = 4  # side by side
MAX_SIZES = 4  # numbers of neurons in a panel
NO_COUPLING = 14  # kappa = 0 stands this factor below the weakest coupling
WIDEST = 12.0  # change, up and down, that is drawn
GAIN, OUTPUT = "0.55", palette.COLOURS[1]
PARTS = {  # parts of the squared error of the output
    "attention_error": (palette.COLOURS[0], "o", "of the attention, if its weights summed to 1"),
    "sum_error": (palette.COLOURS[3], "s", "of the sum of the weights"),
}


def coupling(fits: dict[str, xr.Dataset]) -> Figure:
    """Three panels per experiment and layout, against the coupling kappa.

    Upper: change of the error of gain and output of the largest networks, a thin line per head, and
    geometric means over heads with 95 % intervals over inputs, seeds and heads. Middle: that of the
    output in networks of all sizes, with the heads that get better and worse. Lower: the two parts
    of the squared error of the output, medians over heads.
    """
    palette.apply()
    panels = [(fit, str(layout)) for fit in fits.values() for layout in fit["layout"].values]
    n_columns = min(len(panels), MAX_PANELS if len(panels) != 6 else 3)
    n_blocks = -(-len(panels) // n_columns)
    figure, axes = plt.subplots(
        3 * n_blocks,
        n_columns,
        squeeze=False,
        figsize=(palette.PAGE if n_columns > 1 else palette.COLUMN, 1.0 + 5.0 * n_blocks),
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for place, (fit, layout) in enumerate(panels):
        block, column = divmod(place, n_columns)
        own = axes[3 * block : 3 * block + 3, column]
        one = fit.sel(layout=layout)
        palette.title_of(own[0], fit, _words(one, layout))
        for axis, draw in zip(own, (draw_changes, draw_sizes, draw_parts)):
            axis.set_axis_on()
            draw(axis, one)
            scale(axis, one["strength"].values)
        if column == 0:
            own[0].set_ylabel("error over that at $\\kappa=0$")
            own[1].set_ylabel("output error over that at $\\kappa=0$")
            own[2].set_ylabel("part of squared output error,\nover the whole at $\\kappa=0$")
    grey = {"color": "0.3", "linewidth": 0.9}
    handles = [
        line("gain, $p/Z-1$", marker="o", markersize=3, color=GAIN),
        line("output", marker="o", markersize=3, color=OUTPUT),
        line("thin: single heads, largest networks", color="0.3", linewidth=0.4),
        mark("mean over heads, bars: 95 % over inputs, seeds, heads", color="0.3"),
        *(line(words, color=colour, marker=m, markersize=3) for colour, m, words in PARTS.values()),
        line("law of these parts, no free parameter", linestyle="--", **grey),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if n_columns > 1 else 1)
    return figure


def _words(one: xr.Dataset, layout: str) -> str:
    n_heads = len(heads_run(one["output_error"]))
    rows, processes = int(one["rows"]), n_heads * int(one["processes"])
    heads = f"{n_heads} head{'s' * (n_heads != 1)}"
    return {
        "separate": f"{heads}, each a\nchain of its own {int(one['processes'])}",
        "chain": f"{heads} on one\nchain of {processes}",
        "grid": f"{heads} on a\n{rows} × {processes // rows} grid",
    }[layout]


def draw_changes(axis, one: xr.Dataset) -> None:
    """Gain and output of the largest networks: heads, and their geometric mean."""
    largest = one.isel(n_features=-1)
    x = places(one["strength"].values)
    for name, colour in (("gain", GAIN), ("output", OUTPUT)):
        for pair in heads_run(one["output_error"]):
            change = largest[f"{name}_change"].sel(pair)
            axis.plot(x, change, color=colour, linewidth=0.4, alpha=0.7)
        points(axis, x, interval(largest, f"{name}_change_all"), colour, linestyle="-", zorder=3)
    limits(axis, [largest["gain_change"], largest["output_change"]])
    size = palette.power(np.log10(int(largest["n_features"])))
    axis.annotate(f"$m$ = {size}", (0.03, 0.04), xycoords="axes fraction", fontsize=6)


def draw_sizes(axis, one: xr.Dataset) -> None:
    """Output at each size, and how many heads get worse (above) and better (below)."""
    kappa, m = one["strength"].values, one["n_features"].values
    shown = spread(range(len(m)), MAX_SIZES)
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(shown)))
    for place, (index, colour) in enumerate(zip(shown, colours)):
        of_size = one.isel(n_features=index)
        x = places(kappa) * 1.08 ** (place - (len(shown) - 1) / 2)
        label = palette.power(np.log10(m[index]))
        triple = interval(of_size, "output_change_all")
        points(axis, x, triple, colour, linestyle="-", linewidth=0.8, label=label)
    limits(axis, [one["output_change_all"], one["output_change_all_low"]], room=0.3)
    last = one.isel(n_features=-1)
    for name, height, vertical in (("worse", 0.98, "top"), ("better", 0.02, "bottom")):
        words = {"transform": axis.get_xaxis_transform(), "va": vertical, "fontsize": 5.5}
        axis.text(places(kappa)[0] / 1.5, height, name, **words)
        for x, n in zip(places(kappa)[1:], last[f"output_{name}"].values[1:]):
            axis.text(x, height, str(n), ha="center", **words)
    axis.legend(
        title="$m$",
        ncols=MAX_SIZES,
        loc="upper left",
        bbox_to_anchor=(0, 0.93),
        handletextpad=0.2,
        columnspacing=0.6,
        handlelength=0.8,
        fontsize=5.5,
        title_fontsize=5.5,
    ).set_in_layout(False)


def draw_parts(axis, one: xr.Dataset) -> None:
    """Medians over heads of the two parts in the largest networks, and their laws."""
    largest = one.isel(n_features=-1)
    x = places(one["strength"].values)
    plain = np.square(largest["output_error"].isel(strength=0))
    drawn, laws = [], []
    for name, (colour, marker, _) in PARTS.items():
        share = (np.square(largest[name]) / plain).median(("layer", "head")).values
        law = (np.square(largest[f"{name}_law"]) / plain).median(("layer", "head")).values
        axis.plot(x, share, marker, color=colour, markersize=3)
        axis.plot(x[1:], law[1:], "--", color=colour, linewidth=0.9)
        drawn.append(share)
        laws.append(law[-1])
    top = 1.15 * np.nanmax([*np.concatenate(drawn), 0], initial=0)
    axis.set_ylim(0, top or 1)
    if max(laws) > top:
        axis.annotate("law beyond ↑", (0.03, 0.93), xycoords="axes fraction", fontsize=6)


def places(kappa: np.ndarray) -> np.ndarray:
    """Where strengths stand: 0, the first, at some distance below the least one."""
    return np.where(kappa > 0, kappa, kappa[1] / NO_COUPLING)


def limits(axis, drawn: list[xr.DataArray], room: float = 0.05) -> None:
    """A log axis around 1 that shows the values, with room in shares of its height."""
    values = np.concatenate([x.values.ravel() for x in drawn] + [np.ones(1)])
    values = values[np.isfinite(values) & (values > 0)].clip(1 / WIDEST, WIDEST)
    low, high = np.log([values.min(), values.max()]) + [-0.05, 0.05]
    axis.set_ylim(*np.exp([low - room * (high - low), high + room * (high - low)]))
    axis.set_yscale("log")  # with limits already, as what is drawn may be 0
    ticks = [t for t in (0.1, 0.2, 0.5, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10)]
    low, high = axis.get_ylim()
    ticks = [t for t in ticks if low <= t <= high]
    near = [t for t in ticks if high / low < 2.5 or t not in (0.8, 0.9, 1.1, 1.2, 1.5)]
    axis.set_yticks(near, [f"{t:g}" for t in near])
    axis.minorticks_off()
    axis.axhline(1, color="0.8", linewidth=0.6, zorder=0)


def scale(axis, kappa: np.ndarray) -> None:
    """The axis of kappa: logarithmic, and 0 behind a break."""
    x = places(kappa)
    axis.set(xscale="log", xlim=(x[0] / 1.8, x[-1] * 1.8), xlabel="coupling $\\kappa$")
    decades = 10.0 ** np.arange(np.floor(np.log10(kappa[1])), np.log10(x[-1]) + 0.01)
    decades = decades[decades >= kappa[1] * 0.99][:: -(-len(decades) // 3)]
    axis.set_xticks([x[0], *decades], ["0", *(f"{d:g}" for d in decades)])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.plot(
        [x[0] * NO_COUPLING**0.5],
        [0],
        marker=(2, 0, -25),
        markersize=6,
        color="black",
        clip_on=False,
        transform=axis.get_xaxis_transform(),
    )
