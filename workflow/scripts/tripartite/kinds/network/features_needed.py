"""How many hidden neurons every head of every model needs: a map, layer by head."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from tripartite.figures import palette
from tripartite.figures.panels import grid, map_ticks

MAX_COLUMNS = 3  # experiments in a row
MIN_WIDTH = 7  # of a column, in heads: room for its titles
LIMITS = (3, 25)  # log10 of neurons; heads beyond are saturated, their number is still written
SCALE = "log$_{10}$ hidden neurons for 10 % rms normaliser error (median query)"
MAX_NUMBERS = 32  # layers or heads of a map whose cells may have numbers
MAX_HEIGHT = 9.0  # inches, of a page

# What biology has, by its name on the colour bar and in titles. Synapses in the domain of one
# astrocyte: 2e4 to 1.2e5 in rodents, 2.7e5 to 2e6 in the human cortex (Bushong et al., J Neurosci
# 22:183, 2002; Oberheim et al., J Neurosci 29:3276, 2009; the upper ends are taken). Neurons of the
# human cerebral cortex: 19 % of 86.1e9 (Azevedo et al., J Comp Neurol 513:532, 2009). One contact
# for each hidden neuron is the least: of synapses, a head has m d_head.
BIOLOGY = {"rodent astrocyte": 1.2e5, "human astrocyte": 2e6, "human cortex": 1.6e10}


def features_needed(fits: dict[str, xr.Dataset]) -> Figure:
    """log10 of the neurons for 10 % rms normaliser error, written into each cell with room for it.

    Each query has a need of its own; shown is the median over queries and inputs. Titles say how
    many heads need no more neurons than an astrocyte has contacts, and than a cortex has neurons.
    """
    palette.apply()
    n_columns = min(MAX_COLUMNS, len(fits))
    n_rows = -(-len(fits) // n_columns)
    widths, heights = np.full(n_columns, MIN_WIDTH), np.ones(n_rows, dtype=int)
    for place, fit in enumerate(fits.values()):
        row, column = divmod(place, n_columns)
        widths[column] = max(widths[column], fit.sizes["head"])
        heights[row] = max(heights[row], fit.sizes["layer"])
    width = max(palette.COLUMN, palette.PAGE * n_columns / 3)
    figure, axes = grid(
        len(fits),
        n_columns,
        lambda n_rows: (
            width,
            min(max(2.8, 0.5 + 1.2 * n_rows + 0.19 * heights.sum()), MAX_HEIGHT),
        ),
        gridspec_kw={"width_ratios": widths, "height_ratios": heights + 4},
    )
    for axis, fit in zip(axes, fits.values()):
        needed = fit["log10_features_needed"]
        sns.heatmap(
            needed.values,
            ax=axis,
            vmin=LIMITS[0],
            vmax=LIMITS[1],
            cmap="cividis_r",
            cbar=False,
            linewidths=0.4 if max(needed.shape) <= MAX_NUMBERS else 0,
            rasterized=max(needed.shape) > MAX_NUMBERS,
            xticklabels=False,
            yticklabels=False,
            annot=np.vectorize(number)(needed.values) if max(needed.shape) <= MAX_NUMBERS else None,
            fmt="",
            annot_kws={"fontsize": 6 if needed.max() < 999.5 else 5.4},
        )
        words = "no closed form\nfor this feature map"
        if needed.notnull().any():
            words = words_of(needed.values, fit["distinct_head"].values)
        palette.title_of(axis, fit, words)
        map_ticks(axis, fit, 0.5)
    draw_scale(figure, figure.axes, n_columns == 1)
    figure.draw_without_rendering()
    for axis in axes:
        leave_out_numbers(axis)
    return figure


def leave_out_numbers(axis: Axes) -> None:
    """Take the numbers out of a map whose cells are too small for them; the colours stay."""
    numbers = [text for text in axis.texts if text.get_transform() == axis.transData]
    corners = axis.transData.transform([(0, 0), (1, 1)]) if numbers else np.zeros((2, 2))
    sizes = [text.get_window_extent().size for text in numbers]
    if sizes and (np.max(sizes, 0) > np.abs(np.diff(corners, axis=0)[0])).any():
        for text in numbers:
            text.remove()


def draw_scale(figure: FigureBase, axes: Sequence[Axes], narrow: bool = False) -> None:
    """The colours of needs as a bar below the axes, with what biology has marked on it."""
    bar = figure.colorbar(
        mpl.cm.ScalarMappable(mpl.colors.Normalize(*LIMITS), "cividis_r"),
        ax=axes,
        location="bottom",
        extend="both",
        aspect=30 if narrow else 60,
        pad=0.02,
        ticks=range(5, 26, 5),
        label=SCALE.replace("rms", "\nrms") if narrow else SCALE,
    )
    for side, (name, most) in zip(("right", "left", "left"), BIOLOGY.items()):
        bar.ax.axvline(np.log10(most), ymax=1.6, color="black", linewidth=0.8, clip_on=False)
        bar.ax.annotate(
            name,
            (np.log10(most), 1),
            xycoords=("data", "axes fraction"),
            xytext=(-2 if side == "right" else 2, 9 if narrow and name == "human cortex" else 2),
            textcoords="offset points",
            ha=side,
            fontsize=6,
        )


def words_of(needed: np.ndarray, distinct: np.ndarray) -> str:
    """Title of a map of needs (log10) [layer, head]: the median head, and how many are within what.

    Heads of one number in distinct [layer, head] share their weights.
    """
    n_sets = len(np.unique(distinct))
    heads = f"{needed.size} heads"
    if n_sets < needed.size:
        heads = f"{n_sets} heads × {needed.size / n_sets:g} depths"
    within = (
        f"{int((needed <= np.log10(most)).sum())} within a {name}" for name, most in BIOLOGY.items()
    )
    return "\n".join([f"{heads}, median {palette.power(float(np.nanmedian(needed)))}", *within])


def number(x: float) -> str:
    """What fits into a cell: one decimal below ten, none above."""
    if np.isnan(x):
        return "–"  # this feature map has no closed form
    return f"{x:.1f}" if x < 9.95 else f"{x:.0f}"
