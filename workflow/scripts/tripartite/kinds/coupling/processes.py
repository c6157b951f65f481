"""Astrocyte processes of heads side by side, coupled by gap junctions: their errors, and laws.

The heads lie one after another, each with some processes; process b of a head pools the neurons of
its own block, which make its own estimate of the normaliser Z_t of the head, and scales what its
own block sends to the last layer:

    o_t = sum_b drive_b / (P p_b),    p = (I + kappa L)^-1 z

with P processes per head, drive_b and z_b of a block in units of its size. One head whose processes
are coupled strongly is the network of all its neurons.

ASSUME: all heads read token t of an input at the same time, and their processes are settled.
ASSUME: homeostasis: contacts of a head are scaled so that its normaliser is 1 on average over
queries.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from tripartite import theory
from tripartite.kinds.coupling.gap_junctions import squared_errors, steady
from tripartite.network import Tokens, read
from tripartite.statistics import cluster_bootstrap

MIN_SEARCHED = 1e-4  # least kappa above 0 at which the law is searched

Array = np.ndarray


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


def measured_errors(
    blocks: list[Blocks], exact: Exact, junctions: list[Array], kappas: Array
) -> tuple[Array, Array]:
    """Mean squared errors of the gain, p / Z - 1, and of the output, |O^ - O| / |O|.

    blocks are those of each head, junctions the Laplacian of each layout. Returns those of the
    gain, averaged over processes and queries, as [layout, strength, m, head], and those of the
    output as [layout, strength, m, head, input].
    """
    z = [np.exp(block.log_p - log_mean) for block, log_mean in zip(blocks, exact.log_mean)]
    drive = np.concatenate(z, 1).swapaxes(1, 2)  # [m, token, process of all heads]
    exact_drive = exact.drive[..., None]
    gain, output = [], []
    for laplacian, kappa in itertools.product(junctions, kappas):
        p = steady(drive, laplacian, kappa).reshape(*drive.shape[:2], len(blocks), -1)
        ratio = p / exact_drive  # [m, token, head, process]
        gain.append(np.square(ratio - 1).mean((1, 3)))
        share = drive.reshape(p.shape) / (p.shape[-1] * p)
        made = [
            np.einsum("mtb,mbte->mte", share[:, :, head], block.outputs)
            for head, block in enumerate(blocks)
        ]
        output.append(
            [
                [_relative_squares(x, own, exact.n_tokens) for x in of_sizes]
                for of_sizes, own in zip(made, exact.outputs)
            ]
        )
    shape = (len(junctions), len(kappas), len(drive), len(blocks))
    of_inputs = np.array(output).swapaxes(1, 2)  # [layout and strength, m, head, input]
    return np.array(gain).reshape(shape), of_inputs.reshape(*shape, -1)


def _relative_squares(output: Array, exact: Array, n_tokens: list[int]) -> Array:
    """|O^ - O|^2 / |O|^2 of each input, for outputs [token of all inputs, E]."""
    starts = np.cumsum([0, *n_tokens[:-1]])
    error, norm = (np.add.reduceat(np.square(x).sum(-1), starts) for x in (output - exact, exact))
    return error / norm


def laws(
    inputs: list[list[Tokens]],
    exact: Exact,
    n_features: list[int],
    n_processes: int,
    junctions: list[Array],
    kappas: Array,
) -> tuple[Array, Array, Array]:
    """Noise and mixing, whose sum is the expected squared error of the gain, and the best kappa.

    inputs are the tokens of each head and input, whose theory.log_second_moment gives the noise.
    Returns noise [layout, strength, m, head], mixing [layout, strength, head], and the kappa
    [layout, m] at which their sum, averaged over heads, is least.
    """
    of_heads = [np.concatenate([_log_second_moment(x) for x in of_head]) for of_head in inputs]
    log_r = np.repeat(np.stack(of_heads, -1), n_processes, -1)  # [token, process]
    z = np.repeat(exact.drive, n_processes, -1)
    variance = np.square(z) * np.expm1(log_r)  # of one neuron

    def parts(laplacian: Array, kappa: float) -> Array:
        """Noise of one neuron and mixing, [2, head]."""
        both = squared_errors(z, variance, laplacian, kappa)
        relative = [(x / np.square(z)).mean(0) for x in both]
        return np.array(relative).reshape(2, -1, n_processes).mean(-1)

    grid = np.array([[parts(laplacian, kappa) for kappa in kappas] for laplacian in junctions])
    noise = grid[:, :, None, 0] / np.array(n_features)[:, None]
    mixing = grid[:, :, 1]
    best = np.full((len(junctions), len(n_features)), np.nan)
    ends = np.log(np.maximum(kappas[[0, -1]], MIN_SEARCHED))
    for (a, laplacian), (b, m) in itertools.product(enumerate(junctions), enumerate(n_features)):

        def log_error(log_kappa: float, laplacian: Array = laplacian, m: int = m) -> float:
            one_neuron, mixed = parts(laplacian, np.exp(log_kappa))
            return np.log((one_neuron / m + mixed).mean())

        on_grid = (noise[a, :, b] + mixing[a]).mean(-1)
        if len(laplacian) > 1 and np.isfinite(on_grid).all() and on_grid.max() > 0:
            least = minimize_scalar(log_error, bounds=ends, method="bounded")
            candidates = [(least.fun, np.exp(least.x)), *zip(np.log(on_grid), kappas)]
            best[a, b] = min(candidates)[1]
    return noise, mixing, best


def _log_second_moment(tokens: Tokens) -> Array:
    log_z = torch.logsumexp(tokens.q @ tokens.k.mT, -1)
    return theory.log_second_moment(tokens.q, tokens.k, log_z, tokens.log_gain[None]).numpy()


def best_strength(
    squares: Array, kappas: Array, rng: np.random.Generator
) -> tuple[tuple[Array, Array, Array], Array]:
    """Strength of the least error with its interval over seeds, and a note, all [layout, m].

    squares [seed, layout, strength, m, head]: heads have the same number of processes.
    """
    of_all = squares.mean(-1)
    place, low, high = cluster_bootstrap(
        lambda values: values.mean(0).argmin(1), of_all, 1, rng, n_draws=1000
    )
    note = np.full(place.shape, "", dtype=object)
    note[place == 0] = "the weakest coupling that was tried is best"
    note[place == len(kappas) - 1] = "the strongest coupling that was tried is best"
    idle = ~np.isfinite(of_all).all((0, 2)) | (np.ptp(of_all, axis=2) == 0).all(0)
    note[idle] = "coupling changes nothing, or errors are beyond float64"
    estimate, lower, upper = (
        np.where(idle, np.nan, kappas[x.astype(int)]) for x in (place, np.floor(low), np.ceil(high))
    )
    return (estimate, lower, upper), note
