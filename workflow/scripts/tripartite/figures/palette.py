"""Style of all figures: colours (Okabe & Ito, safe for colour-blind readers), titles, numbers."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, SupportsInt

import matplotlib
import numpy as np
import xarray as xr

matplotlib.use("agg")
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import LogLocator, NullFormatter

COLUMN = 3.5  # inches, one journal column
PAGE = 7.1  # inches, two columns
MAX_LABEL = 24  # letters of the name of a layer or head
MAX_LETTERS = 30  # of a title in one line, above a third of a page

EXACT = "#000000"  # softmax attention
SMALL = "#56B4E9"  # few hidden neurons
NOT_KNOWN = "#d9d9d9"  # where a map has no number
LARGE = "#D55E00"  # many hidden neurons
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999999")
# One more than colours, so that no pair comes twice.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")

SMALLER = ("legend.fontsize", "legend.title_fontsize", "xtick.labelsize", "ytick.labelsize")
STYLE: dict[Any, Any] = {  # Any, as matplotlib declares each key of rcParams literally
    "font.family": "DejaVu Sans",
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 7),
    **dict.fromkeys(SMALLER, 6.5),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "lines.linewidth": 1.0,
    "legend.columnspacing": 1.2,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "svg.hashsalt": "tripartite",
    "svg.fonttype": "path",
}


def apply() -> None:
    """Set the style, without settings of the machine's matplotlibrc."""
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(STYLE)


def title_of(axis: Axes, fit: xr.Dataset | None, plain: str = "") -> None:
    """Title of a panel: the data of a fit and its network; "" if fit is None; plain lines below."""
    if fit is None:
        title(axis, "", plain)
    else:
        title(axis, fit.attrs["data"], plain, network_words(fit))


def title(axis: Axes, bold: str, plain: str = "", mark: str = "") -> None:
    """Title of a panel: bold, with plain lines below: `mark`, and what is shown."""
    mark = plain_text(mark if len(mark) <= MAX_LETTERS else mark.replace(", ", ",\n"))
    lines = mark.split("\n") * bool(mark) + plain.split("\n") * bool(plain)
    axis.set_title("\n".join(lines), loc="left")
    axis.annotate(
        plain_text(bold),
        (0, 1),
        xytext=(0, 6 + 9.5 * len(lines)),
        xycoords="axes fraction",
        textcoords="offset points",
        weight="bold",
        annotation_clip=False,
    )


def network_words(fit: xr.Dataset) -> str:
    """Feature map, order and symmetries of a network, where they are not the default."""
    feature_map = fit.attrs.get("feature_map", "performer")
    words = [] if feature_map == "performer" else [feature_map.replace("_", " ")]
    orders = {str(order) for order in np.ravel(fit["order"].values)} if "order" in fit else set()
    words += [" and ".join(sorted(orders))] if "causal" in orders else []
    symmetries = fit.attrs.get("symmetries", "").split()
    centred = [name.removeprefix("center_") for name in symmetries if name != "balance"]
    changes = [f"{centred[0]} centred" if len(centred) == 1 else "centred"] if centred else []
    changes += ["balanced"] if "balance" in symmetries else []
    return ", ".join([*words, *([" and ".join(changes)] if changes else [])])


def full_name(fit: xr.Dataset) -> str:
    """The data of a fit, with the words of its network."""
    return ", ".join(filter(None, (fit.attrs["data"], network_words(fit))))


def mark_empty(figure: Figure) -> None:
    """Write into every panel that shows no number why it is empty."""
    for axis in figure.axes:
        shown = axis.axison and axis.get_visible() and axis.get_label() != "<colorbar>"
        if not shown or axis.images:
            continue
        axis.get_xlim()  # computes the limits, which matplotlib defers
        points = np.concatenate([np.empty((0, 2)), *_points(axis)])
        points = points[np.isfinite(points).all(1)]
        if _has_words(axis):
            continue
        words = "nothing to show: no finite number\n(the file's notes say why)"
        if len(points):
            with np.errstate(all="ignore"):
                pixels = axis.transData.transform(points)
            if np.isfinite(pixels).all(1).any():
                box = axis.get_window_extent()
                low, high = np.array([box.min, box.max]) + [[-1], [1]]
                if ((pixels >= low) & (pixels <= high)).all(1).any():
                    continue
                words = "all values are beyond the axes"
        axis.annotate(
            words,
            (0.5, 0.5),
            xycoords="axes fraction",
            ha="center",
            va="center",
            color="0.35",
            fontsize=6,
            annotation_clip=False,
        ).set_in_layout(False)


def _points(axis: Axes) -> Iterator[np.ndarray]:
    """Points [n, 2] of all marks in coordinates of the data, without lines across the axes."""
    for line in axis.lines:
        if line.get_transform() is axis.transData:
            yield np.ma.filled(np.ma.asarray(line.get_xydata(), dtype=float), np.nan)
    for marks in axis.collections:
        if isinstance(marks, QuadMesh):
            values = np.ma.asarray(marks.get_array(), dtype=float)
            if np.isfinite(np.ma.filled(values, np.nan)).any():
                yield np.asarray(marks.get_coordinates()).reshape(-1, 2)
        elif marks.get_transform() is axis.transData:
            yield from (np.asarray(path.vertices) for path in marks.get_paths())
        elif marks.get_offset_transform() is axis.transData:
            yield np.ma.filled(np.ma.asarray(marks.get_offsets(), dtype=float), np.nan)
    for patch in axis.patches:
        if patch.get_data_transform() is axis.transData:
            yield patch.get_patch_transform().transform(patch.get_path().vertices)


def _has_words(axis: Axes) -> bool:
    """Whether there is a text inside the panel; titles are above it."""
    box = axis.get_window_extent()
    boxes = [text.get_window_extent() for text in axis.texts if text.get_text().strip()]
    return any(box.contains((x.x0 + x.x1) / 2, (x.y0 + x.y1) / 2) for x in boxes)


def plain_text(text: str) -> str:
    """A text of a user without formulas: $ is printed."""
    return text.replace("$", r"\$")


def labels(fits: dict[str, xr.Dataset]) -> list[str]:
    """Labels of experiments in a legend: data and network, and the name if these are not unique."""
    titles = [full_name(fit) for fit in fits.values()]
    return [
        plain_text(words if titles.count(words) == 1 else f"{words} ({name})")
        for name, words in zip(fits, titles)
    ]


def head_name(fit: xr.Dataset, layer: SupportsInt, head: SupportsInt) -> str:
    """A layer and a head, by the labels of the user's file, if it has any, or by numbers."""
    names = (tick_labels(fit, dim, [i])[0] for dim, i in (("layer", layer), ("head", head)))
    return "layer {}, head {}".format(*names)


def tick_labels(fit: xr.Dataset, dim: str, places: Iterable[SupportsInt]) -> list[str]:
    """Labels of layers or heads with these indices; dim: "layer" or "head"."""
    labels = json.loads(fit.attrs.get("labels", "{}")).get(dim)
    if not labels:
        return [str(int(i)) for i in places]
    short = short_labels(labels, MAX_LABEL)
    return [plain_text(short[int(i)]) for i in places]


def short_labels(labels: list[str], n_letters: int = 12) -> list[str]:
    """Labels of at most n_letters that the font can write, for the ticks of a map.

    Of longer labels that differ in their numbers only, such as model.layers.31.self_attn, these
    numbers are left; others are cut. Where the font lacks a letter, all are numbered instead.
    """
    too_long = max(map(len, labels)) > n_letters or not all(map(can_write, labels))
    parts = [re.split(r"(\d+)", label) for label in labels]
    if too_long and len({tuple(x[::2]) for x in parts}) == 1 and len({*labels}) == len(labels):
        varying = [i for i in range(len(parts[0])) if len({part[i] for part in parts}) > 1]
        labels = [".".join(part[i] for i in varying) or label for part, label in zip(parts, labels)]
    if not all(map(can_write, labels)):
        labels = [*map(str, range(len(labels)))]
    return [label if len(label) <= n_letters else f"{label[: n_letters - 1]}…" for label in labels]


def shown(text: str) -> str:
    """A text with ? for the letters that the font lacks."""
    return "".join(letter if can_write(letter) else "?" for letter in text)


def can_write(text: str) -> bool:
    """Whether the font of the figures has all letters of a text."""
    font = get_font(findfont(STYLE["font.family"]))
    return all(font.get_char_index(ord(letter)) for letter in text)


def power(x: float) -> str:
    """10^x as a formula, x with one decimal unless it is whole; a dash for NaN."""
    if x != x:
        return "–"
    return f"$10^{{{round(float(x), 1):g}}}$"


def decimal(x: float) -> str:
    """x with two decimals, 0 without a sign; a dash for NaN."""
    return "–" if x != x else f"{x:z.2f}"


def percent(x: float) -> str:
    """A share x in percent with two digits, without exponents; a dash for NaN."""
    if not np.isfinite(x):
        return "–" if x != x else "∞"
    return f"{100 * x:.0f} %" if x >= 0.1 else f"{100 * x:.2g} %"


def few_decades(axis: Axes) -> None:
    """Ticks at 1, 2 and 5 as well, if powers of ten would be too few."""
    low, high = axis.get_ylim()
    if high < 50 * low:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
