"""Synapses that forget: the retention that a network shows, and the gain of unequal leaks.

Written at age n (tokens that follow), H has kept exp(-lambda_H n) and g exp(-lambda_g n) of a key
when all are read. The attention of query t to key j is then, with kernel kappa,

    A_tj = kappa_tj exp(-lambda_H n_j) / sum_i kappa_ti exp(-lambda_g n_i)

(RetNet's decay where both are equal; Sun et al. 2023). Its rows sum to the gain

    G_t = sum_j a_tj exp(-lambda_H n_j) / sum_j a_tj exp(-lambda_g n_j),

a the attention without leak: 1 for equal leaks, above 1 where the astrocyte forgets faster than the
synapses that it scales. So a network with a leak is the same network without, whose attention is
weighted by age (`log_retained_attention`), and is not run again. Leaks are per token here.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from tripartite.attention import relative_error
from tripartite.explanation import explain_attention
from tripartite.network import Leak
from tripartite.statistics import Interval, over_clusters


class Shown(NamedTuple):
    """What networks of all sizes with one leak show on one input."""

    leak_fitted: list[float]  # [n_features]
    gain: list[float]  # [n_features], sum of a query's attention weights, median over queries
    output_error: list[float]  # [n_features]
    log_retained: np.ndarray  # [age], of the largest network
    note: list[str]  # [n_features], why no leak is fitted; empty where one is


def ages(n_tokens: int) -> np.ndarray:
    """Tokens written after each of n_tokens, [N]."""
    return np.arange(n_tokens)[::-1].astype(float)


def log_retained_attention(log_kernel: np.ndarray, leak: Leak) -> np.ndarray:
    """ln A [T, N] for ln kappa [T, N] (but for a constant of each query)."""
    return log_kernel + log_retained(log_kernel, leak)


def log_retained(log_kernel: np.ndarray, leak: Leak) -> np.ndarray:
    """ln A [T, N] less ln kappa [T, N]; for kappa whose rows sum to 1, less ln A without leak.

    It falls with age by the leak of H, whatever kappa is; its height depends on kappa.
    """
    age = ages(log_kernel.shape[1])
    log_normalizer = logsumexp(log_kernel - leak.presynaptic * age, axis=1, keepdims=True)
    return -leak.hebbian * age - log_normalizer


def fitted_leak(weights: np.ndarray, logits: np.ndarray) -> tuple[float, str]:
    """Leak of H that explains attention weights [T, N] best, given the exact logits; and a note.

    Maximum likelihood of softmax attention with a temperature and a decay; a gain per query
    cancels. NaN where there is none, and the note says why.
    """
    if not np.isfinite(weights).all():
        return np.nan, "the gain is beyond float64"
    total = weights.sum(1, keepdims=True)
    if not (total > 0).all():
        return np.nan, f"{(total <= 0).sum()} queries have no response"
    age = np.broadcast_to(ages(logits.shape[1]), logits.shape)
    fit = explain_attention(weights / total, logits, age, "temperature and decay")
    return fit.estimates["decay"], fit.note


def by_age(log_ratio: np.ndarray, n_ages: int) -> np.ndarray:
    """Mean over queries of ln(A with leak / A without) [T, N], for 0 to n_ages - 1 later tokens.

    NaN for ages that no key has.
    """
    curve = np.full(n_ages, np.nan)
    curve[: log_ratio.shape[1]] = log_ratio.mean(0)[::-1]
    return curve


def shown(
    without: Sequence[np.ndarray], logits: np.ndarray, v: np.ndarray, leak: Leak, n_ages: int
) -> Shown:
    """What networks show with a leak, whose attention weights without it are [T, N] each.

    logits are the exact ones [T, N], values v [N, E].
    """
    exact = np.exp(log_retained_attention(logits, leak)) @ v
    with np.errstate(divide="ignore", over="ignore"):  # less than float64 holds, or more
        log_plain = [np.log(weights) for weights in without]
        ours = [np.exp(log_retained_attention(x, leak)) for x in log_plain]
    fits = [fitted_leak(weights, logits) for weights in ours]
    with np.errstate(over="ignore", invalid="ignore"):
        errors = [float(relative_error(weights @ v, exact)) for weights in ours]
    return Shown(
        leak_fitted=[leak for leak, _ in fits],
        gain=[float(np.median(weights.sum(-1))) for weights in ours],
        output_error=errors,
        log_retained=by_age(log_retained(log_plain[-1], leak), n_ages),
        note=[note for _, note in fits],
    )


def laws(logits: list[np.ndarray], leaks: list[Leak], n_ages: int) -> dict[str, np.ndarray]:
    """Exact attention of inputs with logits [T, N]: gain [leak], and what is retained [leak, age].

    Gains are medians over queries, ln of what is retained are means, and both are means over
    inputs: NaN for ages that some input does not have.
    """
    gains, curves = [], []
    for of_input in logits:
        plain = log_retained_attention(of_input, Leak())
        gains.append([np.median(np.exp(log_retained_attention(plain, x)).sum(1)) for x in leaks])
        curves.append([by_age(log_retained(plain, x), n_ages) for x in leaks])
    return {"gain_law": np.mean(gains, 0), "log_retained_law": np.mean(curves, 0)}


def summaries(
    runs: Sequence[Sequence[Sequence[Shown]]], token_seconds: float, rng: np.random.Generator
) -> dict[str, Interval]:
    """Means with intervals over seeds and inputs of what a head shows in runs [seed][input][leak].

    They are [leak, n_features], leaks in 1/s; log_retained is [leak, age], NaN for ages that some
    input does not have.
    """

    def mean(name: str, scale: str, unit: float = 1.0) -> Interval:
        values = [[[getattr(x, name) for x in leaks] for leaks in run] for run in runs]
        triple = over_clusters(
            lambda x: x.mean((0, 1)), np.array(values) / unit, [None, None], rng, scale
        )
        estimate, low, high = (np.where(np.isfinite(x), x, np.nan) for x in triple)
        return estimate, low, high

    with np.errstate(invalid="ignore", over="ignore"):
        return {
            "leak_fitted": mean("leak_fitted", "linear", token_seconds),
            "gain": mean("gain", "log"),
            "output_error": mean("output_error", "log"),
            "log_retained": mean("log_retained", "linear"),
        }


def first_notes(runs: Sequence[Sequence[Sequence[Shown]]]) -> np.ndarray:
    """The first note of any seed and input [leak, n_features], empty where all leaks are fitted."""
    notes = [[x.note for x in leaks] for run in runs for leaks in run]  # [run][leak][n_features]
    first = [
        [next(filter(None, networks), "") for networks in zip(*of_leak)] for of_leak in zip(*notes)
    ]
    return np.array(first, dtype=object)
