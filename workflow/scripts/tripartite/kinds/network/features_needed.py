"""How many hidden neurons every head of every model needs: a map, layer by head."""

import matplotlib as mpl
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import grid

MAX_COLUMNS = 3  # experiments in a row
LIMITS = (3, 25)  # log10 of neurons; heads beyond are saturated, their number is still written


def features_needed(fits: dict[str, xr.Dataset]) -> Figure:
    """log10 of the neurons for 10 % rms normaliser error, written into each cell of the map.

    Each query has a need of its own; shown is the median over queries and inputs.
    """
    palette.apply()
    n_columns = min(MAX_COLUMNS, len(fits))
    n_rows = -(-len(fits) // n_columns)
    widths, heights = np.ones(n_columns, dtype=int), np.ones(n_rows, dtype=int)
    for place, fit in enumerate(fits.values()):
        row, column = divmod(place, n_columns)
        widths[column] = max(widths[column], fit.sizes["head"])
        heights[row] = max(heights[row], fit.sizes["layer"])
    width = max(palette.COLUMN, palette.PAGE * n_columns / 3)
    figure, axes = grid(
        len(fits),
        n_columns,
        lambda n_rows: (width, max(2.4, 0.9 * n_rows + 0.19 * heights.sum())),
        gridspec_kw={"width_ratios": widths, "height_ratios": heights + 4},
    )
    norm = mpl.colors.Normalize(*LIMITS)
    for axis, fit in zip(axes, fits.values()):
        needed = fit["log10_features_needed"]
        sns.heatmap(
            needed.values,
            ax=axis,
            vmin=LIMITS[0],
            vmax=LIMITS[1],
            cmap="cividis_r",
            cbar=False,
            linewidths=0.4,
            annot=np.vectorize(number)(needed.values),
            fmt="",
            annot_kws={"fontsize": 6 if needed.max() < 999.5 else 5.4},
        )
        words = "no closed form\nfor this feature map"
        if needed.notnull().any():
            words = (
                f"median head {palette.power(float(needed.median()))}\n"
                f"{int((needed <= 5).sum())} of {needed.size} heads with up to $10^5$"
            )
        palette.title_of(axis, fit, words)
        heads, layers = (
            palette.tick_labels(fit, dim, fit[dim].values) for dim in ("head", "layer")
        )
        upright = 90 if max(map(len, heads)) > 3 else 0
        axis.set_xticks(np.arange(fit.sizes["head"]) + 0.5, heads, rotation=upright)
        axis.set_yticks(np.arange(fit.sizes["layer"]) + 0.5, layers, rotation=0)
        axis.tick_params(length=0)
        axis.set_xlabel("head")
        axis.set_ylabel("layer")
    figure.colorbar(
        mpl.cm.ScalarMappable(norm, "cividis_r"),
        ax=figure.axes,
        extend="both",
        aspect=25,
        pad=0.02,
        ticks=range(5, 26, 5),
        label="log$_{10}$ hidden neurons for 10 % rms\nnormaliser error (median query)",
    )
    return figure


def number(x: float) -> str:
    """What fits into a cell: one decimal below ten, none above."""
    if np.isnan(x):
        return "–"  # this feature map has no closed form
    return f"{x:.1f}" if x < 9.95 else f"{x:.0f}"
