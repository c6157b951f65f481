"""Do gap junctions between astrocyte processes make the gain better, and the output?"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import captions, palette
from tripartite.figures.panels import (
    PART,
    beyond,
    estimates,
    frame,
    grid,
    heads_run,
    legend,
    line,
    spread,
)

MAX_COLUMNS = 3  # experiments and layouts side by side
MAX_LINES = 60  # single heads in a panel
MAX_NUMBERS = 9  # of heads, written in a panel
MAX_SIZES = 3  # numbers of neurons in a panel
TOP = 2.5  # error over that at kappa = 0 that is drawn
WORSE, BETTER = palette.CATEGORIES[1], palette.CATEGORIES[3]
CHANGES = ("output_change", "gain_change")


def coupling(fits: dict[str, xr.Dataset]) -> Figure:
    """Errors over those at kappa = 0 against the coupling, a column for each experiment and layout.

    Upper: the output, and how many heads get significantly worse and better. Lower: the gain.
    """
    palette.apply()
    drawn = table(fits)
    columns = _columns(fits)
    n = min(len(columns), MAX_COLUMNS)
    width = palette.PAGE if n > 1 else palette.COLUMN
    rows = {"sharex": "col", "sharey": "row", "height_ratios": [1.4, 0.55, 1]}
    figure, axes = grid(3 * n, n, 40, 34, width=width, **rows)
    for (name, layout), upper, counts, lower in zip(columns, axes, axes[n:], axes[2 * n :]):
        fit = fits[name].sel(layout=layout)
        own = drawn[(drawn["experiment"] == name) & (drawn["layout"] == layout)]
        for axis, quantity in zip((upper, lower), CHANGES):
            draw_changes(axis, own, quantity)
        draw_counts(counts, own, len(heads_run(fit["output_error"])))
        palette.title_of(upper, fit, _words(fit))
        _scale(upper, fit["strength"].values)
        lower.set_xlabel("coupling $\\kappa$")
    lowest = drawn["output_change"].min()
    axes[0].set_ylim(min(0.9, lowest - 0.05) if lowest > 0.5 else 0, _top(drawn["output_change"]))
    axes[2 * n].set_ylim(0, _top(drawn["gain_change"]))
    axes[0].set_ylabel("output error over\nthat at $\\kappa$ = 0")
    axes[n].set_ylabel("heads")
    axes[2 * n].set_ylabel("gain error over\nthat at $\\kappa$ = 0")
    title = f"{n} of {len(columns)} layouts shown" if n < len(columns) else None
    bar = {"linewidth": 4, "solid_capstyle": "butt"}
    n_heads = max(len(heads_run(fits[name]["output_error"])) for name, _ in columns[:n])
    words = f"{MAX_LINES} of {n_heads} heads" if n_heads > MAX_LINES else "single heads"
    single = line(f"{words}, largest $m$", color=palette.GUIDE, linewidth=0.5)
    entries = [
        *([single] if n_heads else []),
        line("heads with a worse output", color=WORSE, **bar),
        line("heads with a better output", color=BETTER, **bar),
    ]
    legend(figure, entries, ncols=3 if n > 1 else 1, title=title)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Errors over those at kappa = 0: geometric means of heads for each size, and single heads.

    Single heads have a layer and a head, and the largest n_features. Means have the numbers of
    heads whose interval is above 1 (output_worse) and below 1 (output_better).
    """
    means = frame(fits, *(f"{name}_all" for name in CHANGES), "output_worse", "output_better")
    means = means.rename(columns=lambda name: name.replace("_change_all", "_change"))
    heads = frame({name: fit.isel(n_features=[-1]) for name, fit in fits.items()}, *CHANGES)
    return pd.concat([means, heads], ignore_index=True)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Errors at the strongest coupling over those at kappa = 0, in the largest networks."""
    means, sentences = table(fits).query("head.isna()"), []
    for name, layout in _columns(fits)[:MAX_COLUMNS]:
        own = means[(means["experiment"] == name) & (means["layout"] == layout)]
        own = own[own["n_features"] == own["n_features"].max()].sort_values("strength")
        own = own.dropna(subset=CHANGES[0])
        one = fits[name].sel(layout=layout)
        words = " ".join(f"{one.attrs['data']}, {_words(one)}".split())
        if own.empty:
            sentences.append(f"{words}: no known error.")
            continue
        weakest, strongest = own[own["strength"] > 0].iloc[0], own.iloc[-1]
        gain, output = (
            captions.interval(*(strongest[f"{what}{end}"] for end in ("", "_low", "_high")))
            for what in reversed(CHANGES)
        )
        sentences.append(
            f"{words}: at κ = {strongest['strength']:g} and m = {strongest['n_features']:g} gain "
            f"errors are × {gain} and output errors × {output}; outputs are worse in "
            f"{strongest['output_worse']:g} heads and better in {strongest['output_better']:g}, at "
            f"κ = {weakest['strength']:g} in {weakest['output_worse']:g} and "
            f"{weakest['output_better']:g}."
        )
    return " ".join(sentences)


def draw_changes(axis: Axes, drawn: pd.DataFrame, quantity: str) -> None:
    """Means over heads by size, of the largest networks with intervals; heads as thin lines."""
    axis.axhline(1, color=palette.GUIDE, linestyle="--", linewidth=0.8, zorder=1)
    means = drawn[drawn["head"].isna()]
    single = drawn[drawn["head"].notna()]
    curves = single.pivot(index="strength", columns=["layer", "head"], values=quantity)
    for one in spread(range(curves.shape[1]), MAX_LINES):
        axis.plot(curves.iloc[:, one], color=palette.GUIDE, linewidth=0.5)
    look = palette.look_of(drawn["data"].iloc[0], drawn["data"])
    sizes = [int(m) for m in sorted(means["n_features"].unique())]
    highest = [*curves.max()]
    for m in spread(sizes, MAX_SIZES):
        own = means[means["n_features"] == m]
        ends = [] if m == sizes[-1] else [f"{quantity}_low", f"{quantity}_high"]
        colour = palette.colour_of_size(m)
        estimates(
            "strength",
            quantity,
            data=own.drop(columns=ends),
            axis=axis,
            color=colour,
            marker=look.marker,
            markeredgecolor=palette.KEY,
            markeredgewidth=0.5,
            linestyle="-",
            label=f"mean of heads, $m$ = {m}",
            zorder=3,
        )
        highest.append(own[quantity].max())
    beyond(axis, int((np.array(highest) > TOP).sum()), len(highest), "upper left", "curves")


def draw_counts(axis: Axes, drawn: pd.DataFrame, n_heads: int) -> None:
    """How many heads have a worse output (up) and a better one (down), in the largest networks."""
    axis.set_label(PART)
    largest = drawn[drawn["n_features"] == drawn["n_features"].max()]
    largest = largest[largest["head"].isna() & (largest["strength"] > 0)]
    for name, sign, colour in (("worse", 1, WORSE), ("better", -1, BETTER)):
        n = largest[f"output_{name}"].astype(int)
        axis.vlines(largest["strength"], 0, sign * n, color=colour, linewidth=4)
        step = -(-len(n) // MAX_NUMBERS)
        for x, number in zip(largest["strength"][::step], n[::step]):
            axis.annotate(
                str(number),
                (x, sign * number),
                xytext=(0, sign * 2),
                textcoords="offset points",
                ha="center",
                va="bottom" if sign > 0 else "top",
                fontsize=6.5,
            )
    axis.axhline(0, color=palette.EXACT, linewidth=0.6)
    axis.set_ylim(-1.6 * max(n_heads, 1), 1.6 * max(n_heads, 1))
    axis.set_yticks([-n_heads, n_heads] if n_heads else [0], [str(n_heads)] * (1 + bool(n_heads)))


def _top(values: pd.Series) -> float:
    """Upper end of an axis of changes."""
    return float(np.clip(1.05 * min(np.nan_to_num(values.max(), nan=1.0), TOP), 1.2, TOP))


def _columns(fits: dict[str, xr.Dataset]) -> list[tuple[str, str]]:
    """Every experiment and layout."""
    return [(name, str(layout)) for name, fit in fits.items() for layout in fit["layout"].values]


def _words(one: xr.Dataset) -> str:
    """How the processes of a layout lie."""
    n_heads, own = len(heads_run(one["output_error"])), int(one["processes"])
    rows, processes = int(one["rows"]), n_heads * own
    heads = f"{n_heads} head{'s' * (n_heads != 1)}"
    return {
        "separate": f"{heads}, each with\na chain of {own} processes",
        "chain": f"{heads} on one\nchain of {processes} processes",
        "grid": f"{heads} on a grid of\n{rows} × {processes // max(rows, 1)} processes",
    }[str(one["layout"].values)]


def _scale(axis: Axes, kappa: np.ndarray) -> None:
    """The axis of kappa: linear from 0 to the weakest coupling, then logarithmic."""
    weakest, strongest = kappa[1], kappa[-1]
    axis.set_xscale("symlog", linthresh=weakest, linscale=0.5)
    axis.set_xlim(-0.4 * weakest, 2.5 * strongest)
    decades = 10.0 ** np.arange(np.ceil(np.log10(weakest) - 1e-9), np.log10(strongest) + 1e-9)
    ticks = [0, *decades[:: -(-len(decades) // 5)]]
    axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axis.minorticks_off()
