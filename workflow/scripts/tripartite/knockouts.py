"""Astrocytes that are knocked out: what they respond instead of p.

Only the calcium is changed, so that the output of a head keeps its direction and has the gain
p / p'. The size of a constant p' is a matter of units: rates or learning rates that are c times
larger make p larger by c or c^2 and change nothing else. So a constant is to be measured against
the constant that serves best (log_best_constant), which has the units of p.
"""

import math

import numpy as np
from scipy.special import logsumexp

Array = np.ndarray


def towards_mean(log_p: Array, dose: float) -> Array:
    """ln p' [T] of p' = p + dose (mean_t p - p), of ln p [T]."""
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-dose) + log_p, np.log(dose) + log_mean(log_p))


def lagged(log_p: Array, dose: float) -> Array:
    """ln p' [..., T] of p'_t = p_(t - dose); the first tokens keep their own."""
    n = min(int(dose), log_p.shape[-1])
    return np.concatenate([log_p[..., :n], log_p[..., : log_p.shape[-1] - n]], -1)


def log_mean(log_p: Array) -> Array:
    """ln of the mean of p over queries, the last axis."""
    return logsumexp(log_p, -1) - math.log(log_p.shape[-1])


def log_best_constant(log_p: Array, squares: Array) -> Array:
    """ln of the constant c that is best to divide by in place of p, of queries [..., T].

    squares are |o|^2 of the outputs o that are divided by p. c leaves the least sum of squares
    sum_t (p_t / c - 1)^2 |o_t|^2, which is at 1 / c = <p |o|^2> / <p^2 |o|^2>. Where all outputs
    are 0 any constant serves.
    """
    squares = np.where((squares > 0).any(-1, keepdims=True), squares, 1)
    with np.errstate(divide="ignore"):
        weight = np.log(squares)
    return logsumexp(2 * log_p + weight, -1) - logsumexp(log_p + weight, -1)
