"""What would electrodes and a calcium indicator see of the tripartite synapses of one head?"""

from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from tripartite.figures import palette
from tripartite.figures.panels import line

MAX_EXPERIMENTS = 2  # side by side
MAX_TOKENS = {1: 12, 2: 8}  # shown, from the first, by the number of experiments
MAX_LETTERS = 9  # of a word
MAX_LOG = 700.0  # ln of what float64 holds
ASTROCYTE = "#882255"
WRITE, READ = "#E4E4E4", "#CFE3F1"
ROWS = {
    "rates": "hidden rates $h$\n(1: highest)",
    "hebbian": "Hebbian\nsynapses $H$",
    "presynaptic": "weights $g$\nto astrocyte",
    "calcium": "astrocyte\nprocess $p$",
    "intracellular": "intracellular\nCa$^{2+}$ (µM)",
    "output_error": "relative error\nof the output",
}


class Cell(NamedTuple):
    """A token that is on from start to stop (s), written (r = 0) or read (r = 1)."""

    start: float
    stop: float
    r: int
    token: int


def synapse(fits: dict[str, xr.Dataset]) -> Figure:
    """The first tokens while written and while read: rates, synapses, calcium, error of the output.

    One network on one input, so that there are no intervals. The first two experiments side by
    side.
    """
    palette.apply()
    shown = list(fits.values())[:MAX_EXPERIMENTS]
    driven = any(fit["intracellular"].notnull().any() for fit in shown)
    rows = [name for name in ROWS if driven or name != "intracellular"]
    figure = plt.figure(figsize=(palette.PAGE, 2.0 + 0.85 * len(rows)))
    for column, fit in zip(figure.subfigures(1, len(shown), squeeze=False).flat, shown):
        draw(column, fit, rows, MAX_TOKENS[len(shown)])
    handles = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels())
    }
    colours = "colours: hidden neurons, and the word at which each fires most"
    handles[colours] = line(colours, alpha=0)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    return figure


def draw(column, fit: xr.Dataset, rows: list[str], n_shown: int) -> None:
    """One experiment: a window of time for each phase, or one for both if they alternate."""
    windows = token_windows(fit, n_shown)
    seconds = fit["seconds"].values
    parts = [
        fit.isel(sample=(seconds > cells[0].start) & (seconds < cells[-1].stop * (1 + 1e-9)))
        for cells in windows
    ]
    axes = column.subplots(
        len(rows) + 1,
        len(windows),
        squeeze=False,
        sharex="col",
        gridspec_kw={"height_ratios": [0.75] + [1] * len(rows)},
    )
    colours = peaks(parts)
    for cells, part, panels in zip(windows, parts, axes.T):
        draw_words(panels[0], fit["text"].values, cells, colours)
        for name, axis in zip(rows, panels[1:]):
            for cell in cells[1:]:
                axis.axvline(cell.start, color="0.9", linewidth=0.4, zorder=0)
            draw_row(axis, name, part, cells)
        panels[0].set_xlim(cells[0].start, cells[-1].stop)
        panels[-1].set_xlabel("time (s)")
    for name, panels in zip(rows, axes[1:]):
        panels[0].set_ylabel(ROWS[name])
        scale(panels, name, parts)
    for axis in axes[:-1].flat:
        axis.tick_params(bottom=False, labelbottom=False)
    for axis in axes[1:, 1:].flat:  # time is cut here
        axis.spines["left"].set_linestyle((0, (1, 2)))
    column.align_ylabels(axes[:, 0])
    name_panels(axes[0], fit)


def token_windows(fit: xr.Dataset, n_shown: int) -> list[list[Cell]]:
    """The first tokens in the order of time: a window to write and one to read, or one for both."""
    n_tokens = fit.sizes["token"]
    write, read = float(fit["token_seconds"]), float(fit["read_seconds"])
    shown = range(min(n_shown, n_tokens))
    if not alternates(fit):
        begin = n_tokens * write
        return [
            [Cell(t * write, (t + 1) * write, 0, t) for t in shown],
            [Cell(begin + t * read, begin + (t + 1) * read, 1, t) for t in shown],
        ]
    cells = []
    for t in shown:
        begin = t * (write + read)
        cells += [Cell(begin, begin + write, 0, t), Cell(begin + write, begin + write + read, 1, t)]
    return [cells]


def alternates(fit: xr.Dataset) -> bool:
    """True where tokens are read before all are written."""
    return bool((np.diff(fit["control"].values) < 0).any())


def peaks(parts: list[xr.Dataset]) -> dict[tuple[int, int], str]:
    """The colour of each neuron by the phase (r) and the token at which it fires most.

    Of several neurons with the same token the one with the highest rate counts.
    """
    r, token, rates = (
        np.concatenate([part[name].values for part in parts])
        for name in ("control", "token_on", "rates")
    )
    if not len(r):
        return {}
    sample = rates.argmax(0)[: len(palette.COLOURS)]
    rising = rates.max(0)[: len(sample)].argsort()
    return {(int(r[sample[i]]), int(token[sample[i]])): palette.COLOURS[i] for i in rising}


def draw_words(axis, text: np.ndarray, cells: list[Cell], colours: dict) -> None:
    """A field for each token with its word or number; of two fields the longer has the word."""
    longest = max(cell.stop - cell.start for cell in cells)
    for cell in cells:
        axis.axvspan(cell.start, cell.stop, color=READ if cell.r else WRITE, linewidth=0)
        axis.axvline(cell.start, color="white", linewidth=0.8)
        if cell.stop - cell.start < longest * (1 - 1e-9):
            continue
        word = str(text[cell.token]) or str(cell.token)
        word = word if len(word) <= MAX_LETTERS else word[: MAX_LETTERS - 1] + "…"
        colour = colours.get((cell.r, cell.token))
        if len({cell.r for cell in cells}) > 1:
            colour = colour or colours.get((1 - cell.r, cell.token))
        axis.text(
            (cell.start + cell.stop) / 2,
            0.5,
            palette.plain_text(word),
            rotation=90,
            ha="center",
            va="center",
            fontsize=6.5,
            color=colour or "black",
            weight="bold" if colour else "normal",
        )
    axis.set(ylim=(0, 1), yticks=[])
    axis.spines[:].set_visible(False)


def draw_row(axis, name: str, fit: xr.Dataset, cells: list[Cell]) -> None:
    """One quantity in one window of time."""
    seconds, values = fit["seconds"].values, fit[name].values
    if values.ndim == 2:
        for of_neuron, colour in zip(values.T, palette.COLOURS):
            axis.plot(seconds, of_neuron, color=colour, linewidth=0.8)
        return
    reads = [cell for cell in cells if cell.r]
    starts, stops = ([getattr(cell, end) for cell in reads] for end in ("start", "stop"))
    tokens = [cell.token for cell in reads]
    if name == "calcium":
        axis.plot(seconds, values, color=ASTROCYTE, label="astrocyte process $p$")
        log_exact = fit["log_normalizer"].values[tokens] - float(fit["log_calcium_unit"])
        exact = np.exp(np.where(log_exact < MAX_LOG, log_exact, np.nan))
        settled = fit["normalizer_network"].values[tokens]
        axis.hlines(
            settled,
            starts,
            stops,
            color=palette.EXACT,
            linewidth=0.9,
            label="normaliser of this network (algebra)",
        )
        axis.hlines(
            exact,
            starts,
            stops,
            color="0.55",
            linewidth=0.9,
            linestyle=":",
            label="exact softmax normaliser $Z$",
        )
    elif name == "output_error":
        if not reads:
            axis.text(
                0.5,
                0.5,
                "no output\nwhile writing",
                transform=axis.transAxes,
                ha="center",
                va="center",
                color="0.5",
                fontsize=6.5,
            )
        axis.plot(seconds, values, color=palette.COLOURS[0], label="output against exact attention")
        algebra = fit["output_error_algebra"].values[tokens]
        axis.hlines(
            algebra,
            starts,
            stops,
            color=palette.EXACT,
            linewidth=0.9,
            linestyle="--",
            label="the same of the algebra: finite number of hidden neurons",
        )
    else:
        axis.plot(seconds, values, color=ASTROCYTE)


def scale(panels, name: str, parts: list[xr.Dataset]) -> None:
    """One axis for calcium and for errors, which are logarithmic; for others an axis per window."""
    if name in ("rates", "presynaptic"):
        for axis in panels:
            axis.set_ylim(bottom=0)
    if name in ("rates", "presynaptic", "hebbian"):
        return
    for axis in panels[1:]:
        axis.sharey(panels[0])
        axis.tick_params(left=False, labelleft=False)
    shown = (name, "normalizer") if name == "calcium" else (name,)
    seen = np.concatenate([part[variable].values for part in parts for variable in shown])
    seen = seen[np.isfinite(seen)]
    if name == "output_error" and (seen > 0).any():
        lowest, highest = seen[seen > 0].min(), seen.max()
        panels[0].set_yscale("log")
        panels[0].set_ylim(max(lowest, 1e-4 * highest) / 1.5, highest * 1.5)
        panels[0].yaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if highest < 99 * lowest else (1,))
        )
        panels[0].yaxis.set_major_formatter("{x:g}")
        panels[0].minorticks_off()
    elif name == "calcium" and seen.any():
        panels[0].set_ylim(0, 1.1 * seen.max())
    elif name == "intracellular" and len(seen):
        edge = 0.05 * np.ptp(seen) or 0.01
        panels[0].set_ylim(seen.min() - edge, seen.max() + edge)


def name_panels(axes, fit: xr.Dataset) -> None:
    """What is shown, with all time constants, and the phase above each window."""
    name = palette.plain_text(str(fit["input"].values).replace("_", " "))
    place = f"{palette.head_name(fit, fit['layer'], fit['head'])}, $m$ = {int(fit['n_features'])}"
    symbols = {"h": "hidden", r"\ell": "last", "H": "hebbian", "g": "presynaptic", "p": "calcium"}
    times = [rf"$\tau_{x}$ = {duration(fit[f'tau_{key}'])}" for x, key in symbols.items()]
    write, read = (duration(fit[f"{phase}_seconds"]) for phase in ("token", "read"))
    n_tokens = fit.sizes["token"]
    phase = f"{n_tokens} tokens written,\n{write} each"
    if len(axes) == 1:
        phase = f"{n_tokens} tokens, each written ({write}, grey),\nthen read ({read}, blue)"
    else:
        axes[1].set_title(f"then read,\n{read} each", loc="left")
    palette.title_of(axes[0], fit, f"“{name}”, {place}\n{', '.join(times)}\n{phase}")


def duration(seconds: xr.DataArray) -> str:
    return f"{1000 * float(seconds):g} ms" if seconds < 1 else f"{float(seconds):g} s"
