"""What divides the output of a head: fits of the readout of calcium, errors, and their intervals.

The readout of calcium C is a gain Gamma = k C^-gamma. k is fitted in every case, so that the unit
of calcium says nothing; gamma is 1, fitted, or 0: then Gamma is a constant, the control of both.
All fits minimise the squared error of the output H phi k C^-gamma against exact attention over the
queries of the inputs that calibrate, with the synapses that were written there and the calcium at
the end of reading. A fitted k also makes the output of a noisy network smaller, which lowers its
error: `algebra_scaled` is the algebra with such a factor. `unit` is no astrocyte at all: synapses
that are written with weights of 1 / N, in the unit of exp(q . k).
"""

import numpy as np
from scipy.optimize import minimize_scalar

from tripartite.statistics import over_clusters, over_seeds

DIVISIONS = (
    "algebra",
    "algebra_scaled",
    "process",
    "calcium",
    "calcium_fitted",
    "constant",
    "unit",
)
POWERS = np.linspace(0, 50, 201)  # in which gamma is searched


def least_squares(along: np.ndarray, square: np.ndarray) -> tuple[float, float]:
    """Factor k > 0 of outputs y [T] of least squared error to o, and the share that is explained.

    along [T] is y . o, square [T] |y|^2; the share is in units of the sum of |o|^2.
    """
    total = square.sum()
    k = max(along.sum(), 0) / total if total else 0.0
    return max(k, np.finfo(float).tiny), k * along.sum()


def best_readout(
    log_c: np.ndarray, along: np.ndarray, square: np.ndarray, gamma: float
) -> tuple[float, float]:
    """ln k of k C^-gamma, and the share explained; along and square [T] of H phi."""
    x = np.exp(-gamma * (log_c - log_c.mean()))
    k, share = least_squares(x * along, x**2 * square)
    return np.log(k) + gamma * log_c.mean(), share


def best_power(log_c: np.ndarray, along: np.ndarray, square: np.ndarray) -> float:
    """gamma of the least squared error of the output: the best of POWERS, refined."""

    def loss(gamma: float) -> float:
        return -best_readout(log_c, along, square, gamma)[1]

    best = int(np.argmin([loss(gamma) for gamma in POWERS]))
    ends = POWERS[[max(best - 1, 0), min(best + 1, len(POWERS) - 1)]]
    refined = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6}).x
    return min(float(refined), float(POWERS[best]), key=loss)


def fitted(
    log_c: np.ndarray, along: np.ndarray, square: np.ndarray
) -> dict[str, tuple[float, float]]:
    """(ln k, gamma) of each readout of calcium; all [queries]."""
    powers = {
        "calcium": 1.0,
        "calcium_fitted": best_power(log_c, along, square),
        "constant": 0.0,
    }
    return {
        name: (best_readout(log_c, along, square, gamma)[0], gamma)
        for name, gamma in powers.items()
    }


def summary(
    errors: np.ndarray, variances: np.ndarray, powers: np.ndarray, rng: np.random.Generator
) -> dict:
    """Numbers of a head, with 95 % intervals over inputs and seeds, or over seeds (triples).

    errors and variances of the log gain [input, seed, ..., division, D]; powers [seed, ..., D].
    """
    either = [None, None]
    constant = errors[..., [DIVISIONS.index("constant")], :]
    pairs = np.stack(np.broadcast_arrays(errors, constant), -1)
    return {
        "output_error": over_clusters(_rms, errors, either, rng, "log"),
        "error_over_constant": over_clusters(_ratio, pairs, either, rng, "log"),
        "share_better": (errors < constant).mean((0, 1)),
        "sd_log_gain": over_clusters(_rms, np.sqrt(variances), either, rng),
        "readout_exponent": over_seeds(lambda x: x.mean(0), powers, "linear"),
    }


def _rms(x: np.ndarray) -> np.ndarray:
    """Root mean square over inputs and seeds."""
    return np.sqrt(np.square(x).mean((0, 1)))


def _ratio(x: np.ndarray) -> np.ndarray:
    """The same of x[..., 0] over that of x[..., 1]."""
    above, below = np.moveaxis(_rms(x), -1, 0)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
