"""What does the loss of astrocyte, neurons and synapses do, and is it what the laws say?"""

import xarray as xr
from matplotlib.figure import Figure

from tripartite.kinds.perturbations.dose_response import dose_responses


def lesions(fits: dict[str, xr.Dataset]) -> Figure:
    """Dose and response of every lesion, a panel each, and the gain; experiments in rows.

    Root mean squares over inputs and seeds with 95 % intervals over both; laws are lines.
    """
    return dose_responses(fits, "lesions", n_columns=4)
