"""All perturbations by their names: function, law, and what figures say of them.

A perturbation is a function and a law (perturbations.py), an entry here, and its doses among the
settings of kind.yaml. Figures draw them in this order.
"""

from dataclasses import dataclass, fields

from tripartite.kinds.perturbations import perturbations
from tripartite.kinds.perturbations.perturbations import Expected, Perturbed


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """What is done to a network, what is expected of it, and how it is drawn."""

    function: Perturbed
    law: Expected
    group: str  # the figure that draws it: lesions or noise
    title: str
    dose_label: str
    dose_scale: str = "linear"  # or log, or integer
    drawn: str = "added_error"  # variable that is drawn against the dose
    law_basis: str = "network"  # or attention, or rounding: what the law is made of
    law_holds: str = "in expectation, to first order in 1/m"  # how far the law is one
    gain_label: str = ""  # beside its gain; without one, gains are not drawn


ROUNDED = ("stochastic", "nearest")  # whose doses are bits
WORDS = tuple(field.name for field in fields(Perturbation) if field.type is str)

PERTURBATIONS = {
    "knockout_constant": Perturbation(
        function=perturbations.knockout_constant,
        law=perturbations.law_knockout_constant,
        group="lesions",
        title="calcium held constant",
        dose_label="constant / best constant",
        dose_scale="log",
        law_basis="attention",
        law_holds="identity",
        gain_label="constant",
    ),
    "knockout_mean": Perturbation(
        function=perturbations.knockout_mean,
        law=perturbations.law_knockout_mean,
        group="lesions",
        title="calcium drawn to its mean",
        dose_label="share of its variation lost",
        law_basis="attention",
        law_holds="identity",
        gain_label="mean",
    ),
    "knockout_lagged": Perturbation(
        function=perturbations.knockout_lagged,
        law=perturbations.law_knockout_lagged,
        group="lesions",
        title="calcium of an earlier token",
        dose_label="lag (tokens)",
        dose_scale="integer",
        law_basis="attention",
        law_holds="identity",
        gain_label="earlier",
    ),
    "astrocyte_inputs": Perturbation(
        function=perturbations.astrocyte_inputs,
        law=perturbations.law_astrocyte_inputs,
        group="lesions",
        title="contacts are lost",
        dose_label="share of inputs lost $c$",
        gain_label="inputs lost",
    ),
    "unensheathed": Perturbation(
        function=perturbations.unensheathed,
        law=perturbations.law_unensheathed,
        group="lesions",
        title="synapses without astrocyte",
        dose_label="share of synapses outside $f$",
        gain_label="no sheath",
        law_holds="in expectation",
    ),
    "synapses": Perturbation(
        function=perturbations.synapses,
        law=perturbations.law_synapses,
        group="lesions",
        title="synapses are lost",
        dose_label="share of synapses lost $c$",
        law_holds="in expectation",
    ),
    "neurons": Perturbation(
        function=perturbations.neurons,
        law=perturbations.law_neurons,
        group="lesions",
        title="hidden neurons die",
        dose_label="share of neurons lost $c$",
        drawn="output_error",
    ),
    "synaptic_noise": Perturbation(
        function=perturbations.synaptic_noise,
        law=perturbations.law_synaptic_noise,
        group="noise",
        title="noise of synapses",
        dose_label="sd of noise / rms synapse",
        dose_scale="log",
        law_holds="in expectation",
    ),
    "poisson": Perturbation(
        function=perturbations.poisson,
        law=perturbations.law_poisson,
        group="noise",
        title="neurons spike (Poisson)",
        dose_label="spikes of mean neuron per token",
        dose_scale="log",
    ),
    "heterogeneity": Perturbation(
        function=perturbations.heterogeneity,
        law=perturbations.law_heterogeneity,
        group="noise",
        title="neurons of unequal gain",
        dose_label="coefficient of variation",
        dose_scale="log",
        drawn="output_error",
    ),
    "stochastic": Perturbation(
        function=perturbations.stochastic,
        law=perturbations.law_stochastic,
        group="noise",
        title="coarse synapses, rounded at random",
        dose_label="bits per synapse",
        dose_scale="integer",
    ),
    "nearest": Perturbation(
        function=perturbations.nearest,
        law=perturbations.law_nearest,
        group="noise",
        title="coarse synapses, nearest level",
        dose_label="bits per synapse",
        dose_scale="integer",
        law_basis="rounding",
        law_holds="no law",
    ),
    "facilitation": Perturbation(
        function=perturbations.facilitation,
        law=perturbations.law_facilitation,
        group="noise",
        title="astrocyte contacts saturate",
        dose_label="largest $U\\varphi$ of a key",
        dose_scale="log",
        drawn="gain",
        law_holds="bounds",
    ),
}
