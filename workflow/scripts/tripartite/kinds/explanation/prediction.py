"""The inverse temperature of a network of m neurons by the random-energy model.

The typical response to one pair is Phi(b_m - sigma) exp(sigma^2 / 2), with reach b_m - sigma as in
phases.py. The derivative of its ln by sigma, over sigma, says how fast an attention weight grows
with its logit:

    beta = 1 - phi(x) / (sigma Phi(x)),   x = b_m - sigma + shift.

It holds for networks outside the Gaussian phase. Without shift it gives the shape and is too low.
"""

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_ndtr

from tripartite import phases
from tripartite.statistics import cluster_bootstrap
from tripartite.streams import stream

SHIFTS = (-3.0, 6.0)  # in which the shift is searched
MIN_NETWORKS = 3  # to which it is fitted, of at least
MIN_HEADS = 2
UNKNOWN = (math.nan,) * 3


def predicted_inverse_temperature(
    reach: np.ndarray, sigma: np.ndarray, shift: float = 0.0
) -> np.ndarray:
    """beta of networks of reach b_m - sigma; shapes are broadcast."""
    x = reach + shift
    with np.errstate(over="ignore"):  # far below, where the two exponents differ by rounding alone
        return (
            1 - np.exp(-np.square(x) / 2 - math.log(math.sqrt(2 * math.pi)) - log_ndtr(x)) / sigma
        )


def inverse_temperature_shift(reach: np.ndarray, sigma: np.ndarray, measured: np.ndarray) -> float:
    """The shift at which the prediction fits measured inverse temperatures best (least squares)."""

    def misfit(shift: float) -> float:
        return float(np.square(predicted_inverse_temperature(reach, sigma, shift) - measured).sum())

    return float(minimize_scalar(misfit, bounds=SHIFTS, method="bounded").x)


def predicted(log_m: np.ndarray, sigma_squared: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """beta [m, head] for sizes [m] and sigma^2 [head]; NaN in the Gaussian phase."""
    with np.errstate(invalid="ignore"):
        beta = predicted_inverse_temperature(
            phases.reach(log_m[:, None], sigma_squared), np.sqrt(sigma_squared), shift
        )
    return np.where(_is_gaussian(log_m, sigma_squared), np.nan, beta)


def fitted_shift(
    log_m: np.ndarray, sigma_squared: np.ndarray, measured: np.ndarray
) -> tuple[tuple[float, float, float], str]:
    """The shift that fits measured beta [m, head] best, with its interval over heads, and a note.

    Networks in the Gaussian phase do not count. NaN where there is no shift; the note says why.
    """
    reach = phases.reach(log_m[:, None], sigma_squared)
    usable = ~_is_gaussian(log_m, sigma_squared) & np.isfinite(measured) & np.isfinite(reach)
    heads = np.flatnonzero(usable.any(0))
    if len(heads) < MIN_HEADS or usable.sum() < MIN_NETWORKS:
        return UNKNOWN, (
            f"{usable.sum()} networks of {len(heads)} heads outside the Gaussian phase, "
            f"{MIN_NETWORKS} of {MIN_HEADS} needed"
        )
    sigma = np.broadcast_to(np.sqrt(sigma_squared), reach.shape)
    networks = np.stack([reach, sigma, measured, usable], -1)[:, heads].swapaxes(0, 1)

    def shift(x: np.ndarray) -> np.ndarray:  # of [head, m, 4]
        x = x[x[..., 3] == 1]
        return np.asarray(inverse_temperature_shift(*x[:, :3].T))

    rng = stream(0, "bootstrap", "shift")
    middle, low, high = cluster_bootstrap(shift, networks, 1, rng, n_draws=500)
    if min(abs(middle - end) for end in SHIFTS) < 1e-3:
        return UNKNOWN, f"no shift between {SHIFTS[0]:g} and {SHIFTS[1]:g} fits best"
    return (float(middle), float(low), float(high)), ""


def _is_gaussian(log_m: np.ndarray, sigma_squared: np.ndarray) -> np.ndarray:
    gaussian = phases.PHASES.index("gaussian")
    return phases.phase(log_m[:, None], sigma_squared) == gaussian
