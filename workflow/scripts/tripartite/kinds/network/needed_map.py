"""How many hidden neurons every head of every model needs: a map of each network, layer by head."""

import math
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.biology import BIOLOGY
from tripartite.figures.palette import MM
from tripartite.figures.strips import by_data, first, say_shown, width
from tripartite.kinds.network import features_needed

MAX_COLUMNS = 4
MIN_COLUMN = 40.0  # mm, room for a title
LINE, LEFT, BELOW = 3.5, 7.0, 8.0  # mm of a line of a title, and beside and below tick labels
BAR = 14.0  # mm of a colour bar with its words
MAX_CELL = 5.5  # mm
NUMBER = 3.4  # mm of a cell with room for a number
NEEDED = LogNorm(3, 48)  # colours of log10 of neurons; heads beyond have the last colour
TICKS = (3, 6, 12, 24, 48)
SCALE = "hidden neurons $m$ for 10 % rms error of the normaliser"


class Labels(NamedTuple):
    """Names at the ticks of a map in one direction, the mm that they take away from the axis and
    along it, and whether they stand upright."""

    names: list[str]
    away: float
    along: float
    upright: bool = False


def needed_map(fits: dict[str, xr.Dataset]) -> Figure:
    """log10 of the neurons for 10 % error as colours, with whole numbers where there is room.

    Experiments of the same data stand side by side. Each query has a need of its own; shown is the
    median over queries and inputs.
    """
    palette.apply()
    groups = by_data(fits)
    ordered = {x: fit for group in groups.values() for x, fit in group.items()}
    shown = first(ordered, palette.MAX_PANELS)
    names = {x: name for g in groups.values() for x, name in zip(g, features_needed.row_names(g))}
    maps = [*shown.values()]
    rows = [maps[i : i + MAX_COLUMNS] for i in range(0, len(maps), MAX_COLUMNS)]
    figure, axes, bars = square_cells(rows, [len(rows) - 1], 2 + (len(shown) < len(fits)))
    for axis, (experiment, fit) in zip(axes, shown.items()):
        draw_map(axis, fit, fit["log10_features_needed"].values, NEEDED, numbers=True)
        palette.title(axis, palette.short_name(fit.attrs["data"]), names[experiment])
    draw_scale(bars[0])
    say_shown(figure, len(shown), len(fits))
    return figure


def square_cells(
    rows: list[list[xr.Dataset]], bars_below: list[int], n_lines: int
) -> tuple[Figure, list[Axes], list[Axes]]:
    """A figure with rows of axes for maps, layer by head, whose cells are squares of one size.

    The size is as large as the page allows. Returns the axes of the maps, and axes for colour bars
    below the rows with these indices. n_lines: of titles, the bold one among them.
    """
    n_columns, above = max(map(len, rows)), LINE * n_lines + 3
    n_heads, left = np.ones(n_columns), np.zeros(n_columns)
    n_layers, below = np.ones(len(rows)), np.zeros(len(rows))
    for row, fits in enumerate(rows):
        for column, fit in enumerate(fits):
            n_heads[column] = max(n_heads[column], fit.sizes["head"])
            n_layers[row] = max(n_layers[row], fit.sizes["layer"])
            left[column] = max(left[column], LEFT + labels_of(fit, "layer").away)
            below[row] = max(below[row], BELOW + labels_of(fit, "head").away)
    below[bars_below] += BAR
    page, high = palette.PAGE / MM, palette.MAX_HEIGHT / MM - 2 - above * len(rows) - below.sum()
    cell = min(MAX_CELL, high / n_layers.sum())
    while (columns := np.maximum(left + cell * n_heads, MIN_COLUMN)).sum() > page - 2:
        cell *= 0.99
    height = (above + cell * n_layers + below).sum() + 2
    figure = plt.figure(figsize=(palette.PAGE, height * MM))
    figure.set_layout_engine("none")
    axes, bars = [], []

    def place(x: float, top: float, wide: float, high: float, **options: Any) -> Axes:
        """Axes of this size in mm, at x from the left and top from above."""
        box = x / page, 1 - (top + high) / height, wide / page, high / height
        return figure.add_axes(box, **options)

    top = 1.0
    for row, fits in enumerate(rows):
        x = 1.0
        for column, fit in enumerate(fits):
            size = cell * fit.sizes["head"], cell * fit.sizes["layer"]
            axes.append(place(x + left[column], top + above, *size))
            x += columns[column]
        top += above + cell * n_layers[row] + below[row]
        if row in bars_below:
            bars.append(place(25, top - BAR + 3, 128, 2.5, label="<colorbar>"))
    return figure, axes, bars


def labels_of(fit: xr.Dataset, dim: str) -> Labels:
    """Labels of the layers or heads of a map."""
    names = palette.short_labels(palette.tick_labels(fit, dim, fit[dim].values))
    wide, high = max(map(width, names)) / 72 / MM, 3.0
    if dim == "layer":
        return Labels(names, wide, high)
    upright = wide > 5
    return Labels(names, *((wide, high) if upright else (high, wide)), upright)


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """log10 of the neurons that each head needs, a row each."""
    return features_needed.table(fits)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """The layers whose median head needs the fewest and the most neurons."""
    words = []
    for data, group in by_data(fits).items():
        for name, fit in zip(features_needed.row_names(group), group.values()):
            needed = fit["log10_features_needed"]
            of_layer = needed.median("head").values
            about = f"{palette.short_name(data)}, {name}"
            if np.isnan(of_layer).all():
                words.append(f"no closed form ({about})")
                continue
            least, most = int(np.nanargmin(of_layer)), int(np.nanargmax(of_layer))
            labels = palette.tick_labels(fit, "layer", fit["layer"].values)
            ends = (f"10^{of_layer[i]:.1f} in layer {labels[i]}" for i in (least, most))
            words.append(f"from {' to '.join(ends)} ({about})")
    return f"The median head of a layer needs {'; '.join(words)}."


def draw_map(
    axis: Axes, fit: xr.Dataset, values: np.ndarray, norm: Normalize, numbers: bool = False
) -> None:
    """Values [layer, head] as colours; numbers: whole ones in cells with room for them."""
    colours = mpl.colormaps[palette.BAD_MAP].with_extremes(bad=palette.NOT_KNOWN)
    axis.imshow(values, colours, norm, aspect="auto", interpolation="none")
    box = axis.get_window_extent()
    cell = box.width / axis.figure.dpi / MM / values.shape[1]
    for dim, set_ticks in (("head", axis.set_xticks), ("layer", axis.set_yticks)):
        labels = labels_of(fit, dim)
        places = range(0, len(labels.names), max(1, math.ceil((labels.along + 0.8) / cell - 0.05)))
        turned: dict[str, Any] = {"rotation": 90} if labels.upright else {}
        set_ticks(places, [labels.names[i] for i in places], **turned)
    axis.tick_params(length=0)
    axis.set(xlabel="head", ylabel="layer")
    if not np.isfinite(values).any():
        axis.annotate("not known", (0.5, 0.5), xycoords="axes fraction", ha="center")
    for (layer, head), value in np.ndenumerate(values):
        if numbers and cell > NUMBER and value < 99.5:
            axis.text(
                head,
                layer,
                f"{value:.0f}",
                fontsize=6,
                ha="center",
                va="center",
                color=palette.text_on(colours(norm(value))),
            )


def draw_scale(axis: Axes) -> None:
    """The colours of needs as a bar in these axes, with what biology has marked on it."""
    bar = axis.figure.colorbar(
        mpl.cm.ScalarMappable(NEEDED, palette.BAD_MAP),
        cax=axis,
        orientation="horizontal",
        extend="both",
        label=SCALE,
    )
    bar.set_ticks(TICKS, labels=[palette.power(x) for x in TICKS])
    bar.minorticks_off()
    for side, (name, most) in zip(("right", "left", "left"), BIOLOGY.items()):
        axis.axvline(np.log10(most), ymax=1.6, color=palette.EXACT, linewidth=0.8, clip_on=False)
        axis.annotate(
            name,
            (np.log10(most), 1),
            xycoords=("data", "axes fraction"),
            xytext=(-2 if side == "right" else 2, 2),
            textcoords="offset points",
            ha=side,
            fontsize=6,
        )
