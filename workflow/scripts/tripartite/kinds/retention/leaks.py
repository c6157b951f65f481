"""Synapses that forget: the retention that a network shows, and the gain of unequal leaks.

Written at age n (tokens that follow), H has kept exp(-lambda_H n) and g exp(-lambda_g n) of a key when
all are read. The attention of query t to key j is then, with kernel kappa,

    A_tj = kappa_tj exp(-lambda_H n_j) / sum_i kappa_ti exp(-lambda_g n_i)

(RetNet's decay where both are equal; Sun et al. 2023). Its rows sum to the gain

    G_t = sum_j a_tj exp(-lambda_H n_j) / sum_j a_tj exp(-lambda_g n_j),

a the attention without leak: 1 for equal leaks, above 1 where the astrocyte forgets faster than the
synapses that it scales. Leaks are per token here.
"""

import numpy as np
from scipy.special import logsumexp

from tripartite.explanation import explain_attention


def ages(n_tokens: int) -> np.ndarray:
    """Tokens written after each of n_tokens, [N]."""
    return np.arange(n_tokens)[::-1].astype(float)


def log_attention(
    log_kernel: np.ndarray, age: np.ndarray, leak_hebbian: float, leak_presynaptic: float
) -> np.ndarray:
    """ln A [T, N] for ln kappa [T, N] (but for a constant of each query) and ages [N]."""
    log_normalizer = logsumexp(log_kernel - leak_presynaptic * age, axis=1, keepdims=True)
    return log_kernel - leak_hebbian * age - log_normalizer


def fitted_leak(weights: np.ndarray, logits: np.ndarray, age: np.ndarray) -> tuple[float, str]:
    """Leak of H per token that explains attention weights [T, N] best, given the exact logits; and a note.

    Maximum likelihood of softmax attention with a temperature and a decay; a gain per query cancels.
    NaN where there is none, and the note says why.
    """
    if not np.isfinite(weights).all():
        return np.nan, "the gain is beyond float64"
    total = weights.sum(1, keepdims=True)
    if not (total > 0).all():
        return np.nan, f"{(total <= 0).sum()} queries have no response"
    fit = explain_attention(
        weights / total, logits, np.broadcast_to(age, logits.shape), "temperature and decay"
    )
    return fit.estimates["decay"], fit.note


def measured_leak(log_ratio: np.ndarray, age: np.ndarray) -> float:
    """Leak of H per token: least-squares slope, falling, of ln(A with leak / A without) [T, N] on age.

    Each query has its own intercept. NaN where fewer than two keys of a query are known.
    """
    known = np.isfinite(log_ratio)
    known &= known.sum(1, keepdims=True) > 1
    if not known.any():
        return np.nan
    count = known.sum(1, keepdims=True).clip(1)
    age = np.broadcast_to(age, log_ratio.shape)
    x = np.where(known, age - np.where(known, age, 0).sum(1, keepdims=True) / count, 0)
    return -float((x * np.where(known, log_ratio, 0)).sum() / np.square(x).sum())
