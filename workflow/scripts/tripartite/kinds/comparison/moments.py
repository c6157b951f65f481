"""Bias and variance of networks, from the errors that independent seeds make on the same inputs."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from tripartite.statistics import over_seeds

Interval = tuple[np.ndarray, np.ndarray, np.ndarray]  # an estimate, and the ends of its interval
Network = list[tuple[Tensor, Tensor, Tensor]]  # ln p, sign of p and output of each input


def of_networks(
    networks: Iterable[list[Network]], exact: Sequence[Tensor], log_normalizer: Sequence[Tensor]
) -> tuple[dict, np.ndarray]:
    """Statistics [n_features] of a head by the names of variables, and |E|^2 [n_features, seed].

    networks [seed][n_features]; exact are the outputs [T, E] of softmax attention, log_normalizer
    its ln Z [T], of each input.
    """
    errors, ratios = [], []
    for of_sizes in networks:
        outputs = [[output for _, _, output in network] for network in of_sizes]
        errors.append(torch.stack([error_vector(one, exact) for one in outputs]))
        ratios.append([normalizer_ratio(network, log_normalizer).numpy() for network in of_sizes])
    vectors = torch.stack(errors, 1)  # [n_features, seed, error]
    gram = (vectors @ vectors.mT).numpy()  # [n_features, seed, seed]
    statistics = moments_over_seeds(gram) | normalizer_statistics(np.stack(ratios, 1))
    return statistics, np.diagonal(gram, axis1=-2, axis2=-1)


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
