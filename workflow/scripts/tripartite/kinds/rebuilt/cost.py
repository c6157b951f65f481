"""What one token costs a network of neurons and astrocytes, beside a chip and a brain."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tripartite.figures import palette
from tripartite.figures.panels import grid, line, mark

MAX_COLUMNS = 2
TISSUE, NEUROMORPHIC = palette.LARGE, palette.COLOURS[0]
# A band from the low to the high estimate, by its variable: how it is drawn, and its words.
BANDS: dict[str, tuple[dict[str, Any], str]] = {
    "cost_tissue": ({"color": TISSUE, "alpha": 0.35}, "network, living tissue"),
    "cost_neuromorphic": (
        {"facecolor": "none", "edgecolor": NEUROMORPHIC, "hatch": "////"},
        "network, neuromorphic chip",
    ),
    "cost_chip": ({"color": "0.25", "alpha": 0.45}, "network, digital chip"),
}
SOFTMAX = {"-": 1000, "--": 100_000}  # tokens of context, by the style of the line
NEEDS = (palette.EXACT, palette.COLOURS[6])  # of the first recipe and of the last
MIN_ENERGY = 1e-14  # J: room for marks
ROWS = (0.09, 0.02)  # heights of their marks
BRAIN: dict[str, Any] = {"color": palette.COLOURS[2], "alpha": 0.4}


def cost(fits: dict[str, xr.Dataset]) -> Figure:
    """Energy of one token against the neurons of a head, a panel per experiment.

    Bands reach from the low to the high estimate of all assumptions together. Marks at the foot are
    the neurons that heads need for a 10 % rms error of the normaliser, by the first recipe and by
    the last one that has a closed form; those beyond the axis stand at its end. Titles count heads
    with needs within what a brain has: its energy for one word, if all heads of the network had as
    many neurons (high to low estimate), and the neurons of a cortex.
    """
    palette.apply()
    n_columns = min(MAX_COLUMNS, len(fits))
    width = palette.PAGE * n_columns / MAX_COLUMNS
    figure, axes = grid(
        len(fits),
        n_columns,
        lambda n_rows: (width, 0.2 + 1.4 / n_columns + 2.3 * n_rows),
        sharex=True,
        sharey=True,
    )
    for place, (axis, fit) in enumerate(zip(axes, fits.values())):
        palette.title_of(axis, fit, words_of(fit))
        axis.set(xscale="log", yscale="log")
        draw_costs(axis, fit)
        draw_needs(axis, fit)
        axis.tick_params(labelleft=True)
        if place + n_columns >= len(fits):
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("hidden neurons $m$ of each head")
    for axis in axes[::n_columns]:
        axis.set_ylabel("energy of one token (J)")
    figure.legend(handles=legend(), loc="outside lower center", ncols=n_columns)
    return figure


def draw_costs(axis: Axes, fit: xr.Dataset) -> None:
    """Bands of one model, lines of exact attention, and what a brain and a cortex have."""
    m = 10 ** fit["log10_features"].values
    axis.fill_between(m[[0, -1]], *fit["cost_brain"].values, linewidth=0, **BRAIN)
    for name, (look, _) in BANDS.items():
        axis.fill_between(m, *fit[name].values, **{"linewidth": 0.5} | look)
    low, high = fit["cost_tissue"].values
    axis.plot(m, low, color=TISSUE)
    axis.plot(m, high, color=TISSUE)
    for style, context in SOFTMAX.items():
        softmax = float(fit["cost_chip_softmax"].sel(estimate="low", context=context))
        axis.axhline(softmax, linestyle=style, color=palette.EXACT)
    axis.axvline(10 ** float(fit["log10_cortical_neurons"]), color="0.35", linestyle=":")
    axis.set_xlim(m[0], m[-1])
    axis.set_ylim(MIN_ENERGY)


def draw_needs(axis: Axes, fit: xr.Dataset) -> None:
    """A row of marks at the foot for each recipe: the needs of heads, within the axis."""
    low, high = fit["log10_features"].values[[0, -1]]
    look: dict[str, Any] = {"markersize": 5, "markeredgewidth": 0.4, "clip_on": False}
    across = axis.get_xaxis_transform()
    for name, height, colour in zip(recipes(fit), ROWS, NEEDS):
        needs = fit["log10_features_needed"].sel(recipe=name).values.clip(low, high).ravel()
        place = np.full(needs.size, height)
        axis.plot(10**needs, place, "|", transform=across, color=colour, **look)


def recipes(fit: xr.Dataset) -> list[str]:
    """The first recipe with a closed form, and the last one if it is another."""
    known = fit["log10_features_needed"].notnull().any(("layer", "head")).values
    names = [str(name) for name in fit["recipe"].values[known]]
    return [*dict.fromkeys(names[:1] + names[-1:])]


def words_of(fit: xr.Dataset) -> str:
    """How many heads need no more neurons than a brain has energy for, and than a cortex has."""
    lines = []
    for name in recipes(fit):
        needs = fit["log10_features_needed"].sel(recipe=name).values
        fewest, most = (
            int((needs <= float(fit["log10_affordable_features"].sel(estimate=estimate))).sum())
            for estimate in ("high", "low")
        )
        there = int((needs <= float(fit["log10_cortical_neurons"])).sum())
        by_energy = f"{fewest} to {most} of {needs.size} heads by energy"
        lines.append(f"{name}: {by_energy}, {there} by neurons")
    return "\n".join(lines)


def legend() -> list[Line2D | Patch]:
    """What bands, lines and marks mean."""
    bands = [Patch(**look, label=f"{words} (low to high)") for look, words in BANDS.values()]
    look: dict[str, Any] = {"marker": "|", "markersize": 6}
    return [
        *bands,
        Patch(**BRAIN, linewidth=0, label="brain, one word (low to high)"),
        *(
            line(
                f"softmax, $10^{n:.0f}$ tokens, digital chip (low)",
                linestyle=style,
                color=palette.EXACT,
            )
            for style, n in zip(SOFTMAX, np.log10([*SOFTMAX.values()]))
        ),
        line("$m$ that takes all neurons of a human cortex", color="0.35", linestyle=":"),
        *(
            mark(f"needs of heads, {which} line of the title", color=colour, **look)
            for which, colour in zip(("first", "second"), NEEDS)
        ),
    ]
