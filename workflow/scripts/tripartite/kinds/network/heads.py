"""Every head of a model at a glance, as a map, a table and a page: what it needs, how it errs."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from tripartite.figures import palette
from tripartite.figures.panels import map_ticks
from tripartite.kinds.network import heads_page, of_heads
from tripartite.kinds.network.features_needed import LIMITS, draw_scale

N_COLUMNS = 2
FEW = 5  # log10 of neurons that are few
ERRORS = (0, 1)  # of the output; those beyond have the darkest colour
COLOURS = "cividis_r"  # dark is bad
MAX_LETTERS = 100  # of the title


def heads(fits: dict[str, xr.Dataset]) -> Figure:
    """Neurons that each head needs by each recipe, and output errors of the largest networks.

    Colours alone: the numbers stand in the table and the page beside the figure.
    """
    palette.apply()
    frame, simulated = of_heads.rows(fits), of_heads.networks(fits)
    first = next(iter(fits.values()))
    needed = [name for name in of_heads.RECIPES if f"log10_needed_{name}" in frame]
    parts = [("needs", needed), ("errors", [*simulated])]
    n_rows = {name: -(-len(panels) // N_COLUMNS) for name, panels in parts if panels}
    figure = plt.figure(figsize=(palette.PAGE, 0.4 + sum(0.7 + 1.75 * n for n in n_rows.values())))
    title = palette.shown(first.attrs["data"])
    title = title if len(title) <= MAX_LETTERS else f"{title[: MAX_LETTERS - 1]}…"
    figure.suptitle(palette.plain_text(title), weight="bold", fontsize=7, x=0.01, ha="left")
    rows = figure.subfigures(len(n_rows), squeeze=False, height_ratios=[*n_rows.values()])[:, 0]
    places = {
        name: [*part.subplots(n, N_COLUMNS, squeeze=False).flat]
        for part, (name, n) in zip(rows, n_rows.items())
    }
    for axis, name in zip(places.get("needs", []), needed):
        values = frame[f"log10_needed_{name}"]
        draw_map(axis, first, values, LIMITS)
        few = f"{(values <= FEW).sum()} of {len(values)} heads need at most $10^{FEW}$"
        words = f"{of_heads.WORDS[name]}: median {palette.power(values.median())} neurons"
        axis.set_title(f"{words}\n{few}", loc="left")
    for axis, (name, fit) in zip(places.get("errors", []), simulated.items()):
        m = int(fit["n_features"][-1])
        values = frame[f"output_error_{name}_{m}"]
        draw_map(axis, first, values, ERRORS)
        better = (values < frame["output_error_uniform"]).sum()
        words = f"{name}, {m} neurons: median error {palette.decimal(values.median())}"
        below = f"{better} of {values.notna().sum()} heads below uniform attention"
        axis.set_title(f"{words}\n{below}", loc="left")
    for axis in figure.axes:
        if not axis.images:  # an odd number of panels leaves one empty
            axis.set_axis_off()
    for part, (name, axes) in zip(rows, places.items()):
        if name == "needs":
            draw_scale(part, axes)
        else:
            draw_error_scale(part, axes)
    return figure


def draw_error_scale(figure: FigureBase, axes: list[Axes]) -> None:
    """The colours of errors as a bar below the axes."""
    figure.colorbar(
        mpl.cm.ScalarMappable(mpl.colors.Normalize(*ERRORS), COLOURS),
        ax=axes,
        location="bottom",
        extend="max",
        aspect=60,
        pad=0.02,
        label="relative error of the attention output (mean over inputs and networks)",
    )


def draw_map(axis: Axes, fit: xr.Dataset, values: pd.Series, limits: tuple[float, float]) -> None:
    """One number of each head as a colour, layer by head."""
    colours = mpl.colormaps[COLOURS].with_extremes(bad=palette.NOT_KNOWN)
    cells = values.values.reshape(fit.sizes["layer"], fit.sizes["head"])
    low, high = limits
    axis.imshow(cells, colours, aspect="auto", vmin=low, vmax=high, interpolation="none")
    map_ticks(axis, fit)
    if not np.isfinite(cells).any():
        axis.annotate("not known", (0.5, 0.5), xycoords="axes fraction", ha="center")


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """The numbers of all heads, a row each."""
    return of_heads.rows(fits)


def page(fits: dict[str, xr.Dataset]) -> str:
    """The page on which one hovers over the heads."""
    first = next(iter(fits.values()))
    simulated = {
        name: [*map(int, fit["n_features"])] for name, fit in of_heads.networks(fits).items()
    }
    return heads_page.page(of_heads.rows(fits), first.attrs["data"], simulated)
