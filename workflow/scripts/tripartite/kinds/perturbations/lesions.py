"""What does the loss of astrocyte, neurons and synapses do, and is it what the laws say?"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tripartite.figures import palette

HEADS = 4  # heads in a panel, from easy to hard
COLUMNS = 4
ADDED = "added error"
TOTAL = "error against softmax"


class Panel(NamedTuple):
    """Words for a kind of perturbation: title, dose, scale of the dose; variable drawn, its label, its law."""

    words: str
    dose: str
    scale: str = "linear"
    variable: str = "added_error"
    label: str = ADDED
    law: str = "-"


PANELS = {
    "knockout_none": Panel("calcium held constant", "constant calcium $p'$", "log", law="--"),
    "knockout_mean": Panel("calcium drawn to its mean", "share of its variation lost", law="--"),
    "knockout_lagged": Panel("calcium of an earlier token", "lag (tokens)", "integer", law="--"),
    "astrocyte_inputs": Panel("contacts are lost", "share of inputs lost $c$"),
    "unensheathed": Panel("synapses without astrocyte", "share of synapses outside $f$"),
    "synapses": Panel("synapses are lost", "share of synapses lost $c$"),
    "neurons": Panel(
        "hidden neurons die", "share of neurons lost $c$", "linear", "output_error", TOTAL
    ),
}
CALCIUM = {  # kinds whose gain is drawn, short
    "knockout_none": "constant",
    "knockout_mean": "mean",
    "knockout_lagged": "earlier",
    "astrocyte_inputs": "inputs lost",
    "unensheathed": "no sheath",
}


def lesions(fits: dict[str, xr.Dataset]) -> Figure:
    """Dose and response of every lesion, a panel each, and the gain of the output; rows per experiment.

    Root mean squares over inputs and seeds with 95 % intervals over seeds; laws are lines.
    """
    gain = ("gain of the output", lambda fit: any(kind in CALCIUM for kind in kinds_of(fit)))
    return dose_responses(
        fits, PANELS, COLUMNS, "no lesions in this experiment", (*gain, draw_gain)
    )


def kinds_of(fit: xr.Dataset) -> list[str]:
    return [str(kind) for kind in fit["perturbation"].values]


def dose_responses(
    fits: dict[str, xr.Dataset],
    panels: dict[str, Panel],
    n_columns: int,
    nothing: str,
    last: tuple[str, Callable, Callable] | None = None,
) -> Figure:
    """A panel for each kind in `panels` that an experiment has, experiments one below the other.

    last is the title of one more panel, whether an experiment has it, and what draws it.
    """
    palette.apply()
    drawn = {}
    for name, fit in fits.items():
        found = [(draw_doses, panels[kind].words, kind) for kind in panels if kind in kinds_of(fit)]
        if last and last[1](fit):
            found.append((last[2], last[0], None))
        drawn[name] = found
    rows = [-(-len(found) // n_columns) for found in drawn.values()]
    figure = plt.figure(figsize=(palette.PAGE, 0.55 + sum(1.75 * n + 0.45 for n in rows)))
    ratios = [ratio for n in rows for ratio in [1] * n + [0.15]]  # legends have rows of their own
    grid, top = figure.add_gridspec(len(ratios), n_columns, height_ratios=ratios), 0
    for n_rows, (name, found) in zip(rows, drawn.items()):
        fit, heads = fits[name], chosen(fits[name])
        cells = [grid[top + place // n_columns, place % n_columns] for place in range(len(found))]
        for place, (cell, (draw, words, kind)) in enumerate(zip(cells, found)):
            axis = figure.add_subplot(cell)
            draw(axis, fit, heads, panels.get(kind), kind)
            palette.title_of(axis, fit if place == 0 else None, words)
        below = figure.add_subplot(grid[top + n_rows, :])
        below.set_axis_off()
        if found:
            head_legend(below, fit, heads)
        else:
            palette.title_of(below, fit, nothing)
        top += n_rows + 1
    look = {"color": "0.35", "linewidth": 0.9}
    handles = [
        plt.Line2D(
            [],
            [],
            color="0.35",
            marker="o",
            markersize=3,
            linestyle="",
            label="simulated (bars: 95 %)",
        ),
        Patch(color="0.35", alpha=0.18, linewidth=0, label="error before, against softmax (95 %)"),
        plt.Line2D([], [], **look, label="law, nothing fitted"),
    ]
    others = {
        "--": "the same done to softmax attention",
        ":": "uniform rounding errors (no law)",
    }
    for style, words in others.items():
        if any(panel.law == style for panel in panels.values()):
            handles.append(plt.Line2D([], [], linestyle=style, **look, label=words))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4,
        columnspacing=1,
        title="added error: change of the output over the output before, $|O'-\\hat{O}|\\,/\\,|\\hat{O}|$",
    )
    return figure


def chosen(fit: xr.Dataset) -> list[tuple[int, int]]:
    """Places (layer, head) of the heads that are drawn, from the lowest unperturbed error."""
    error = fit["output_error_unperturbed"].values[-1]
    run = [tuple(int(x) for x in at) for at in np.argwhere(np.isfinite(error))]
    run.sort(key=lambda at: (error[at], at))
    if len(run) > HEADS:
        run = [run[i] for i in np.linspace(0, len(run) - 1, HEADS).round().astype(int)]
    return run


def head_legend(axis, fit: xr.Dataset, heads: list[tuple[int, int]]) -> None:
    """Name the colours of the heads, and say of which networks they are."""
    handles = [
        plt.Line2D(
            [],
            [],
            color=palette.COLOURS[rank],
            marker=palette.MARKERS[rank],
            markersize=3,
            label=palette.head_name(fit, fit["layer"][layer], fit["head"][head]),
        )
        for rank, (layer, head) in enumerate(heads)
    ]
    n_run = int(np.isfinite(fit["output_error_unperturbed"].values[-1]).sum())
    some = f"{len(heads)} of {n_run} heads, " if n_run > len(heads) else ""
    axis.legend(
        handles=handles,
        loc="center",
        ncols=HEADS,
        handlelength=1.6,
        title=f"{some}networks of $m$ = {fit['n_features'].values[-1]} neurons",
    )


def ends(one: xr.Dataset, name: str, n: int = 3) -> tuple[np.ndarray, ...]:
    """Value, low and high, or the first n of them; NaN where one is beyond what can be drawn."""
    found = (one[name + end].values for end in ("", "_low", "_high")[:n])
    return tuple(np.where(np.abs(x) < 1e100, x, np.nan) for x in found)


def draw_doses(axis, fit: xr.Dataset, heads: list, panel: Panel, kind: str) -> None:
    """Points with bars for each head, the law as a line, and the unperturbed error as a band."""
    one = fit.sel(perturbation=kind).isel(n_features=-1)
    used = np.isfinite(one["dose"].values)
    order = np.flatnonzero(used)[np.argsort(one["dose"].values[used], kind="stable")]
    one = one.isel(point=order)
    dose = one["dose"].values
    positive = False
    for rank, (layer, head) in enumerate(heads):
        own, colour = one.isel(layer=layer, head=head), palette.COLOURS[rank]
        middle, low, high = ends(own, panel.variable)
        positive |= bool((middle > 0).any())
        axis.vlines(dose, low, high, color=colour, linewidth=0.8)
        axis.plot(dose, middle, palette.MARKERS[rank], color=colour, markersize=2.8)
        draw_law(axis, own, panel, dose, colour)
        if panel.variable != "gain":
            _, below, above = ends(own, "output_error_unperturbed")
            axis.axhspan(below, above, color=colour, alpha=0.15, linewidth=0)
    if panel.variable != "gain" and positive:
        axis.set_yscale("log")
        palette.few_decades(axis)
    axis.set(xlabel=panel.dose, ylabel=panel.label)
    if panel.scale == "log":
        axis.set_xscale("log")
        if len(dose) and dose[-1] < 50 * dose[0]:
            axis.set_xticks(dose, [f"{x:g}" for x in dose])
            axis.minorticks_off()
    if panel.scale == "integer":
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(dose) == 1:
        axis.set_xticks(dose, [f"{dose[0]:g}"])
        axis.minorticks_off()


def draw_law(axis, own: xr.Dataset, panel: Panel, dose: np.ndarray, colour: str) -> None:
    look = {"color": colour, "linewidth": 0.9, "zorder": 1.5}
    if panel.variable == "gain":
        low, high = own["gain_law_low"].values, own["gain_law_high"].values
        axis.fill_between(dose, low, high, color=colour, alpha=0.3, linewidth=0.6)
        return
    law = ends(own, "added_error_uniform" if panel.law == ":" else f"{panel.variable}_law", 1)[0]
    axis.plot(dose, law, ("_" if len(dose) == 1 else "") + panel.law, markersize=12, **look)


def draw_gain(axis, fit: xr.Dataset, heads: list, panel: None, kind: None) -> None:
    """Median gain at the largest dose of each kind: thin, how it spreads over queries (one sd of its ln)."""
    shown = [kind for kind in CALCIUM if kind in kinds_of(fit)]
    labels = []
    for place, name in enumerate(shown):
        one = fit.sel(perturbation=name).isel(n_features=-1)
        point = int(np.nanargmax(one["dose"].values))
        labels.append(f"{CALCIUM[name]} ({one['dose'].values[point]:g})")
        for rank, (layer, head) in enumerate(heads):
            own = one.isel(point=point, layer=layer, head=head)
            y = place + 0.7 * ((rank + 0.5) / len(heads) - 0.5)
            middle, low, high = (float(x) for x in ends(own, "gain"))
            factor = float(np.exp(min(float(own["sd_log_gain"]), 200.0)))
            colour = palette.COLOURS[rank]
            axis.hlines(y, middle / factor, middle * factor, color=colour, linewidth=0.6)
            axis.hlines(y, low, high, color=colour, linewidth=2.2, alpha=0.6)
            axis.plot(middle, y, palette.MARKERS[rank], color=colour, markersize=2.8)
            axis.plot(float(own["gain_law"]), y, "|", color=palette.EXACT, markersize=5)
    axis.axvline(1, color=palette.EXACT, linewidth=0.6, linestyle=":")
    axis.set_xscale("log")
    axis.set_yticks(range(len(shown)), labels)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlabel("median gain\n(black: law, thin: sd)")
