"""Do networks follow their laws? Measured over law, of all kinds of experiments that have one."""

from collections.abc import Callable, Iterator
from textwrap import fill

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tripartite.figures import palette
from tripartite.figures.panels import beyond, estimates, frame, heads_by, legend, line, mark, spread

MAX_HEADS, MAX_DOSES = 3, 5  # of an experiment
MAX_RATIO = 0.03  # of time constants to the time of a token, for laws of first order
RANGE = (0.5, 2.0)  # axis of measured over law
ROW = 90  # points in a row of panels
PANELS = ("convergence", "coupling", "retention", "lesions", "noise")
TITLES = {
    "convergence": "Continuous time",
    "coupling": "Gap junctions",
    "retention": "Leaks",
    "lesions": "Lesions",
    "noise": "Noise",
}
Quantities = Iterator[tuple[str, str, str, xr.Dataset, str]]  # panel, column, dose, fit, variable


def laws(fits: dict[str, xr.Dataset]) -> Figure:
    """Measured over law, a panel per kind of check, a column per quantity."""
    palette.apply()
    drawn = table(fits)
    drawn = drawn[np.isfinite(drawn["ratio"])]
    of_panels = {name: drawn[drawn["check"] == name] for name in PANELS}
    of_panels = {name: own for name, own in of_panels.items() if len(own)}
    n_rows = 2 if len(of_panels) > 2 else 1
    figure = Figure(figsize=(palette.PAGE, (62 * n_rows + 12) * palette.MM))
    return figure


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    raise NotImplementedError
