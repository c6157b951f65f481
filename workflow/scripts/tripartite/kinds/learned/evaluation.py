"""How far the attention of hidden layers is from softmax attention, of each head and of all tests.

Attention has one of three origins: hidden layers that were trained (learned), random ones of the
same size, and equal weights of all tokens (uniform).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tripartite.kinds.learned.learning import (
    Example,
    Trained,
    divergence,
    feature_attention,
    log_features,
    outputs_loss,
)
from tripartite.network import Hidden, rates
from tripartite.statistics import cluster_interval

ORIGINS = ("learned", "random", "uniform")
MAX_HEADS = 16  # that are evaluated at a time

Interval = tuple[np.ndarray, np.ndarray, np.ndarray]  # an estimate, and the ends of its interval
# ln A^ [h, T, T] of an example of some heads [h, ...], and which of all heads they are.
Attention = Callable[[Example, slice], Tensor]


def learned_attention(trained: Trained) -> Attention:
    """Attention of the features that were trained."""

    def log_weights(seen: Example, heads: slice) -> Tensor:
        of_queries, of_keys = (
            weights[heads].to(seen.q.device)
            for weights in (trained.query_weights, trained.key_weights)
        )
        return feature_attention(log_features(of_queries, seen.q), log_features(of_keys, seen.k))

    return log_weights


def random_attention(layers: Hidden) -> Attention:
    """Attention of hidden layers with weights [H, m, D] and bias [H, m]."""

    def log_weights(seen: Example, heads: slice) -> Tensor:
        hidden = layers._replace(weights=layers.weights[heads], bias=layers.bias[heads])
        log_q, log_k = (rates(hidden, x, layers.bias.shape[-1])[0] for x in (seen.q, seen.k))
        return feature_attention(log_q, log_k)

    return log_weights


def uniform_attention(seen: Example, heads: slice) -> Tensor:
    """Equal attention to all tokens."""
    return torch.full_like(seen.weights, -math.log(seen.k.shape[1]))


def errors(examples: list[Example], attention: Attention) -> tuple[np.ndarray, np.ndarray]:
    """KL(A || A^) and the relative error of the output, both [input, H]."""
    kl, output_error = [], []
    for one in examples:
        for first in range(0, len(one.q), MAX_HEADS):
            heads = slice(first, first + MAX_HEADS)
            seen = Example(*(x[heads] for x in one))
            log_weights = attention(seen, heads)
            kl.append(divergence(log_weights, seen))
            output_error.append(outputs_loss(log_weights, seen).sqrt())

    def joined(parts: list[Tensor]) -> np.ndarray:
        return torch.cat(parts).reshape(len(examples), -1).cpu().numpy()

    return joined(kl), joined(output_error)


def summaries(
    kl: np.ndarray, output_error: np.ndarray, bootstrap: Callable[[str], np.random.Generator]
) -> dict:
    """Medians over test inputs, heads and seeds [origin, n_features], by the names of variables.

    kl and output_error [origin, n_features, seed, input, H] are those of the tests; bootstrap gives
    the random numbers for the interval of a variable.
    """
    kl, output_error = (x.transpose(1, 3, 4, 2, 0) for x in (kl, output_error))
    random, uniform = (kl[..., [ORIGINS.index(name)]] for name in ("random", "uniform"))
    with np.errstate(divide="ignore", invalid="ignore"):  # of heads without any divergence
        ratio = np.log10(kl / random)
    found: dict = {}
    for name, values in (
        ("median_kl", kl),
        ("median_output_error", output_error),
        ("log10_kl_ratio", ratio),
    ):
        of_sizes = [_median(one, bootstrap(name)) for one in values]
        found[name] = tuple(np.stack(ends, 1) for ends in zip(*of_sizes))
    better = np.where(np.isnan(kl), np.nan, kl < uniform)
    shares = [_of_finite_heads(one) for one in better]
    nothing = np.full(len(ORIGINS), np.nan)
    found["share_better_than_uniform"] = np.stack(
        [one.mean((0, 1, 2)) if one.size else nothing for one in shares], 1
    )
    return found


def _median(values: np.ndarray, rng: np.random.Generator) -> Interval:
    """Median and interval, each [origin], of values [input, H, seed, origin]; NaN if unknown."""
    values = _of_finite_heads(values)
    if not values.size:
        nothing = np.full(len(ORIGINS), np.nan)
        return nothing, nothing, nothing
    return cluster_interval(lambda x: np.median(x, (0, 1, 2)), values, 3, rng)


def _of_finite_heads(values: np.ndarray) -> np.ndarray:
    """values [input, H, seed, origin] of heads of which none is missing: origins stay paired."""
    return values[:, np.isfinite(values).all((0, 2, 3))]
