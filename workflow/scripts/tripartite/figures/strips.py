"""Strips: a row with a name for each group of heads, a point for each head, numbers beside it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from tripartite.figures import palette
from tripartite.figures.palette import KEY, Look

NEEDED = (0, 40)  # log10 of hidden neurons that a head needs; those beyond are counted
N_VECTORS = 250  # points of a row; more are drawn as pixels
GOLDEN = 0.618  # its multiples fill a row evenly


def rows(axis: Axes, groups: Sequence[tuple[str, Sequence[str]]]) -> list[list[int]]:
    """Rows of an axis from above: of each group one with its name in bold, then its names.

    Returns the places on the y axis of the names of each group.
    """
    places: list[list[int]] = []
    words: list[str] = []
    for group, names in groups:
        places.append([*range(len(words) + 1, len(words) + 1 + len(names))])
        words += [group, *names]
    axis.set_yticks(range(len(words)), words)
    for names_at in places:
        axis.get_yticklabels()[names_at[0] - 1].set_fontweight("bold")
    axis.set_ylim(len(words) - 0.4, -0.4)
    axis.tick_params(axis="y", length=0)
    return places


def strip(axis: Axes, place: float, values: np.ndarray, look: Look, marker: str = "o") -> None:
    """A row of points at values (log10 of neurons needed); a triangle at the end for those beyond.

    Points are moved up or down within their row, to be seen. NaN has no point.
    """
    values = np.sort(values[~np.isnan(values)])
    low, high = NEEDED
    inside = values[(low <= values) & (values <= high)]
    lifted = place + 0.6 * (np.arange(len(inside)) * GOLDEN % 1 - 0.5)
    edge = look.line if look.line != look.fill else palette.RECIPES["learned"].line
    colours: dict[str, Any] = {"color": look.fill, "markeredgecolor": edge, "markeredgewidth": 0.5}
    pixels = len(inside) > N_VECTORS
    axis.plot(
        inside,
        lifted,
        marker,
        linestyle="",
        markersize=2.8,
        rasterized=pixels,
        **colours,
    )
    for beyond, end, triangle in ((values < low, low, "<"), (values > high, high, ">")):
        if beyond.any():
            axis.plot(end, place, triangle, markersize=4, clip_on=False, zorder=4, **colours)


def median(axis: Axes, place: float, value: float) -> None:
    """The median of a row as a line across it; nothing if it is beyond the axis or not known."""
    if NEEDED[0] <= value <= NEEDED[1]:
        for colour, wide in (("white", 3.2), (palette.EXACT, 1.6)):
            axis.plot([value] * 2, [place - 0.42, place + 0.42], color=colour, linewidth=wide)


def decades(axis: Axes) -> None:
    """The x axis of neurons needed, in powers of ten."""
    low, high = NEEDED
    ticks = range(low, high + 1, 10)
    axis.set_xticks(ticks, [palette.power(x) for x in ticks])
    axis.set_xticks(range(low, high + 1), minor=True)
    axis.set_xlim(NEEDED)
    axis.set_xlabel(
        "hidden neurons $m$ for 10 % rms error of the normaliser\n(point: head; line: median)"
    )


def beside(axis: Axes, places: Sequence[float], columns: dict[str, Sequence[str]]) -> None:
    """Columns of texts right of an axis: a head above the first row, a text at each place."""
    x = 0.0  # points from the axis
    top = min(axis.get_ylim())
    for head, texts in columns.items():
        x += 10 + max(map(width, (*head.split("\n"), *texts)))
        for y, text, side in (
            (top, head, "bottom"),
            *((y, t, "center") for y, t in zip(places, texts)),
        ):
            axis.annotate(
                text,
                (1, y),
                xytext=(x, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va=side,
                color=KEY,
                annotation_clip=False,
            )


def width(text: str) -> float:
    """Width of a text of one line in points."""
    size = palette.STYLE["font.size"]
    return float(TextPath((0, 0), text, size=size).get_extents().width) if text else 0.0


def n_beyond(values: np.ndarray) -> int:
    """How many values are beyond the axis of neurons needed."""
    return int(((values < NEEDED[0]) | (values > NEEDED[1])).sum())


def first(fits: dict[str, xr.Dataset], n: int) -> dict[str, xr.Dataset]:
    """The first n of some experiments."""
    return dict([*fits.items()][:n])


def say_shown(figure: Figure, n: int, of: int) -> None:
    """Above a figure, if it shows less than all: "n of N experiments shown"."""
    if n < of:
        words = f"{n} of {of} experiments shown; the csv beside this figure has all"
        figure.suptitle(words, x=0.99, ha="right", fontsize=6.5, color=KEY)


def by_data(fits: dict[str, xr.Dataset]) -> dict[str, dict[str, xr.Dataset]]:
    """Experiments in groups of the same data, in order."""
    groups: dict[str, dict[str, xr.Dataset]] = {}
    for name, fit in fits.items():
        groups.setdefault(fit.attrs["data"], {})[name] = fit
    return groups
