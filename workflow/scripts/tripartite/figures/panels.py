"""Parts of panels that figures share: heads to draw, intervals as bars, entries of legends."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from tripartite.figures import palette

MAX_TICKS = 12  # of a map in each direction


def spread(things: Sequence, n: int) -> list:
    """At most n of ordered things, evenly spread, with the first and the last."""
    if len(things) <= n:
        return list(things)
    return [things[i] for i in np.linspace(0, len(things) - 1, n).round().astype(int)]


def heads_by(values: np.ndarray, n: int) -> list[tuple[int, int]]:
    """Indices (layer, head) of at most n heads, sorted by values [layer, head], without NaN."""
    run = [(int(a), int(b)) for a, b in np.argwhere(np.isfinite(values))]
    return spread(sorted(run, key=lambda pair: (values[pair], pair)), n)


def heads_run(values: xr.DataArray) -> list[dict[str, int]]:
    """Labels of heads of which a value is known, in order: {"layer": 0, "head": 2} selects one."""
    others = [dim for dim in values.dims if dim not in ("layer", "head")]
    known = values.notnull().any(others).transpose("layer", "head")
    return [
        {"layer": int(known["layer"][a]), "head": int(known["head"][b])}
        for a, b in np.argwhere(known.values)
    ]


def head_words(fit: xr.Dataset, place: tuple[int, int]) -> str:
    """The name of the head with indices (layer, head)."""
    return palette.head_name(fit, int(fit["layer"][place[0]]), int(fit["head"][place[1]]))


def map_ticks(axis: Axes, fit: xr.Dataset, first: float = 0.0) -> None:
    """Ticks of a map, layer by head, with names of both: at most MAX_TICKS of each, evenly spread.

    first: where the first cell has its middle.
    """
    for dim, ticks in (("head", axis.set_xticks), ("layer", axis.set_yticks)):
        names = palette.short_labels(palette.tick_labels(fit, dim, fit[dim].values))
        places = range(0, len(names), -(-len(names) // MAX_TICKS))
        shown = [names[i] for i in places]
        room = 3 if len(shown) == len(names) else 2  # letters
        upright = 90 if dim == "head" and max(map(len, shown)) > room else 0
        ticks([i + first for i in places], shown, rotation=upright)
    axis.tick_params(length=0)
    axis.set_xlabel("head")
    axis.set_ylabel("layer")


def interval(fit: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of a variable, lower ends and upper ends of their intervals."""
    return fit[name].values, fit[f"{name}_low"].values, fit[f"{name}_high"].values


def points(
    axis: Axes,
    x: ArrayLike,
    triple: tuple,
    colour: str | tuple[float, ...],
    marker: str = "o",
    **look: Any,
) -> None:
    """Draw finite values with their intervals (triple: from `interval`); NaN ends have no bar."""
    middle, low, high = triple
    middle = np.where(np.isfinite(middle), middle, np.nan)
    sizes = np.nan_to_num([middle - low, high - middle], posinf=np.inf).clip(0)
    look = dict[str, Any](markersize=3, elinewidth=0.8, linestyle="") | look
    axis.errorbar(x, middle, sizes, marker=marker, color=colour, **look)


def line(label: str, **look: Any) -> Line2D:
    """An entry of a legend, for a line."""
    return Line2D([], [], label=label, **look)


def mark(label: str, marker: str = "o", **look: Any) -> Line2D:
    """An entry of a legend, for marks without a line."""
    return line(label, marker=marker, linestyle="", **{"markersize": 3} | look)


def grid(
    n_panels: int, n_columns: int, size: Callable[[int], tuple[float, float]], **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure with a grid of n_panels axes in n_columns, and these axes.

    size: width and height (inches) for a number of rows; options: of pyplot.subplots.
    """
    n_rows = -(-n_panels // n_columns)
    figure, axes = plt.subplots(n_rows, n_columns, squeeze=False, figsize=size(n_rows), **options)
    for axis in axes.flat[n_panels:]:
        axis.set_axis_off()
    return figure, axes.flat[:n_panels]
