"""Phases of the estimate, and the laws that hold inside them.

The response to one pair of query and key is a sum of m log-normal terms exp(sigma z - sigma^2 / 2),
with sigma^2 = |q + k|^2 = ln R: the partition function of the random-energy model (Derrida, Phys.
Rev. B 1981) at the inverse temperature sigma / sqrt(2 ln m). So with R, the relative second moment
of one neuron,

    gaussian   m > R^2            errors are normal, of standard deviation sqrt((R - 1) / m)
    anomalous  R^(1/2) < m < R^2  typical errors about exp(-(sqrt(ln m) - sigma / sqrt 2)^2), below
                                  the rms
    frozen     m < R^(1/2)        the few largest rates carry the sum, which is far below its mean

A head is given sigma^2 = the median of ln R over its queries; of the many terms of its normaliser
the largest set R. ASSUME: borders and shapes are those of log-normal rates. They hold for plain
hidden weights; rates of weights fitted to a head have lighter tails, and of the phases only m > R^2
keeps its meaning, that a sample holds the draws which carry the variance.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_ndtr, ndtri

PHASES = ("frozen", "anomalous", "gaussian")
MIN_REACH = -4.0  # of b_m - sigma; farther off the shape was not checked
MIN_POINTS = 3  # sizes of network on a power law


def phase(log_m: np.ndarray, sigma_squared: np.ndarray) -> np.ndarray:
    """Index in PHASES of networks of exp(log_m) neurons; shapes are broadcast."""
    return (log_m > sigma_squared / 2).astype(int) + (log_m > 2 * sigma_squared)


def reach(log_m: np.ndarray, sigma_squared: np.ndarray) -> np.ndarray:
    """b_m - sigma: how far the largest of m draws lies beyond those that carry the mean.

    b_m = -Phi^-1(1 / m). Half of the mean of exp(sigma z) comes from draws z above sigma.
    """
    return -ndtri(np.exp(-log_m)) - np.sqrt(sigma_squared)


def collapse_shift(reach: np.ndarray, log_ratio: np.ndarray) -> float:
    """The shift s at which ln Phi(b_m - sigma + s) fits ln ratio best (least squares).

    Phi(b_m - sigma) is the share of the mean from draws below the largest expected one. It gives
    the shape of the typical p / Z in the frozen and anomalous phases, but not its size: for one
    pair of query and key (reach above MIN_REACH) it is too low by a factor of 1 to 10 with 10
    neurons, and of 1 to 6 with 100 or more. For a sum over keys it is lower still, by 70, 11 and 5
    with 10, 100 and 1000 neurons, 16 keys and sigma^2 = 25. So it predicts nothing before a shift
    is fitted, and what is close after that is close to the same networks.
    """

    def misfit(shift: float) -> float:
        return float(np.square(log_ndtr(reach + shift) - log_ratio).sum())

    return float(minimize_scalar(misfit, bounds=(-3, 3), method="bounded").x)


def slopes(log_m: np.ndarray, log_error: np.ndarray) -> np.ndarray:
    """Exponents b of error ~ m^b by least squares: log_error [..., n] at log_m [n] -> [...].

    NaN for fewer than MIN_POINTS sizes, or where an error is not finite.
    """
    if len(log_m) < MIN_POINTS:
        return np.full(log_error.shape[:-1], np.nan)
    centred = log_m - log_m.mean()
    weights = centred / np.square(centred).sum()
    return np.where(np.isfinite(log_error).all(-1), np.nan_to_num(log_error) @ weights, np.nan)


def pool_log_ratio(log_m: np.ndarray, sigma_squared: np.ndarray) -> np.ndarray:
    """Median of |ln p / p'| for the responses of two networks of other neurons; shapes broadcast.

    In the Gaussian phase both are normal with variance (R - 1) / m, and the median is that of their
    difference. In the frozen phase the largest rate carries a response: with u = sqrt(2 ln m) the
    largest of m normal numbers is Gumbel with the scale 1 / u (Leadbetter, Lindgren and Rootzen,
    1983), so that ln p / p' is logistic with the scale sigma / u, to leading order in ln m: its
    median is ln 3 times that. There the scale is above 1, and the mean of p / p' does not exist.
    NaN in the anomalous phase, where neither holds.
    """
    normal = -ndtri(0.25) * np.sqrt(2 * np.expm1(np.minimum(sigma_squared, 700.0)) * np.exp(-log_m))
    with np.errstate(divide="ignore", invalid="ignore"):  # a single neuron
        largest = np.log(3) * np.sqrt(sigma_squared / (2 * log_m))
    phase_of = phase(log_m, sigma_squared)
    frozen, gaussian = PHASES.index("frozen"), PHASES.index("gaussian")
    found = np.where(phase_of == gaussian, normal, np.where(phase_of == frozen, largest, np.nan))
    return np.where(np.isnan(sigma_squared), np.nan, found)
