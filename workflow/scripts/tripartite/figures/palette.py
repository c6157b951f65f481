"""One look for all figures: a colour per meaning (Okabe & Ito, safe for colour-blind readers)."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, SupportsInt

import matplotlib
import numpy as np
import xarray as xr

matplotlib.use("agg")
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

COLUMN = 3.5  # inches, one journal column
PAGE = 7.1  # inches, two columns
MAX_LETTERS = 30  # letters of a title above a third of a page

EXACT = "#000000"  # softmax attention
SMALL = "#56B4E9"  # few hidden neurons
LARGE = "#D55E00"  # many hidden neurons
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

STYLE: dict[Any, Any] = {  # the stub of matplotlib knows each key of rcParams by itself
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "legend.fontsize": 6.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.0,
    "legend.title_fontsize": 6.5,
    "legend.frameon": False,
    "legend.columnspacing": 1.2,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "svg.hashsalt": "tripartite",
    "svg.fonttype": "path",
}


def apply() -> None:
    """Set the style, whatever the machine's own matplotlibrc says."""
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(STYLE)


def title_of(axis: Axes, fit: xr.Dataset | None, plain: str = "") -> None:
    """Name a panel by the data of a fit and what sets its network apart; None has no name."""
    if fit is None:
        title(axis, "", plain)
    else:
        title(axis, fit.attrs["data"], plain, network_words(fit))


def title(axis: Axes, bold: str, plain: str = "", mark: str = "") -> None:
    """Name a panel in bold, with plain lines below: a mark, and what is shown."""
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
    """What sets a network apart from plain positive features: its map, order and symmetries."""
    feature_map = fit.attrs.get("feature_map", "performer")
    words = [] if feature_map == "performer" else [feature_map.replace("_", " ")]
    words += ["causal"] if fit.attrs.get("order") == "causal" else []
    symmetries = fit.attrs.get("symmetries", "").split()
    centred = [name.removeprefix("center_") for name in symmetries if name != "balance"]
    changes = [f"{centred[0]} centred" if len(centred) == 1 else "centred"] if centred else []
    changes += ["balanced"] if "balance" in symmetries else []
    return ", ".join([*words, *([" and ".join(changes)] if changes else [])])


def full_name(fit: xr.Dataset) -> str:
    """The data of a fit, with what sets its network apart."""
    return ", ".join(filter(None, (fit.attrs["data"], network_words(fit))))


def mark_empty(figure: Figure) -> None:
    """Say in every panel that shows no number why it is empty."""
    for axis in figure.axes:
        if (
            not (axis.axison and axis.get_visible())
            or axis.images
            or axis.get_label() == "<colorbar>"
        ):
            continue
        axis.get_xlim()  # lets an axis find its limits, which it puts off
        places = [np.empty((0, 2)), *_places(axis)]
        places = np.concatenate(places)
        places = places[np.isfinite(places).all(1)]
        if _has_words(axis):
            continue
        words = "nothing to show: no finite number\n(the file's notes say why)"
        if len(places):
            with np.errstate(all="ignore"):
                seen = axis.transData.transform(places)
            if np.isfinite(seen).all(1).any():
                box = axis.get_window_extent()
                low, high = np.array([box.min, box.max]) + [[-1], [1]]
                if ((seen >= low) & (seen <= high)).all(1).any():
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


def _places(axis: Axes) -> Iterator[np.ndarray]:
    """Points [n, 2] in the data's coordinates of all marks; lines across the axes are none."""
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
    """Whether a text stands inside the panel: titles stand above it."""
    box = axis.get_window_extent()
    boxes = [text.get_window_extent() for text in axis.texts if text.get_text().strip()]
    return any(box.contains((x.x0 + x.x1) / 2, (x.y0 + x.y1) / 2) for x in boxes)


def plain_text(text: str) -> str:
    """A user's words as they are, and not as a formula."""
    return text.replace("$", r"\$")


def labels(fits: dict[str, xr.Dataset]) -> list[str]:
    """What each experiment is called in a legend: its data and network.

    Its name is added where another experiment has the same data and network.
    """
    titles = [full_name(fit) for fit in fits.values()]
    return [
        plain_text(words if titles.count(words) == 1 else f"{words} ({name})")
        for name, words in zip(fits, titles)
    ]


def head_name(fit: xr.Dataset, layer: SupportsInt, head: SupportsInt) -> str:
    """A layer and a head, by the labels of the user's file if it has any, else by their numbers."""
    names = (tick_labels(fit, dim, [i])[0] for dim, i in (("layer", layer), ("head", head)))
    return "layer {}, head {}".format(*names)


def tick_labels(fit: xr.Dataset, dim: str, places: Iterable[SupportsInt]) -> list[str]:
    """What some layers or heads are called."""
    labels = json.loads(fit.attrs.get("labels", "{}")).get(dim)
    return [plain_text(labels[int(place)]) if labels else str(int(place)) for place in places]


def power(x: float) -> str:
    """10^x as a formula, with one decimal unless it is whole; a dash where x is not known."""
    if x != x:
        return "–"
    return f"$10^{{{round(float(x), 1):g}}}$"


def decimal(x: float) -> str:
    """x with two decimals; a dash where it is not known."""
    return "–" if x != x else f"{x:.2f}"


def percent(x: float) -> str:
    """A share in percent with two digits, without exponents; a dash where x is not known."""
    if not np.isfinite(x):
        return "–" if x != x else "∞"
    return f"{100 * x:.0f} %" if x >= 0.1 else f"{100 * x:.2g} %"


def few_decades(axis: Axes) -> None:
    """Ticks at 1, 2 and 5 where powers of ten alone would be too few."""
    low, high = axis.get_ylim()
    if high < 50 * low:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
