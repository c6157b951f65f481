"""How far the attention of hidden layers is from softmax attention, of each head and of all tests.

Attention has one of four origins: hidden layers that were trained (learned), random ones of the
same size (random), random ones whose distribution of weights is fitted to the inputs that train
(fitted random), and equal weights of all keys that are read (uniform).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tripartite.learning import (
    Example,
    Trained,
    divergence,
    feature_attention,
    log_features,
    outputs_loss,
)
from tripartite.network import Hidden, rates
from tripartite.statistics import Interval, over_clusters, wilson
from tripartite.symmetries import Symmetry, transform

ORIGINS = ("learned", "random", "fitted random", "uniform")
BASELINES = ("random", "fitted random", "uniform")  # what the other origins are compared with
MAX_HEADS = 16  # that are evaluated at a time
SMALLEST = 1e-12  # divergences and errors below are rounding errors

# ln A^ [h, T, T] of an example of some heads [h, ...], and which of all heads they are.
Attention = Callable[[Example, slice], Tensor]


def learned_attention(trained: Trained) -> Attention:
    """Attention of the features that were trained."""

    def log_weights(seen: Example, heads: slice) -> Tensor:
        of_queries, of_keys = (
            weights[heads].to(seen.q.device)
            for weights in (trained.query_weights, trained.key_weights)
        )
        log_phi = log_features(of_queries, seen.q), log_features(of_keys, seen.k)
        return feature_attention(*log_phi, seen.read)

    return log_weights


def random_attention(layers: Hidden, symmetry: Symmetry | None = None) -> Attention:
    """Attention of hidden layers with weights [H, m, D] and bias [H, m].

    With a symmetry of H heads the layers see queries and keys as it changes them, and its gain of
    each key.
    """

    def log_weights(seen: Example, heads: slice) -> Tensor:
        hidden = layers._replace(weights=layers.weights[heads], bias=layers.bias[heads])
        q, k, log_gain = seen.q, seen.k, seen.k.new_zeros(seen.k.shape[:-1])
        if symmetry is not None:
            of_heads = Symmetry(*(x[heads].to(q.device) for x in symmetry))
            q, k, log_gain, _ = transform(q, k, of_heads)
        log_q, log_k = (rates(hidden, x, layers.bias.shape[-1])[0] for x in (q, k))
        return feature_attention(log_q, log_k + log_gain[..., None], seen.read)

    return log_weights


def uniform_attention(seen: Example, heads: slice) -> Tensor:
    """Equal attention to all keys that are read."""
    log_share = -seen.read.sum(-1, keepdim=True).to(seen.weights).log()
    return log_share.expand_as(seen.weights).masked_fill(~seen.read, -torch.inf)


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
    kl: np.ndarray,
    output_error: np.ndarray,
    distinct: np.ndarray,
    stream: Callable[[str], np.random.Generator],
) -> dict:
    """Summaries of the tests over inputs, heads and seeds, by the names of variables.

    kl and output_error [origin, n_features, seed, input, H] are those of the tests; distinct [H]
    numbers the weights of heads, stream gives the random numbers for the interval of a variable.
    """
    found: dict[str, Interval] = {}
    for name, values in (("kl", kl), ("output_error", output_error)):
        of_sizes = [_of_finite_heads(x, distinct) for x in values.transpose(1, 3, 4, 2, 0)]
        summarised = {
            f"median_{name}": (_medians, "log"),
            f"log10_{name}_ratio": (_log10_ratios, "linear"),
            f"share_of_heads_{name}": (_shares_of_heads, "linear"),
        }
        for variable, (statistic, scale) in summarised.items():
            ends = [
                _over_tests(statistic, x, labels, stream(variable), scale) for x, labels in of_sizes
            ]
            estimate, low, high = (np.stack(end, -1) for end in zip(*ends))
            found[variable] = estimate, low, high
        share = f"share_of_heads_{name}"
        n_heads = np.array([len(np.unique(labels)) for _, labels in of_sizes])
        found[share] = within_shares(found[share], n_heads)
    return found


def within_shares(interval: Interval, n: np.ndarray) -> Interval:
    """An interval of shares [..., n_features] of n [n_features] distinct heads, between 0 and 1.

    It is at least that of as many independent heads (Wilson): where all heads go one way, drawing
    them again shows no spread.
    """
    share, low, high = interval
    least, most = (
        np.stack(ends, -1)
        for ends in zip(*(wilson(share[..., i], max(1, int(n_of))) for i, n_of in enumerate(n)))
    )
    low, high = (
        np.where(np.isfinite(low), x, np.nan)
        for x in (np.minimum(low, least), np.maximum(high, most))
    )
    return share, low.clip(0, 1), high.clip(0, 1)


def _over_tests(
    statistic: Callable,
    values: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    scale: str,
) -> Interval:
    """A statistic of values [input, H, seed, origin] and its interval; NaN without any value."""
    if values.size:
        return over_clusters(statistic, values, (None, labels, None), rng, scale)
    nothing = np.full(statistic(np.ones((1, 1, 1, len(ORIGINS)))).shape, np.nan)
    return nothing, nothing, nothing


def _of_finite_heads(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """values [input, H, seed, origin] of heads of which none is missing: origins stay paired."""
    finite = np.isfinite(values).all((0, 2, 3))
    return values[:, finite], labels[finite]


def _medians(values: np.ndarray) -> np.ndarray:
    """Medians [origin] of values [input, H, seed, origin]."""
    return np.median(values, (0, 1, 2))


def _log10_ratios(values: np.ndarray) -> np.ndarray:
    """Medians [origin, baseline] of the log10 of values over those of a baseline."""
    return np.median(_log10_over(values), (0, 1, 2))


def _shares_of_heads(values: np.ndarray) -> np.ndarray:
    """Shares [origin, baseline] of heads with less than a baseline: mean log over inputs, seeds."""
    ratio = _log10_over(values).mean((0, 2))  # [H, origin, baseline]
    return ((ratio < 0) + (ratio == 0) / 2).mean(0)


def _log10_over(values: np.ndarray) -> np.ndarray:
    """log10 of values [..., origin] over those of each baseline [..., origin, baseline]."""
    logs = np.log10(np.maximum(values, SMALLEST))  # of heads without any divergence
    baselines = logs[..., [ORIGINS.index(name) for name in BASELINES]]
    return logs[..., :, None] - baselines[..., None, :]
