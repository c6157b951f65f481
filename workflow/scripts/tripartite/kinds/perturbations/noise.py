"""What do noise, spikes, unequal neurons and coarse synapses do, and is it what the laws say?"""

import xarray as xr
from matplotlib.figure import Figure

from tripartite.kinds.perturbations.dose_response import dose_responses


def noise(fits: dict[str, xr.Dataset]) -> Figure:
    """Dose and response of every kind of noise, a panel each; experiments in rows.

    Root mean squares over inputs and seeds with 95 % intervals over both; laws are lines. Noise
    matters from the dose at which it adds more than the band; bits that are needed stand below.
    """
    return dose_responses(fits, "noise", n_columns=3)
