"""Which hidden neurons each network of a simulation has: networks of several sizes in one pass."""

from typing import NamedTuple

import numpy as np


class Arrangement(NamedTuple):
    """The neurons of every network [n_features, seed]; -1 where none has that size and seed."""

    draw: np.ndarray  # the independent draw of hidden weights that its neurons belong to
    first_neuron: np.ndarray  # its first neuron, counted within the draw


class Network(NamedTuple):
    """One network of a draw: its place on the axes n_features and seed, and its neurons."""

    size: int
    seed: int
    neurons: tuple[int, int]  # the first, and the one after the last


def arrangement(n_features: list[int], n_seeds: int, smaller_networks: str) -> Arrangement:
    """The networks of n_seeds draws.

    smaller_networks says how networks of less than the largest size share its neurons: "nested",
    each is the first neurons of the largest; "blocks", the largest is cut into as many as it holds,
    each with a seed of its own; "disjoint", the networks of a draw have no neuron in common.
    """
    blocks = [n_features[-1] // m if smaller_networks == "blocks" else 1 for m in n_features]
    before = np.cumsum([0, *n_features[:-1]]) * (smaller_networks == "disjoint")
    draw = np.full((len(n_features), n_seeds * max(blocks)), -1)
    first_neuron = draw.copy()
    for size, (m, n_blocks) in enumerate(zip(n_features, blocks)):
        seed = np.arange(n_seeds * n_blocks)
        draw[size, seed] = seed // n_blocks
        first_neuron[size, seed] = before[size] + seed % n_blocks * m
    return Arrangement(draw, first_neuron)


def networks_of(arranged: Arrangement, n_features: list[int], draw: int) -> list[Network]:
    """All networks whose neurons belong to a draw, in the order of sizes and seeds."""
    found = []
    for size, seed in np.argwhere(arranged.draw == draw).tolist():
        first = int(arranged.first_neuron[size, seed])
        found.append(Network(size, seed, (first, first + n_features[size])))
    return found
