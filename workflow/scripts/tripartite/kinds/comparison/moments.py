"""Bias and variance of networks, from the errors that independent seeds make on the same inputs."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from tripartite.statistics import Interval, over_seeds

Network = list[tuple[Tensor, Tensor, Tensor]]  # ln p, sign of p and output of each input


def of_networks(
    networks: Iterable[list[Network]], exact: Sequence[Tensor], log_normalizer: Sequence[Tensor]
) -> tuple[dict, np.ndarray]:
    """Statistics [n_features] of a head by the names of variables, and its relative square errors.

    networks [seed][n_features]; exact are the outputs [T, E] of softmax attention, log_normalizer
    its ln Z [T], of each input. The errors |O^ - O|^2 / |O|^2 are [n_features, input, seed].
    """
    errors, ratios, undivided = [], [], []
    for of_sizes in networks:
        outputs = [[output for _, _, output in network] for network in of_sizes]
        errors.append(torch.stack([error_vector(one, exact) for one in outputs]))
        ratios.append([normalizer_ratio(network, log_normalizer).numpy() for network in of_sizes])
        undivided.append([constant_gain_square(network, exact) for network in of_sizes])
    vectors = torch.stack(errors, 1)  # [n_features, seed, error]
    gram = (vectors @ vectors.mT).numpy()  # [n_features, seed, seed]
    statistics = moments_over_seeds(gram) | normalizer_statistics(np.stack(ratios, 1))
    statistics["constant_gain_mean_square"] = over_seeds(
        lambda x: x.mean(0), np.array(undivided), "log"
    )
    of_inputs = vectors.split([one.numel() for one in exact], -1)
    squares = torch.stack([x.square().sum(-1) for x in of_inputs], 1) * len(exact)
    return statistics, squares.numpy()


def relative_square(output: Tensor, exact: Tensor) -> float:
    """|O^ - O|^2 / |O|^2 of an output [T, E] of one input."""
    return float((output - exact).square().sum() / exact.square().sum())


def constant_gain_square(network: Network, exact: Sequence[Tensor]) -> float:
    """Least |c H h - O|^2 / |O|^2 of any constant c in place of 1 / p: mean over inputs.

    The constant is the best one for each input; with <., .> the sum over tokens and coordinates it
    leaves 1 - <H h, O>^2 / (|H h|^2 |O|^2).
    """
    squares = []
    for (log_p, sign, output), o in zip(network, exact):
        log_p = log_p.cpu()
        p = sign.cpu() * torch.exp(log_p - log_p.max())  # the scale does not matter
        drive = p[:, None] * output.cpu().double()
        along = (drive * o).sum().square() / (drive.square().sum() * o.square().sum())
        squares.append(1 - float(along))
    return max(0.0, sum(squares) / len(squares))


def error_vector(outputs: Sequence[Tensor], exact: Sequence[Tensor]) -> Tensor:
    """O^ - O [error] of all inputs [T, E] as one vector E.

    It is scaled so that |E|^2 is the mean over inputs of |O^ - O|^2 / |O|^2.
    """
    scale = math.sqrt(len(exact))
    return torch.cat(
        [
            ((output.cpu().double() - o) / (o.norm() * scale)).flatten()
            for output, o in zip(outputs, exact)
        ]
    )


def normalizer_ratio(network: Network, log_normalizer: Sequence[Tensor]) -> Tensor:
    """p / Z of the queries of all inputs [query]; inf where it is beyond float64."""
    return torch.cat(
        [
            sign.cpu() * torch.exp(log_p.cpu() - log_z)
            for (log_p, sign, _), log_z in zip(network, log_normalizer)
        ]
    )


def moments(gram: np.ndarray) -> np.ndarray:
    """Squared bias, variance and mean square of errors E_s from the products E_s.E_t.

    gram [..., S, S], S >= 2 -> [3, ...]. The squared bias is the mean of the products of different
    seeds, an unbiased estimate of |E E_s|^2 that may be negative; the variance is the rest.
    """
    n = gram.shape[-1]
    own = np.trace(gram, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", over="ignore"):  # networks whose output is beyond any number
        bias_squared = (gram.sum((-2, -1)) - own) / (n * (n - 1))
        return np.stack([bias_squared, own / n - bias_squared, own / n])


def moments_over_seeds(gram: np.ndarray) -> dict[str, Interval]:
    """moments of gram [n_features, S, S] with 95 % intervals over seeds; S >= 3."""
    ends = over_seeds(
        lambda kept: moments(gram[..., kept[:, None], kept]), np.arange(gram.shape[-1]), "linear"
    )
    return dict(zip(("bias_squared", "variance", "mean_square"), zip(*ends)))


def normalizer_statistics(ratios: np.ndarray) -> dict[str, np.ndarray | Interval]:
    """Statistics of p / Z [n_features, seed, query], pooled over queries of all inputs."""

    def median_error(values: np.ndarray) -> np.ndarray:  # [seed, n_features, query]
        pooled = np.moveaxis(np.abs(values - 1), 0, 1)
        return np.median(pooled.reshape(len(pooled), -1), -1)

    with np.errstate(invalid="ignore", over="ignore"):
        bias = np.median(ratios.mean(1) - 1, -1)
    return {
        "normalizer_bias": bias,
        "share_not_positive": (ratios <= 0).mean((1, 2)),
        "normalizer_error": over_seeds(median_error, np.moveaxis(ratios, 1, 0), "log"),
    }
