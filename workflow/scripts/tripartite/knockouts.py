"""Astrocytes that are knocked out: what they respond instead of p, of one head.

Each function maps ln p [T] of all queries and a dose to ln p' [T]. Only the calcium is changed, so
that the output of the head keeps its direction and has the gain p / p'.
"""

import math

import numpy as np
from scipy.special import logsumexp

Array = np.ndarray


def constant(log_p: Array, dose: float) -> Array:
    """p' = dose, where p estimates Z; 1 is the bare sum."""
    return np.full_like(log_p, math.log(dose))


def towards_mean(log_p: Array, dose: float) -> Array:
    """p' = p + dose (mean_t p - p)."""
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-dose) + log_p, np.log(dose) + log_mean(log_p))


def lagged(log_p: Array, dose: float) -> Array:
    """p'_t = p_(t - dose); the first tokens keep their own."""
    n = min(int(dose), len(log_p))
    return np.concatenate([log_p[:n], log_p[: len(log_p) - n]])


def log_mean(log_p: Array) -> float:
    """ln of the mean of p over queries."""
    return float(logsumexp(log_p) - math.log(len(log_p)))
