"""Astrocyte processes of heads side by side, coupled by gap junctions: their errors, and laws.

The heads lie one after another, each with some processes; process b of a head pools the neurons of
its own block, which make its own estimate z_b of the normaliser Z of the head, and scales what its
own block sends to the last layer. With P processes per head and o_b, the output that block b alone
would have,

    O^ = 1/P sum_b (z_b / p_b) o_b,    p = M z,    M = (I + kappa L)^-1.

One head whose processes are coupled strongly is the network of all its neurons: no better than the
mean of its blocks, each divided by its own response, as the block that responds most outweighs the
others.

Two errors. That of the gain, p_b / Z - 1, says how well calcium follows the normaliser; coupling
averages its noise. The output sees it only as far as the numerator does not share it: the attention
weights that O^ is made with sum to

    G = 1/P sum_b z_b / p_b,

which is 1 without coupling, whatever the error of z_b is, as block and process pool the same
neurons. Coupling makes p_b a mean over other blocks and takes this cancellation away. So

    O^ - O = (O^ / G - O) + (G - 1) O^ / G

exactly: an error of the attention, of which every block has its own weight z_b / p_b, and an error
of the sum of the weights, which coupling brings.

Laws. C is the second moment of one neuron (theory.py), V the values, m the neurons of a block. To
first order in the noise of the z_b, exact in the mixing of the means of other heads, and with p*_b
= (M Z)_b,

    G* = 1/P sum_b Z / p*_b,    a_j = 1/P sum_b (delta_bj / p*_b - Z M_bj / p*_b^2)
    E(G - 1)^2        = (G* - 1)^2 + sum_j a_j^2 var z_j,    var z_j = Z_j^2 (R_j - 1) / m
    E|O^ / G - O|^2   = T / m  sum_b p*_b^-2 / (sum_b p*_b^-1)^2
    E|O^ - O|^2       = |O|^2 E(G - 1)^2 + T / m (Z / P)^2 sum_b p*_b^-2
                        - 2 Z^2 / (P m) (B . O) sum_b a_b / p*_b

b over the head's own processes and j over all, T the trace of (V - O)^T C (V - O) / Z^2 and B =
-(V - O)^T C 1 / Z^2. Between equal heads the sums of a_b vanish where a head is coupled with itself
alone, and strong coupling with many leaves the noise of the numerator without what cancels it.

ASSUME: all heads read token t of an input at the same time, and their processes are settled.
ASSUME: homeostasis: contacts of a head are scaled so that its normaliser is 1 on average over
queries.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tripartite import theory
from tripartite.kinds.coupling.gap_junctions import steady
from tripartite.network import Tokens, read
from tripartite.statistics import Interval, best_place, over_clusters

Array = np.ndarray

# Squared errors that are measured, in their order on the last axis.
ERRORS = ("gain_error", "output_error", "attention_error", "sum_error")
CHANGES = ("gain", "output")  # of which changes are told
CLUSTERS = (None, None)  # seed and input


class Exact(NamedTuple):
    """Softmax attention of the heads at the queries of all inputs, one input after another."""

    log_normalizer: Array  # [token, head]
    outputs: list[Array]  # [token, E] of each head
    n_tokens: list[int]  # of each input

    @property
    def log_mean(self) -> Array:
        """ln of the mean normaliser of each head [head]."""
        return np.logaddexp.reduce(self.log_normalizer, axis=0) - np.log(len(self.log_normalizer))

    @property
    def drive(self) -> Array:
        """What drives the processes of a head without noise [token, head], 1 on average."""
        return np.exp(self.log_normalizer - self.log_mean)

    def mean(self, values: Array) -> Array:
        """Means over the queries of each input of values [token, ...]: [input, ...]."""
        return np.stack([x.mean(0) for x in np.split(values, np.cumsum(self.n_tokens)[:-1])])

    def relative(self, squares: Array) -> Array:
        """Sums over the queries of each input of squares [token, head], over those of |O|^2."""
        norms = np.stack([np.square(output).sum(-1) for output in self.outputs], -1)
        return self.mean(squares) / self.mean(norms)  # [input, head]


class Blocks(NamedTuple):
    """What the blocks of neurons of one head make of the queries, for one draw of its weights."""

    log_p: Array  # [m, process, token], estimates of ln Z
    outputs: Array  # [m, process, token, E]


def read_blocks(
    inputs: Sequence[Tokens],
    neurons: Iterable[tuple[Tensor, Tensor]],
    n_features: list[int],
    n_processes: int,
) -> Blocks:
    """The first n_processes blocks of m neurons each, for each m in n_features."""
    ranges = [(b * m, (b + 1) * m) for m in n_features for b in range(n_processes)]
    networks = read(inputs, neurons, ranges)
    log_p, outputs = (
        np.stack([torch.cat([x[part] for x in of_inputs]).numpy() for of_inputs in networks])
        for part in (0, 2)
    )
    shape = (len(n_features), n_processes)
    return Blocks(*(x.reshape(*shape, *x.shape[1:]) for x in (log_p, outputs)))


def squared_errors(
    blocks: list[Blocks], exact: Exact, laplacians: list[Array], kappas: Array
) -> Array:
    """Mean squares [input, layout, strength, m, head, error] of ERRORS, for one seed.

    blocks are those of each head. The error of the gain is averaged over processes and queries;
    those of the output are sums over queries, relative to that of |O|^2.
    """
    z = [np.exp(block.log_p - log_mean) for block, log_mean in zip(blocks, exact.log_mean)]
    drive = np.concatenate(z, 1).swapaxes(1, 2)  # [m, token, process of all heads]
    n_sizes, n_queries, _ = drive.shape
    found = []
    for laplacian, kappa in itertools.product(laplacians, kappas):
        p = steady(drive, laplacian, kappa).reshape(n_sizes, n_queries, len(blocks), -1)
        gain = np.square(p / exact.drive[..., None] - 1).mean(-1)  # [m, token, head]
        weight = drive.reshape(p.shape) / (p.shape[-1] * p)  # of each block
        parts = [gain, *np.empty((3, *gain.shape))]
        for head, (block, o) in enumerate(zip(blocks, exact.outputs)):
            made = np.einsum("mtb,mbte->mte", weight[:, :, head], block.outputs)
            normalized = made / weight[:, :, head].sum(-1, keepdims=True)
            differences = (made - o, normalized - o, made - normalized)
            for part, difference in zip(parts[1:], differences):
                part[..., head] = np.square(difference).sum(-1)
        found.append(
            [
                np.stack([exact.mean(of_gain), *map(exact.relative, of_output)], -1)
                for of_gain, *of_output in zip(*parts)
            ]
        )  # [layout and strength][m] of [input, head, error]
    squares = np.array(found).reshape(len(laplacians), len(kappas), *np.shape(found)[1:])
    return np.moveaxis(squares, 3, 0)


# Statistics of squares [seed, input, layout, strength, m, head, error] as of squared_errors.


def of_heads(squares: Array, rng: np.random.Generator) -> dict[str, Interval]:
    """Errors of each head, and how many times they are those at the strength 0.

    [layout, strength, m, head] with intervals over seeds and inputs.
    """
    errors = over_clusters(_root_mean, squares, CLUSTERS, rng, "log")
    changes = over_clusters(_change, squares[..., :2], CLUSTERS, rng, "log")
    found = {name: _part(errors, i) for i, name in enumerate(ERRORS)}
    return found | {f"{name}_change": _part(changes, i) for i, name in enumerate(CHANGES)}


def _part(triple: Interval, i: int) -> Interval:
    """One of the quantities [..., quantity] of an interval."""
    estimate, low, high = (x[..., i] for x in triple)
    return estimate, low, high


def of_all(
    squares: Array, each: dict[str, Interval], distinct: Array, rng: np.random.Generator
) -> dict:
    """Geometric means over heads of the changes, and numbers of heads by the sign of theirs.

    each has the changes of heads as of `of_heads`, distinct is as of Heads. [layout, strength, m]
    with intervals over seeds, inputs and heads; a head counts whose interval leaves out 1.
    """
    heads_first = np.moveaxis(squares[..., :2], -2, 0)

    def geometric_mean(x: Array) -> Array:
        return np.exp(np.log(_change(np.moveaxis(x, 0, -2))).mean(-2))

    changes = over_clusters(geometric_mean, heads_first, (distinct, *CLUSTERS), rng, "log")
    found: dict = {}
    for i, name in enumerate(CHANGES):
        _, low, high = each[f"{name}_change"]
        found |= {
            f"{name}_change_all": _part(changes, i),
            f"{name}_better": (high < 1).sum(-1),
            f"{name}_worse": (low > 1).sum(-1),
        }
    return found


def _root_mean(squares: Array) -> Array:
    return np.sqrt(squares.mean((0, 1)))


def _change(squares: Array) -> Array:
    means = squares.mean((0, 1))
    return np.sqrt(means / means[:, :1])


def best_strengths(squares: Array, kappas: Array, rng: np.random.Generator) -> dict[str, Interval]:
    """Tried strength of the least error of gain and output, and the first and last that may be.

    [layout, m, head]; NaN where coupling changes nothing, or errors are beyond float64.
    """
    found: dict[str, Interval] = {}
    shape = (squares.shape[2], *squares.shape[4:6])
    for i, name in enumerate(CHANGES):
        ends = np.full((3, *shape), np.nan)
        for layout, size, head in np.ndindex(shape):
            errors = squares[:, :, layout, :, size, head, i]
            means = errors.mean((0, 1))
            if np.isfinite(means).all() and np.ptp(means) > 1e-12 * means.max():
                ends[:, layout, size, head] = kappas[[*best_place(errors, CLUSTERS, rng)]]
        found[f"best_{name}_strength"] = ends[0], ends[1], ends[2]
    return found


# Laws.


def laws(
    inputs: list[list[Tokens]],
    exact: Exact,
    n_features: list[int],
    n_processes: int,
    laplacians: list[Array],
    kappas: Array,
) -> dict[str, Array]:
    """Expected errors of each head [layout, strength, m, head], as in the header.

    inputs are the tokens of each head and input. gain_error_law is exact, and so is its part from
    mixing, [layout, strength, head].
    """
    z = exact.drive  # [token, head]
    log_r, trace, bias = (np.stack(x, -1) for x in zip(*map(_moments, inputs, exact.outputs)))
    variance = np.repeat(np.square(z) * np.expm1(log_r), n_processes, -1)  # of one neuron
    square = np.stack([np.square(output).sum(-1) for output in exact.outputs], -1)
    per_neuron = 1 / np.array(n_features)[:, None]  # [m, 1]
    n_heads, n = z.shape[1], variance.shape[1]
    own = np.eye(n).reshape(n_heads, n_processes, n)
    found: dict[str, list] = {}
    for laplacian, kappa in itertools.product(laplacians, kappas):
        spread = steady(np.eye(n), laplacian, kappa).reshape(own.shape)  # [head, process, n]
        p = np.einsum("hbn,tn->thb", spread, np.repeat(z, n_processes, -1))
        inverse = 1 / p
        a = np.einsum("thb,hbn->thn", inverse, own)
        a -= z[..., None] * np.einsum("thb,hbn->thn", inverse**2, spread)
        a /= n_processes
        own_a = np.einsum("thn,hbn->thb", a, own)
        mixing = np.square(p / z[..., None] - 1).mean(-1)
        noise = np.einsum("hbn,tn->th", spread**2, variance) / n_processes / np.square(z)
        sum_mixing = np.square((z[..., None] * inverse).mean(-1) - 1) * square
        sum_noise = np.einsum("thn,tn->th", a**2, variance) * square
        attention = trace * np.square(inverse).sum(-1) / np.square(inverse.sum(-1))
        output = trace * np.square(z / n_processes) * np.square(inverse).sum(-1)
        output -= 2 * np.square(z) / n_processes * bias * (own_a * inverse).sum(-1)
        of_gain = [exact.mean(x).mean(0) for x in (noise, mixing)]
        parts = (attention, sum_noise, sum_mixing, sum_noise + output)
        mean_attention, mean_noise, mean_mixing, mean_output = (
            exact.relative(x).mean(0) for x in parts
        )
        for name, value in {
            "gain_error_law": per_neuron * of_gain[0] + of_gain[1],
            "gain_error_mixing": of_gain[1],
            "attention_error_law": per_neuron * mean_attention,
            "sum_error_law": per_neuron * mean_noise + mean_mixing,
            "output_error_law": per_neuron * mean_output + mean_mixing,
        }.items():
            found.setdefault(name, []).append(np.sqrt(value))
    shape = (len(laplacians), len(kappas))
    return {name: np.reshape(x, (*shape, *np.shape(x)[1:])) for name, x in found.items()}


def _moments(inputs: list[Tokens], output: Array) -> tuple[Array, Array, Array]:
    """ln R, and T and B . O of the header for one neuron, [token of all inputs]."""
    found = []
    lengths = [len(tokens.q) for tokens in inputs]
    for tokens, o in zip(inputs, torch.from_numpy(output).split(lengths)):
        q, k, v, log_gain = tokens
        log_z = torch.logsumexp(q @ k.mT, -1)
        log_r = theory.log_second_moment(q, k, log_z, log_gain[None])
        log_scale, trace, bias, _ = theory.output_moments(q, k, v, o, log_z, log_gain[None])
        scale = log_scale.exp()
        found.append((log_r, scale * trace, scale * (bias * o).sum(-1)))
    first, second, third = (torch.cat(x).numpy() for x in zip(*found))
    return first, second, third
