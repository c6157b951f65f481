"""What would they see where every token is read before the next one is written?"""

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from tripartite.kinds.dynamics import synapse


def synapse_causal(fits: dict[str, xr.Dataset]) -> Figure:
    """The figure `synapse` of a network in causal order."""
    return synapse.synapse(fits)


def table(fits: dict[str, xr.Dataset]) -> pd.DataFrame:
    """Its table."""
    return synapse.table(fits)


def answer(fits: dict[str, xr.Dataset]) -> str:
    """Its answer."""
    return synapse.answer(fits)
