"""What do noise, spikes, unequal neurons and coarse synapses do, and is it what the laws say?"""

import xarray as xr
from matplotlib.figure import Figure

from tripartite.kinds.perturbations.lesions import TOTAL, Panel, dose_responses

COLUMNS = 3
PANELS = {
    "synaptic_noise": Panel("noise of synapses", "sd of noise / rms synapse", "log"),
    "poisson": Panel("neurons spike (Poisson)", "spikes of mean neuron per token", "log"),
    "heterogeneity": Panel(
        "neurons of unequal gain", "coefficient of variation", "log", "output_error", TOTAL
    ),
    "stochastic": Panel("coarse synapses, rounded at random", "bits per synapse", "integer"),
    "nearest": Panel("coarse synapses, nearest level", "bits per synapse", "integer", law=":"),
    "facilitation": Panel(
        "astrocyte contacts saturate",
        "largest $U\\varphi$ of a key",
        "log",
        "gain",
        "gain $p/p'$ (shade: bounds)",
    ),
}


def noise(fits: dict[str, xr.Dataset]) -> Figure:
    """Dose and response of every kind of noise, a panel each; rows per experiment.

    Root mean squares over inputs and seeds with 95 % intervals over seeds; laws are lines. Noise matters
    from the dose at which it adds more than the band.
    """
    return dose_responses(fits, PANELS, COLUMNS, "no noise in this experiment")
