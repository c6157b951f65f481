"""Synapses that forget: the retention that a network shows, and the gain of unequal leaks.

Written at age n (tokens that follow), H has kept exp(-lambda_H n) and g exp(-lambda_g n) of a key
when all are read. The attention of query t to key j is then, with kernel kappa,

    A_tj = kappa_tj exp(-lambda_H n_j) / sum_i kappa_ti exp(-lambda_g n_i)

(RetNet's decay where both are equal; Sun et al. 2023). Its rows sum to the gain

    G_t = sum_j a_tj exp(-lambda_H n_j) / sum_j a_tj exp(-lambda_g n_j),

a the attention without leak: 1 for equal leaks, above 1 where the astrocyte forgets faster than the
synapses that it scales. Leaks are per token here.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from tripartite.attention import relative_error
from tripartite.explanation import explain_attention
from tripartite.network import Leak
from tripartite.statistics import over_seeds


class Shown(NamedTuple):
    """What networks of all sizes with one leak show on one input."""

    leak_fitted: list[float]  # [n_features]
    leak_measured: list[float]  # [n_features]
    gain: np.ndarray  # [n_features, T], sum of a query's attention weights
    output_error: list[float]  # [n_features]
    log_retained: np.ndarray  # [age], of the largest network
    note: list[str]  # [n_features], why no leak is fitted; empty where one is


def ages(n_tokens: int) -> np.ndarray:
    """Tokens written after each of n_tokens, [N]."""
    return np.arange(n_tokens)[::-1].astype(float)


def log_retained_attention(log_kernel: np.ndarray, leak: Leak) -> np.ndarray:
    """ln A [T, N] for ln kappa [T, N] (but for a constant of each query)."""
    age = ages(log_kernel.shape[1])
    log_normalizer = logsumexp(log_kernel - leak.presynaptic * age, axis=1, keepdims=True)
    return log_kernel - leak.hebbian * age - log_normalizer


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


def measured_leak(log_ratio: np.ndarray) -> float:
    """Leak of H: falling slope (least squares) of ln(A with leak / A without) [T, N] on age.

    Each query has its own intercept. NaN where fewer than two keys of a query are known.
    """
    known = np.isfinite(log_ratio)
    known &= known.sum(1, keepdims=True) > 1
    if not known.any():
        return np.nan
    count = known.sum(1, keepdims=True).clip(1)
    age = np.broadcast_to(ages(log_ratio.shape[1]), log_ratio.shape)
    x = np.where(known, age - np.where(known, age, 0).sum(1, keepdims=True) / count, 0)
    return -float((x * np.where(known, log_ratio, 0)).sum() / np.square(x).sum())


def by_age(log_ratio: np.ndarray, n_ages: int) -> np.ndarray:
    """Mean over queries of ln(A with leak / A without) [T, N], for 0 to n_ages - 1 later tokens.

    NaN for ages that no key has.
    """
    curve = np.full(n_ages, np.nan)
    curve[: log_ratio.shape[1]] = log_ratio.mean(0)[::-1]
    return curve


def shown(
    weights: Sequence[np.ndarray],
    without: Sequence[np.ndarray],
    logits: np.ndarray,
    v: np.ndarray,
    leak: Leak,
    n_ages: int,
) -> Shown:
    """What attention weights with a leak show beside those without, [T, N] for each network.

    logits are the exact ones [T, N], values v [N, E].
    """
    exact = np.exp(log_retained_attention(logits, leak)) @ v
    with np.errstate(divide="ignore", invalid="ignore"):  # ln 0: retained less than float64 holds
        log_ratios = [np.log(ours) - np.log(plain) for ours, plain in zip(weights, without)]
    fits = [fitted_leak(ours, logits) for ours in weights]
    return Shown(
        leak_fitted=[leak for leak, _ in fits],
        leak_measured=[measured_leak(log_ratio) for log_ratio in log_ratios],
        gain=np.stack([ours.sum(-1) for ours in weights]),
        output_error=[float(relative_error(ours @ v, exact)) for ours in weights],
        log_retained=by_age(log_ratios[-1], n_ages),
        note=[note for _, note in fits],
    )


def laws(logits: list[np.ndarray], leaks: list[Leak], n_ages: int) -> dict[str, np.ndarray]:
    """Exact attention of inputs with logits [T, N]: gain [leak], and what is retained [leak, age].

    Gains are medians over queries and inputs, ln of what is retained are means: NaN for ages that
    some input does not have.
    """
    gains, curves = [], []
    for of_input in logits:
        without = log_retained_attention(of_input, Leak())
        ours = [log_retained_attention(of_input, leak) for leak in leaks]
        gains.append([np.exp(x).sum(1) for x in ours])
        curves.append([by_age(x - without, n_ages) for x in ours])
    return {
        "gain_law": np.median(np.concatenate(gains, 1), 1),
        "log_retained_law": np.mean(curves, 0),
    }


def summaries(
    runs: Sequence[Sequence[Sequence[Shown]]], token_seconds: float
) -> dict[str, tuple[np.ndarray, ...]]:
    """Estimates with intervals over seeds of what a head shows in runs [seed][input][leak].

    They are [leak, n_features], leaks in 1/s; log_retained is [leak, age], NaN for ages that some
    input does not have.
    """

    def per_run(name: str) -> np.ndarray:  # [seed, input, leak, n_features or age]
        return np.array([[[getattr(x, name) for x in leaks] for leaks in run] for run in runs])

    def mean(values: np.ndarray) -> np.ndarray:
        return values.mean((0, 1))

    gains = [np.concatenate([[x.gain for x in leaks] for leaks in run], -1) for run in runs]
    with np.errstate(invalid="ignore", over="ignore"):
        triples = {
            "leak_fitted": over_seeds(mean, per_run("leak_fitted") / token_seconds, "linear"),
            "leak_measured": over_seeds(mean, per_run("leak_measured") / token_seconds, "linear"),
            "gain": over_seeds(lambda x: np.median(x, (0, -1)), np.array(gains), "log"),
            "output_error": over_seeds(mean, per_run("output_error"), "log"),
            "log_retained": over_seeds(mean, per_run("log_retained"), "linear"),
        }
    return {
        name: tuple(np.where(np.isfinite(values), values, np.nan) for values in triple)
        for name, triple in triples.items()
    }


def first_notes(runs: Sequence[Sequence[Sequence[Shown]]]) -> np.ndarray:
    """The first note of any seed and input [leak, n_features], empty where all leaks are fitted."""
    notes = [[x.note for x in leaks] for run in runs for leaks in run]  # [run][leak][n_features]
    first = [
        [next(filter(None, networks), "") for networks in zip(*of_leak)] for of_leak in zip(*notes)
    ]
    return np.array(first, dtype=object)
