"""What do whole transformers of any kind still do when their attention is a network?"""

from textwrap import fill

import xarray as xr
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import grid
from tripartite.kinds.rebuilt.language import draw_curves, legend

WIDEST = 24  # letters of a line beside an axis


def whole_models(fits: dict[str, xr.Dataset]) -> Figure:
    """A row for each model and a panel for each of its measures, against hidden neurons."""
    palette.apply()
    n_columns = max(fit.sizes["measure"] for fit in fits.values())
    figure, axes = grid(
        n_columns * len(fits),
        n_columns,
        lambda n_rows: (palette.PAGE, 0.4 + 1.75 * n_rows),
    )
    for row, (words, fit) in enumerate(zip(palette.labels(fits), fits.values())):
        of_model = axes[row * n_columns : (row + 1) * n_columns]
        for axis, name in zip(of_model, fit["measure"].values):
            draw_curves(axis, fit, str(name))
            axis.set_ylabel(fill(axis.get_ylabel(), WIDEST))
        for axis in of_model[fit.sizes["measure"] :]:
            axis.set_axis_off()
        of_model[0].set_title(words, loc="left", weight="bold")
        if row == len(fits) - 1:
            for axis in of_model:
                axis.set_xlabel("neurons $m$ of each head")
    handles = legend(list(fits.values()))
    figure.legend(handles=handles, loc="outside upper center", ncols=5)
    return figure
