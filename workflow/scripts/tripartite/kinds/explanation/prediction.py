"""The inverse temperature of a network of m neurons, as predicted.

By the random-energy model: the typical response to one pair is Phi(b_m - sigma) exp(sigma^2 / 2),
with reach b_m - sigma as in phases.py. The derivative of its ln by sigma, over sigma, says how fast
an attention weight grows with its logit:

    beta = 1 - phi(x) / (sigma Phi(x)),   x = b_m - sigma + shift.

It holds for networks outside the Gaussian phase. Without shift it has no parameter, gives the shape
and is too low. A shift is compared only with heads that it was not fitted to.

By the exact mean of logs: one weight is exp(q . k) times the mean S of m independent terms
exp(sigma z - sigma^2 / 2), z standard normal, sigma = |q + k|, over the sum of its row. So the
slope of ln weights on logits, each row centred, is over networks on average

    sum_tj c_tj (q_t . k_j + E ln S(|q_t + k_j|)) / sum_tj c_tj^2,   c the centred logits,

over the pairs of a query and a key that it reads,

in all phases and without parameter, whatever neurons the pairs share.
"""

import math

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar
from scipy.special import log_ndtr

from tripartite import phases
from tripartite.statistics import Interval, over_clusters
from tripartite.streams import stream

SHIFTS = (-3.0, 6.0)  # in which the shift is searched
MIN_NETWORKS = 2  # to which it is fitted, of at least
MIN_HEADS = 2  # for an interval
MAX_SIGMA = 30.0  # largest |q + k| for which E ln S is computed; its time grows like the 4th power
MAX_VALUES = 1 << 22  # of integrands at a time
NODES = 32  # of sigma, between which E ln S is interpolated


def predicted_inverse_temperature(
    reach: np.ndarray, sigma: np.ndarray, shift: float | np.ndarray = 0.0
) -> np.ndarray:
    """beta of networks of reach b_m - sigma; shapes are broadcast."""
    x = reach + shift
    with np.errstate(over="ignore"):  # far below, where the two exponents differ by rounding alone
        return (
            1 - np.exp(-np.square(x) / 2 - math.log(math.sqrt(2 * math.pi)) - log_ndtr(x)) / sigma
        )


def inverse_temperature_shift(reach: np.ndarray, sigma: np.ndarray, measured: np.ndarray) -> float:
    """The shift at which the prediction fits measured inverse temperatures best (least squares).

    NaN where it is at an end of SHIFTS, or for fewer than MIN_NETWORKS.
    """

    def misfit(shift: float) -> float:
        return float(np.square(predicted_inverse_temperature(reach, sigma, shift) - measured).sum())

    if measured.size < MIN_NETWORKS:
        return math.nan
    shift = float(minimize_scalar(misfit, bounds=SHIFTS, method="bounded").x)
    return math.nan if min(abs(shift - end) for end in SHIFTS) < 1e-3 else shift


def predicted(
    log_m: np.ndarray, sigma_squared: np.ndarray, shift: float | np.ndarray = 0.0
) -> np.ndarray:
    """beta [m, head] for sizes [m], sigma^2 and shift [head]; NaN in the Gaussian phase."""
    with np.errstate(invalid="ignore"):
        beta = predicted_inverse_temperature(
            phases.reach(log_m[:, None], sigma_squared), np.sqrt(sigma_squared), shift
        )
    return np.where(_is_gaussian(log_m, sigma_squared), np.nan, beta)


def fitted_shifts(
    log_m: np.ndarray, sigma_squared: np.ndarray, measured: np.ndarray, distinct: np.ndarray
) -> tuple[Interval, np.ndarray, str]:
    """The shift of all heads with its interval over them, that of the others [head], and a note.

    measured beta is [m, head]. distinct [head] has one number for heads that share their weights;
    the others of a head are those of other numbers. Networks in the Gaussian phase do not count.
    NaN where there is no shift; the note says why.
    """
    reach = phases.reach(log_m[:, None], sigma_squared)
    usable = ~_is_gaussian(log_m, sigma_squared) & np.isfinite(measured) & np.isfinite(reach)
    sigma = np.broadcast_to(np.sqrt(sigma_squared), reach.shape)
    networks = np.stack([reach, sigma, measured, usable], -1).swapaxes(0, 1)  # [head, m, 4]

    def shift(x: np.ndarray) -> np.ndarray:
        return np.asarray(inverse_temperature_shift(*x[x[..., 3] == 1][:, :3].T))

    of_others = np.array([float(shift(networks[distinct != label])) for label in distinct])
    heads = np.flatnonzero(usable.any(0))
    unknown = (np.asarray(math.nan),) * 3
    if len(np.unique(distinct[heads])) < MIN_HEADS:
        return (
            unknown,
            of_others,
            (
                f"{usable.sum()} networks of {len(heads)} heads outside the Gaussian phase, "
                f"{MIN_HEADS} heads with weights of their own needed"
            ),
        )
    if np.isnan(shift(networks)):
        return unknown, of_others, f"no shift between {SHIFTS[0]:g} and {SHIFTS[1]:g} fits best"
    rng = stream(0, "bootstrap", "shift")
    return over_clusters(shift, networks[heads], [distinct[heads]], rng, n_draws=500), of_others, ""


def mean_log_response(log_m: np.ndarray, sigma: float) -> np.ndarray:
    """E ln S [m] of the mean S of exp(log_m) independent exp(sigma z - sigma^2 / 2).

    By E ln S = int (exp(-s) - E exp(-s S)) ds / s, with E exp(-s S) = (E exp(-s X / m))^m for one
    term X. Both integrands are analytic in a strip of half width pi / 2 (in ln s, and in sigma z),
    so that equal steps err by exp(-pi^2 / step), which is below 1e-14 here.
    """
    step = min(0.1, 0.3 / max(sigma, 1e-9))
    z = np.arange(-9 - sigma, 9 + sigma + step, step)
    density = step * np.exp(-np.square(z) / 2) / math.sqrt(2 * math.pi)
    log_s = np.arange(-36, sigma**2 / 2 + 8 * sigma + log_m[-1] + 4, 0.2)
    blocks = np.array_split(log_s, -(-len(log_s) * len(z) // MAX_VALUES))
    found = []
    for one in log_m:
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            lost = np.concatenate(  # 1 - E exp(-s X / m), from s X / m [s, z]
                [
                    -np.expm1(-np.exp(part[:, None] - one - sigma**2 / 2 + sigma * z)) @ density
                    for part in blocks
                ]
            )
            transform = np.exp(math.exp(one) * np.log1p(-np.minimum(lost, 1)))
            found.append(0.2 * float((np.exp(-np.exp(log_s)) - transform).sum()))
    return np.array(found)


def expected_slope(q: np.ndarray, k: np.ndarray, log_m: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Mean over networks of the slope of ln weights on logits [m], for q, k [T, D].

    read [T, T] says which keys a query reads. NaN where logits do not vary, or where |q + k| is
    above MAX_SIGMA.
    """
    logits = q @ k.T
    sigma = np.sqrt(np.maximum(np.square(q).sum(1)[:, None] + np.square(k).sum(1) + 2 * logits, 0))
    if sigma[read].max() > MAX_SIGMA:
        return np.full(len(log_m), np.nan)
    nodes = np.linspace(sigma[read].min(), sigma[read].max(), NODES)
    if nodes[-1] - nodes[0] < 1e-9:
        varies = np.ptp(centred(logits, read)) > 0
        return np.ones(len(log_m)) if varies else np.full(len(log_m), np.nan)
    mean = CubicSpline(nodes, [mean_log_response(log_m, x) for x in nodes])
    return np.array([slope(logits + x, logits, read) for x in np.moveaxis(mean(sigma), -1, 0)])


def slope(log_weights: np.ndarray, logits: np.ndarray, read: np.ndarray) -> float:
    """Slope (least squares) of ln weights on logits, both [T, N], each row with its own intercept.

    Over the keys that a query reads, read [T, N]. NaN where one of their weights is 0 or logits do
    not vary.
    """
    deviation = centred(logits, read)[read]
    square = np.square(deviation).sum()
    of_read = log_weights[read]
    if not (np.isfinite(of_read).all() and square > 1e-12 * np.square(logits[read]).sum()):
        return math.nan
    return float((deviation * of_read).sum() / square)


def centred(logits: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Logits [T, N] less the mean of those that are read in their row; 0 where none is read."""
    mean = np.where(read, logits, 0.0).sum(1, keepdims=True) / read.sum(1, keepdims=True)
    return np.where(read, logits - mean, 0.0)


def _is_gaussian(log_m: np.ndarray, sigma_squared: np.ndarray) -> np.ndarray:
    gaussian = phases.PHASES.index("gaussian")
    return phases.phase(log_m[:, None], sigma_squared) == gaussian
