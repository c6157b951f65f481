"""What one token costs a transformer whose heads are neuron-astrocyte networks.

Counts are exact: neurons, synapses, and synaptic events, which are spikes that arrive at a synapse.
Energies are counts times published energies of one event (PUBLISHED; docs/sources.md says from
where, and how far each was checked). How many spikes a rate takes is not known. Every energy has
therefore two estimates, low and high, each the end of all assumptions together.

Every token is written once and read once, so that hidden neurons, and the inputs that drive them,
fire in two passes; all others fire in one. Embeddings, the layer that reads out tokens, norms and
inhibition are not counted.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

PUBLISHED = {
    "ATP for a vesicle": 1.64e5,  # molecules
    "release by a spike": 0.25,  # vesicles
    "ATP for a spike, 2001": 3.84e8,  # molecules
    "ATP for a spike, 2012": 1.17e8,  # molecules
    "synapses of a neuron": 8000,
    "free energy of ATP": 5e4,  # J/mol
    "active neurons": 0.01,  # share
    "lowest rate": 0.15,  # Hz
    "highest rate": 16,  # Hz
    "neuromorphic event": 23.6e-12,  # J
    "GPU, power": 700,  # W
    "GPU, peak": 989e12,  # FLOP/s
    "language model, token": 4,  # J
    "language model, parameters": 65e9,
    "power of the brain": 20,  # W
    "power of cortical signals": 3.6,  # W
    "silent reading": 260,  # words/min
    "reading aloud": 183,  # words/min
    "neurons of the cortex": 1.6e10,
    "synapses of the cortex": 1.5e14,
}
AVOGADRO = 6.02214076e23  # 1/mol
ESTIMATES = ("low", "high")
# Synapses by what they join. The first three are those of attention, and used in two passes.
SYNAPSES = (
    "input_to_hidden",
    "hidden_to_output",
    "hidden_to_astrocyte",
    "projections",
    "feed_forward",
)
PASSES = (2, 2, 2, 1, 1)
LOG10_FEATURES = np.linspace(0, 25, 101)  # of m for which costs are counted
CONTEXTS = (100, 1000, 10_000, 100_000)  # tokens
AXES = {  # of what `variables` gives
    "estimate": ESTIMATES,
    "synapse": SYNAPSES,
    "context": CONTEXTS,
    "log10_features": LOG10_FEATURES,
}


class Sizes(NamedTuple):
    """Sizes of a transformer; all layers are alike."""

    layers: int
    heads: int
    key_heads: int  # keys and values that heads share
    d_head: int
    d_value: int
    d_model: int
    width: int  # of the feed-forward layer
    gated: bool  # whether the feed-forward layer has a gate, a third matrix


def sizes_of(layers: int, heads: int, layer: Mapping) -> Sizes:
    """Sizes of a transformer out of the weights of one layer, by the names of their parts.

    layer: what pretrained.transformers calls them, such as query.weight [heads d_head, d_model];
    anything with shapes serves.
    """
    width, d_model = layer["up.weight"].shape
    d_head = layer["query.weight"].shape[0] // heads
    key_heads = layer["key.weight"].shape[0] // d_head
    return Sizes(
        layers=layers,
        heads=heads,
        key_heads=key_heads,
        d_head=d_head,
        d_value=layer["value.weight"].shape[0] // key_heads,
        d_model=d_model,
        width=width,
        gated="gate.weight" in layer,
    )


def hidden_neurons(sizes: Sizes, m: ArrayLike) -> np.ndarray:
    """Hidden neurons of all heads, for m in each head."""
    # ASSUME: every head of every layer has hidden neurons of its own, also where heads share keys.
    return sizes.layers * sizes.heads * np.asarray(m, dtype=float)


def other_neurons(sizes: Sizes) -> int:
    """Neurons that are not hidden ones.

    Those are inputs and outputs of heads, and the neurons that drive projections and feed-forward.
    """
    of_heads = sizes.heads * (sizes.d_head + sizes.d_value)
    return sizes.layers * (of_heads + 2 * sizes.d_model + sizes.width)


def astrocyte_processes(sizes: Sizes, m: ArrayLike) -> np.ndarray:
    """Astrocyte processes of all heads: one at each synapse from a hidden to an output neuron."""
    return hidden_neurons(sizes, m) * sizes.d_value


def synapses(sizes: Sizes, m: ArrayLike) -> np.ndarray:
    """Synapses of all layers [synapse, *m] by what they join (SYNAPSES); m: neurons of a head."""
    hidden = hidden_neurons(sizes, m)
    outputs = sizes.heads * sizes.d_head + sizes.key_heads * (sizes.d_head + sizes.d_value)
    projections = sizes.d_model * (outputs + sizes.heads * sizes.d_value)
    feed_forward = (3 if sizes.gated else 2) * sizes.d_model * sizes.width
    return np.stack(
        [
            hidden * sizes.d_head,
            hidden * sizes.d_value,
            hidden,
            np.full_like(hidden, sizes.layers * projections),
            np.full_like(hidden, sizes.layers * feed_forward),
        ]
    )


def spikes_per_pass() -> np.ndarray:
    """Mean spikes of a neuron while a token is written, or read [estimate].

    Low: a share of the neurons fires, each once. High: the lowest rate that neurons have is told
    from zero by one spike, and rates are spread evenly over the decades up to the highest.
    """
    # ASSUME: rates are log-uniform between the lowest and the highest of cortical neurons.
    spread = PUBLISHED["highest rate"] / PUBLISHED["lowest rate"]
    return np.array([PUBLISHED["active neurons"], (spread - 1) / np.log(spread)])


def events(sizes: Sizes, m: ArrayLike) -> np.ndarray:
    """Synaptic events of one token [estimate, synapse, *m]."""
    # ASSUME: signs of inputs and outputs cost nothing, though a sign takes a second neuron.
    passes = np.multiply.outer(spikes_per_pass(), PASSES)  # [estimate, synapse]
    of_kinds = synapses(sizes, m)
    return passes.reshape(*passes.shape, *[1] * (of_kinds.ndim - 1)) * of_kinds


def spikes(sizes: Sizes, m: ArrayLike) -> np.ndarray:
    """Spikes that all neurons fire for one token [estimate, *m]."""
    inputs = sizes.layers * sizes.heads * sizes.d_head
    fired = 2 * hidden_neurons(sizes, m) + inputs + other_neurons(sizes)
    return np.multiply.outer(spikes_per_pass(), fired)


def tissue_energy(sizes: Sizes, m: ArrayLike) -> np.ndarray:
    """Energy of one token in living tissue, in J [estimate, *m].

    An event releases vesicles with the same probability in both. The axon costs the less the fewer
    synapses it reaches (low), or as much as that of a whole cortical neuron (high).
    """
    # ASSUME: the calcium of astrocytes costs nothing; taking up glutamate is part of a vesicle.
    # ASSUME: plasticity costs nothing more; 4 to 11 % of transmission is published.
    # ASSUME: resting neurons, unlike those of the brain, cost nothing.
    per_molecule = PUBLISHED["free energy of ATP"] / AVOGADRO
    transmission = PUBLISHED["release by a spike"] * PUBLISHED["ATP for a vesicle"]
    axon = PUBLISHED["ATP for a spike, 2012"] / PUBLISHED["synapses of a neuron"]
    low, high = events(sizes, m).sum(1)
    molecules = np.stack(
        [
            low * (transmission + axon),
            high * transmission + spikes(sizes, m)[1] * PUBLISHED["ATP for a spike, 2001"],
        ]
    )
    return molecules * per_molecule


def neuromorphic_energy(sizes: Sizes, m: ArrayLike) -> np.ndarray:
    """Energy of one token on a neuromorphic chip, in J [estimate, *m]: events alone."""
    return events(sizes, m).sum(1) * PUBLISHED["neuromorphic event"]


def network_operations(sizes: Sizes, m: ArrayLike) -> np.ndarray:
    """Operations of one token on a digital chip that runs the network, in FLOP [*m].

    A synapse takes a multiplication and an addition in each pass, whatever the context.
    """
    # ASSUME: exponentials, divisions and norms are few beside products.
    return 2 * np.tensordot(PASSES, synapses(sizes, m), 1)


def softmax_operations(sizes: Sizes, context: ArrayLike) -> np.ndarray:
    """Operations of one token in FLOP if attention is exact, with so many tokens in context."""
    static = synapses(sizes, 0)[3:].sum()
    of_head = sizes.d_head + sizes.d_value  # logits, and the mean of values
    pairs = sizes.layers * sizes.heads * np.asarray(context, dtype=float)
    return 2 * (static + pairs * of_head)


def even_context(sizes: Sizes, m: ArrayLike) -> np.ndarray:
    """Tokens of context at which both take the same number of operations [*m].

    Softmax attention takes fewer in all shorter ones.
    """
    passes = 2 * (sizes.d_head + sizes.d_value + 1)
    return np.asarray(m, dtype=float) * passes / (sizes.d_head + sizes.d_value)


def chip_energy(operations: ArrayLike) -> np.ndarray:
    """Energy of operations (FLOP) on a digital chip, in J [estimate, ...].

    Low: a graphics processor at its peak. High: what was measured of a language model that writes.
    """
    peak = PUBLISHED["GPU, power"] / PUBLISHED["GPU, peak"]
    # ASSUME: a language model takes two operations for each of its parameters and tokens.
    measured = PUBLISHED["language model, token"] / (2 * PUBLISHED["language model, parameters"])
    return np.multiply.outer([peak, measured], np.asarray(operations, dtype=float))


def brain_energy() -> np.ndarray:
    """Energy of a brain while it reads one word, in J [estimate].

    Low: signals and computation in the cortex, silent reading. High: all of it, reading aloud.
    """
    # ASSUME: a token is a word.
    return np.array(
        [
            PUBLISHED["power of cortical signals"] * 60 / PUBLISHED["silent reading"],
            PUBLISHED["power of the brain"] * 60 / PUBLISHED["reading aloud"],
        ]
    )


def affordable_features(sizes: Sizes) -> np.ndarray:
    """log10 of the m at which a token costs tissue as much as a word costs a brain [estimate].

    The low estimate of the network has the high one of the brain, and the high one the low one, so
    that these are the most and the fewest neurons of a head; NaN where all else costs more.
    """
    none, one = np.moveaxis(tissue_energy(sizes, [0.0, 1.0]), -1, 0)
    left = brain_energy()[::-1] - none  # energy is linear in m
    return np.log10(np.where(left > 0, left, np.nan) / (one - none))


def cortical_features(sizes: Sizes) -> np.ndarray:
    """log10 of the m at which hidden neurons, or synapses, are as many as those of a human cortex.

    In this order [2]; NaN where all else has more.
    """
    none, one = np.moveaxis(synapses(sizes, [0.0, 1.0]).sum(0), -1, 0)
    left = PUBLISHED["synapses of the cortex"] - none
    return np.log10(
        [
            PUBLISHED["neurons of the cortex"] / hidden_neurons(sizes, 1),
            np.where(left > 0, left, np.nan) / (one - none),
        ]
    )


def variables(sizes: Sizes) -> dict[str, np.ndarray]:
    """All of it by the names of variables, along AXES."""
    m = 10**LOG10_FEATURES
    neurons, of_synapses = cortical_features(sizes)
    return {
        "cost_hidden_neurons": hidden_neurons(sizes, m),
        "cost_other_neurons": np.asarray(other_neurons(sizes), dtype=float),
        "cost_astrocyte_processes": astrocyte_processes(sizes, m),
        "cost_synapses": synapses(sizes, m),
        "cost_spikes": spikes(sizes, m),
        "cost_events": events(sizes, m),
        "cost_tissue": tissue_energy(sizes, m),
        "cost_neuromorphic": neuromorphic_energy(sizes, m),
        "cost_chip": chip_energy(network_operations(sizes, m)),
        "cost_chip_softmax": chip_energy(softmax_operations(sizes, CONTEXTS)),
        "cost_even_context": even_context(sizes, m),
        "cost_brain": brain_energy(),
        "log10_affordable_features": affordable_features(sizes),
        "log10_cortical_neurons": np.asarray(neurons),
        "log10_cortical_synapses": np.asarray(of_synapses),
    }
