"""What would electrodes and a calcium indicator see of the tripartite synapses of one head?"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from tripartite.figures import palette
from tripartite.figures.panels import PART, legend

MAX_TOKENS = 12  # shown, from the first
MAX_LETTERS = 9  # of a word
MAX_SAMPLES = 2000  # in a window of time
MAX_LOG = 700.0  # ln of what float64 holds
STYLES = ("-", "--", ":")  # of hidden neurons h1 to h3
EXACT = "softmax normaliser $Z$ (exact)"
SETTLED = "this network once settled: no time constants, leaks or saturation"
TIMES = ("hidden", "hebbian", "presynaptic", "calcium", "last")  # time constants
MODELS = {"li_rinzel_nest": "Li-Rinzel model", "g_chi": "G-ChI model"}


class Row(NamedTuple):
    """A quantity: column of the table (# stands for the neuron), name of its axis, colour."""

    column: str
    label: str
    colour: str


ROWS = {
    "rates": Row("rate h#", "rate $h$\n(relative)", palette.PARTS["hidden"]),
    "hebbian": Row("synapse H#", "synapse $H$\n(relative)", palette.PARTS["hebbian"]),
    "presynaptic": Row("weight g#", "weight $g$\n(relative)", palette.PARTS["presynaptic"]),
    "calcium": Row("process p", "process $p$\n(relative)", palette.PARTS["astrocyte"]),
    "intracellular": Row("calcium (umol/L)", "Ca$^{2+}$ (µM)", palette.PARTS["astrocyte"]),
    "output_error": Row("output error", "relative error\nof the output", palette.PARTS["output"]),
}


class Cell(NamedTuple):
    """A token that is on from start to stop (s), written (r = 0) or read (r = 1)."""

    start: float
    stop: float
    r: int
    token: int


def synapse(fits: dict[str, xr.Dataset]) -> Figure:
    """The first tokens while written and while read: rates, synapses, calcium, error of the output.

    One network on one input, so that there are no intervals; of the first experiment. A window of
    time for each phase, or one for both if they alternate.
    """
    palette.apply()
    fit = next(iter(fits.values()))
    drawn, windows = table(fits), token_windows(fit)
    names = [name for name, row in ROWS.items() if _known(drawn, row)]
    names = names or [*ROWS]
    figure, axes = plt.subplots(
        len(names) + 1,
        len(windows),
        squeeze=False,
        sharex="col",
        figsize=(palette.PAGE, (38 + 24 * len(names)) * palette.MM),
        height_ratios=[0.75] + [1] * len(names),
        width_ratios=[1, 2][-len(windows) :],
    )
    for cells, column in zip(windows, axes.T):
        draw_words(column[0], fit["text"].values, cells)
        for axis in column[1:]:
            draw_phases(axis, cells)
        column[0].set_xlim(cells[0].start, cells[-1].stop)
        column[-1].set_xlabel("time (s)")
        column[-1].xaxis.set_major_locator(MaxNLocator(6))
    for name, panels in zip(names, axes[1:]):
        panels[0].set_ylabel(ROWS[name].label)
        title, note = titles(name, fit)
        panels[0].set_title(title, loc="left")
        panels[-1].set_title(note, loc="right")
        scale(panels, name, drawn)
        for window, axis in enumerate(panels):
            draw_row(axis, name, drawn[drawn["window"] == window])
        if "#" in ROWS[name].column:
            name_neurons(panels, name, drawn)
    for axis in axes[:-1].flat:
        axis.tick_params(bottom=False, labelbottom=False)
    for axis in axes[1:, 1:].flat:
        cut(axis)
    for axis in (*axes[0], *axes[1:, 1:].flat):
        axis.set_label(PART)
    figure.align_ylabels(axes[:, 0])
    name_phases(axes[0], fit, len(fits))
    legend(figure, ncols=2)
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Samples of the first experiment that are shown, with what the network would settle to.

    Three of the recorded neurons have columns: h1 and h2 fire most of all while written, in this
    order, and of the others h3 does while read.
    """
    experiment, fit = next(iter(fits.items()))
    seconds, parts = fit["seconds"].values, []
    for window, cells in enumerate(token_windows(fit)):
        inside = (seconds > cells[0].start) & (seconds < cells[-1].stop * (1 + 1e-9))
        places = np.flatnonzero(inside)
        places = places[:: -(-len(places) // MAX_SAMPLES) or 1]
        parts.append((window, fit.isel(sample=places)))
    neurons = fastest([part for _, part in parts])
    log_exact = fit["log_normalizer"].values - float(fit["log_calcium_unit"])
    of_tokens = {
        "normaliser Z": np.exp(np.where(log_exact < MAX_LOG, log_exact, np.nan)),
        "process settled": fit["normalizer_network"].values,
        "output error settled": fit["output_error_algebra"].values,
    }
    tables = []
    for window, part in parts:
        token, read = part["token_on"].values, part["control"].values == 1
        columns = {
            "experiment": experiment,
            "data": fit.attrs["data"],
            "window": window,
            "seconds": part["seconds"].values,
            "phase": np.where(read, "read", "written"),
            "token": token,
            "word": fit["text"].values[token],
        }
        for name, row in ROWS.items():
            values = part[name].values
            if values.ndim == 1:
                columns[row.column] = values
            else:
                for number, i in enumerate(neurons, 1):
                    columns[row.column.replace("#", str(number))] = values[:, i]
        for name, values in of_tokens.items():
            columns[name] = np.where(read, values[token], np.nan)
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def fastest(parts: list[xr.Dataset]) -> list[int]:
    """Places of three neurons: two with the highest rates while written, one while read."""
    rates = np.nan_to_num(np.concatenate([part["rates"].values for part in parts]))
    read = np.concatenate([part["control"].values for part in parts])
    if not len(rates):
        return [*range(min(len(STYLES), rates.shape[1]))]
    written, reading = (
        [*rates[read == r].max(0, initial=0).argsort(kind="stable")[::-1]] for r in (0, 1)
    )
    few = sorted(map(int, written[:2]), key=lambda i: int(rates[:, i].argmax()))
    return few + [int(i) for i in reading if i not in few][:1]


def answer(fits: dict[str, xr.Dataset]) -> str:
    """How p follows its normaliser and calcium follows p, by ranks, and the errors left."""
    fit = next(iter(fits.values()))
    settled, exact, calcium = correlations(fit)
    words = (
        f"Over the {fit.sizes['token']} tokens, the process at the end of reading has a rank "
        f"correlation of {palette.decimal(settled)} with the normaliser of this network and of "
        f"{palette.decimal(exact)} with that of softmax. "
    )
    if calcium == calcium:
        words += (
            f"Intracellular calcium, which the process drives, has one of "
            f"{palette.decimal(calcium)} with the process. "
        )
    if alternates(fit):
        words += "In this order all of these grow with the number of tokens written. "
    error, left = (
        palette.decimal(float(fit[name].median()))
        for name in ("output_error_read", "output_error_algebra")
    )
    return words + (
        f"The output then errs by {error} (median), and by {left} once settled, which is what the "
        f"finite number of hidden neurons leaves."
    )


def correlations(fit: xr.Dataset) -> tuple[float, float, float]:
    """Rank correlations over tokens, at the end of reading: of p with the normaliser of the network
    and with that of softmax, and of intracellular calcium with p; NaN where one does not vary."""
    samples = pd.DataFrame(
        {"token": fit["token_on"].values, "calcium": fit["intracellular"].values}
    )
    last = samples[fit["control"].values == 1].groupby("token")["calcium"].last()
    of_tokens = pd.DataFrame(
        {
            "process": fit["calcium_read"].values,
            "network": fit["normalizer_network"].values,
            "softmax": fit["log_normalizer"].values,
        }
    ).join(last)
    with np.errstate(all="ignore"):
        found = of_tokens.corr(method="spearman").loc["process"]
    return found["network"], found["softmax"], found["calcium"]


def token_windows(fit: xr.Dataset) -> list[list[Cell]]:
    """The first tokens in the order of time: a window to write and one to read, or one for both."""
    n_tokens = fit.sizes["token"]
    write, read = (  # within what settings allow, so that odd files can be drawn
        float(np.nan_to_num(np.clip(fit[f"{phase}_seconds"], 1e-9, 1e6), nan=1.0))
        for phase in ("token", "read")
    )
    shown = range(min(MAX_TOKENS, n_tokens))
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


def draw_phases(axis: Axes, cells: list[Cell]) -> None:
    """Grey where a token is written, and lines between tokens."""
    for cell in cells:
        if not cell.r:
            axis.axvspan(cell.start, cell.stop, color=palette.SHADE, linewidth=0, zorder=0)
        if cell != cells[0]:
            line = "white" if len({one.r for one in cells}) == 1 and not cell.r else palette.SHADE
            axis.axvline(cell.start, color=line, linewidth=0.5, zorder=0.5)


def draw_words(axis: Axes, text: np.ndarray, cells: list[Cell]) -> None:
    """A field for each token with its word or number; of two fields the longer has the word."""
    draw_phases(axis, cells)
    longest = max(cell.stop - cell.start for cell in cells)
    for cell in cells:
        if cell.stop - cell.start < longest * (1 - 1e-9):
            continue
        word = palette.shown(str(text[cell.token])) or str(cell.token)
        word = word if len(word) <= MAX_LETTERS else word[: MAX_LETTERS - 1] + "…"
        axis.text(
            (cell.start + cell.stop) / 2,
            0.5,
            palette.plain_text(word),
            rotation=90,
            ha="center",
            va="center",
            fontsize=6.5,
        )
    axis.set(ylim=(0, 1), yticks=[])
    axis.spines[:].set_visible(False)


def draw_row(axis: Axes, name: str, drawn: pd.DataFrame) -> None:
    """One quantity in one window of time."""
    row, seconds = ROWS[name], drawn["seconds"]
    for number, style in enumerate(STYLES, 1):
        column = row.column.replace("#", str(number))
        if column in drawn and (number == 1 or column != row.column):
            axis.plot(seconds, drawn[column], style, color=row.colour, linewidth=1.2)
    settled = {
        "calcium": {"normaliser Z": ("-", EXACT), "process settled": ("--", SETTLED)},
        "output_error": {"output error settled": ("--", SETTLED)},
    }
    for column, (style, label) in settled.get(name, {}).items():
        colour = palette.EXACT if label == EXACT else palette.KEY
        for _, of_token in drawn[drawn["phase"] == "read"].groupby("token"):
            level = of_token[column].iloc[0]
            x = of_token["seconds"].iloc[[0, -1]]
            axis.plot(x, [level, level], style, color=colour, linewidth=0.9, label=label)
    if name == "output_error" and len(drawn) and (drawn["phase"] == "written").all():
        axis.annotate(
            "no output while writing",
            (0.5, 0.5),
            xycoords="axes fraction",
            ha="center",
            va="center",
            color=palette.KEY,
            fontsize=6.5,
        )


def scale(panels: np.ndarray, name: str, drawn: pd.DataFrame) -> None:
    """One axis for all windows of a quantity; errors are logarithmic."""
    first = panels[0]
    for axis in panels[1:]:
        axis.sharey(first)
        axis.tick_params(left=False, labelleft=False)
    columns = _columns(drawn, ROWS[name]) + ["process settled"] * (name == "calcium")
    values = drawn[columns].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    if name == "output_error" and (values > 0).any():
        lowest, highest = values[values > 0].min(), values.max()
        first.set_yscale("log")
        first.set_ylim(max(lowest, 1e-4 * highest) / 1.5, highest * 1.5)
        first.yaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if highest < 30 * lowest else (1,), numticks=5)
        )
        first.yaxis.set_major_formatter("{x:g}")
        first.minorticks_off()
    elif name != "output_error" and len(values):
        low, high = values.min(), values.max()
        low = min(low, 0.0) if name != "intracellular" else low
        edge = 0.08 * (high - low)
        if np.isfinite(edge) and edge > 0:
            first.set_ylim(low - edge * (low < 0 or name == "intracellular"), high + 2 * edge)
        first.yaxis.set_major_locator(MaxNLocator(3))


def name_neurons(panels: np.ndarray, name: str, drawn: pd.DataFrame) -> None:
    """Names of the neurons: at the peaks of their rates, at the ends of the other lines."""
    symbol = ROWS[name].column[-2]
    columns = _columns(drawn, ROWS[name])
    known = drawn[columns].dropna()
    if not len(known):
        return
    words = [f"${symbol}_{number}$" for number in range(1, len(columns) + 1)]
    if name == "rates":
        peaks = [drawn.loc[known[column].idxmax()] for column in columns]
        for window, axis in enumerate(panels):
            start, stop = axis.get_xlim()
            here = [i for i, peak in enumerate(peaks) if peak["window"] == window]
            middles = [
                drawn.loc[
                    (drawn["token"] == peaks[i]["token"]) & (drawn["phase"] == peaks[i]["phase"]),
                    "seconds",
                ].mean()
                for i in here
            ]
            least = 0.03 if window or len(panels) == 1 else 0.08
            x = apart((np.array(middles) - start) / (stop - start), least)
            for i, place in zip(here, x):
                axis.annotate(
                    words[i],
                    (place, peaks[i][columns[i]]),
                    xycoords=axis.get_yaxis_transform(),
                    xytext=(0, 1),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                )
        return
    low, high = panels[0].get_ylim()
    ends = (known.iloc[-1].to_numpy(dtype=float) - low) / (high - low)
    for word, y in zip(words, apart(ends, 0.19)):
        panels[-1].annotate(
            word,
            (1, y),
            xytext=(2, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            annotation_clip=False,
        )


def apart(places: np.ndarray, least: float) -> np.ndarray:
    """Places near the given ones, in their order, that are at least so far apart."""
    order = places.argsort(kind="stable")
    moved = places[order]
    if not len(moved):
        return moved
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + least)
    moved += min(0.0, 1 + least / 2 - moved[-1])
    for i in range(len(moved) - 1, 0, -1):
        moved[i - 1] = min(moved[i - 1], moved[i] - least)
    found = np.empty_like(moved)
    found[order] = moved
    return found


def cut(axis: Axes) -> None:
    """Show that time is cut before a window: strokes instead of its axis of values."""
    axis.spines["left"].set_visible(False)
    for x in (-0.012, 0.0):
        axis.plot(
            x,
            0,
            transform=axis.transAxes,
            marker=[(-0.5, -1), (0.5, 1)],
            markersize=6,
            color=palette.EXACT,
            markeredgewidth=0.8,
            clip_on=False,
        )


def titles(name: str, fit: xr.Dataset) -> tuple[str, str]:
    """What a panel shows, with its time constant, and what was computed of it."""
    of_softmax, of_calcium = (palette.decimal(x) for x in correlations(fit)[1:])
    model = MODELS.get(str(fit["calcium_model"].values), "calcium model")
    times = {key: duration(fit[f"tau_{key}"]) for key in TIMES}
    return {
        "rates": (rf"Rates of three hidden neurons, $\tau_h$ = {times['hidden']}", ""),
        "hebbian": (rf"Their synapses onto the output, $\tau_H$ = {times['hebbian']}", ""),
        "presynaptic": (rf"Their weights to the astrocyte, $\tau_g$ = {times['presynaptic']}", ""),
        "calcium": (
            rf"Astrocyte process, $\tau_p$ = {times['calcium']}",
            f"rank correlation with $Z$ at the ends of tokens: {of_softmax}",
        ),
        "intracellular": (
            f"Calcium in a {model} that $p$ drives",
            f"rank correlation with $p$ at the ends of tokens: {of_calcium}",
        ),
        "output_error": (
            rf"Output against softmax attention, $\tau_\ell$ = {times['last']}",
            "",
        ),
    }[name]


def name_phases(axes: np.ndarray, fit: xr.Dataset, n_experiments: int) -> None:
    """What is shown, and the phase above each window."""
    name = palette.shown(str(fit["input"].values).replace("_", " "))
    name = palette.plain_text(name if len(name) <= 24 else f"{name[:23]}…")
    place = f"{palette.head_name(fit, fit['layer'], fit['head'])}, $m$ = {int(fit['n_features'])}"
    write, read = (duration(fit[f"{phase}_seconds"]) for phase in ("token", "read"))
    n_tokens = fit.sizes["token"]
    phase = f"All {n_tokens} tokens are written, {write} each;"
    if len(axes) == 1:
        phase = f"Each of {n_tokens} tokens is written (grey, {write}), then read ({read})"
    else:
        axes[1].set_title(f"then all are read, {read} each", loc="left")
        between = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "center"}
        axes[1].annotate("…", (0, 0.5), xytext=(-3, 0), ha="right", fontsize=9, **between)
    if n_experiments > 1:
        place += f"; 1 of {n_experiments} experiments shown"
    palette.title_of(axes[0], fit, f"Input “{name}”, {place}\n{phase}")


def duration(seconds: xr.DataArray) -> str:
    if np.isnan(seconds):
        return "–"
    return f"{1000 * float(seconds):g} ms" if seconds < 1 else f"{float(seconds):g} s"


def _columns(drawn: pd.DataFrame, row: Row) -> list[str]:
    """Columns of the table that belong to a row."""
    names = dict.fromkeys(row.column.replace("#", str(i + 1)) for i in range(len(STYLES)))
    return [name for name in names if name in drawn]


def _known(drawn: pd.DataFrame, row: Row) -> bool:
    """Whether there is a finite number of a row, which calcium models alone may lack."""
    return row.column != ROWS["intracellular"].column or bool(drawn[row.column].notna().any())
