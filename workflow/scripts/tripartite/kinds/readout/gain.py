"""The gain that is left when the network divides by a power of calcium, and its laws.

Query t sets the stimulus S_t = I_0 + depth Z_t / mean(Z) of a calcium model, which comes to rest at
C_t. The network divides by C_t^gamma, in a unit of its own: the gain of query t is Z_t / C_t^gamma,
and only how it varies counts.

    alpha = d ln C / d ln S,    alpha_Z = d ln C / d ln Z = alpha (S - I_0) / S

Where C goes as Z^alpha_Z, dividing by C leaves a gain of Z^(1 - alpha_Z), of sd |1 - alpha_Z|
sd(ln Z), and gamma = 1 / alpha_Z leaves none.

ASSUME: every query is read until calcium rests; where it oscillates, nothing graded is read.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tripartite import calcium
from tripartite.statistics import cluster_interval

MIN_SD = 1e-9  # sd of ln Z below which it does not vary
UNKNOWN = {
    "share_steady": np.nan,
    "exponent_z": (np.nan, np.nan, np.nan),
    "exponent_z_law": np.nan,
    "readout_exponent": (np.nan, np.nan, np.nan),
    "sd_log_gain": (np.nan, np.nan, np.nan),
    "sd_log_gain_plain": (np.nan, np.nan, np.nan),
    "sd_log_gain_law": np.nan,
    "note": "",
}


def of_head(
    log_z: list[np.ndarray],
    models: Sequence[str],
    depths: np.ndarray,
    operating_points: np.ndarray,
    rng: np.random.Generator,
) -> dict:
    """Exponents and sds of the log gain [model, added_stimulus, operating_point] of a head by name.

    log_z are ln Z [T] of each input, depths and operating points are in uM. Numbers with an
    interval over inputs are triples.
    """
    every = np.concatenate(log_z)
    x = every - every.mean()
    relative = np.exp(every - np.logaddexp.reduce(every) + np.log(len(every)))  # Z / mean Z
    bounds = np.cumsum([len(of_input) for of_input in log_z])[:-1]
    x_of_inputs = np.split(x, bounds)

    def at_point(model: str, depth: float, rest: float) -> dict:
        stimulus = rest + depth * relative
        c = calcium.resting(model, stimulus)[0]
        share = np.isfinite(c).mean()
        if x.std() < MIN_SD:
            return {"share_steady": share, "note": "the normaliser does not vary"}
        if share < 1:
            note = f"calcium comes to rest at {share:.0%} of the queries only"
            return {"share_steady": share, "note": note}
        law = np.median(calcium.exponent(model, stimulus) * (1 - rest / stimulus))
        y = np.log(c)
        return {
            "share_steady": share,
            "exponent_z_law": law,
            "sd_log_gain_law": abs(1 - law) * x.std(),
            **readout(x_of_inputs, np.split(y - y.mean(), bounds), rng),
        }

    sums = moments(x_of_inputs, x_of_inputs)
    found: dict[str, tuple | np.ndarray] = {"sd_log_normalizer": interval(sd_x, sums, rng)}
    points = [
        UNKNOWN | at_point(model, depth, rest)
        for model in models
        for depth in depths
        for rest in operating_points
    ]
    shape = len(models), len(depths), len(operating_points)
    for name, unknown in UNKNOWN.items():
        values = np.array([point[name] for point in points])
        is_triple = isinstance(unknown, tuple)
        found[name] = tuple(values.T.reshape(3, *shape)) if is_triple else values.reshape(shape)
    return found


def readout(x: list[np.ndarray], y: list[np.ndarray], rng: np.random.Generator) -> dict:
    """Exponents and sds of log gains with intervals, of x = ln Z and y = ln C [T] of each input."""
    everything = moments(x, y)
    fitted, tried = (moments(*half) for half in zip(halves(x), halves(y)))
    gamma = interval(best_power, fitted, rng)
    return {
        "readout_exponent": gamma,
        "exponent_z": interval(slope, everything, rng),
        "sd_log_gain": interval(lambda m: sd_gain(m, gamma[0]), tried, rng),
        "sd_log_gain_plain": interval(lambda m: sd_gain(m, 1.0), everything, rng),
    }


def halves(of_inputs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """First and second half of the inputs; of the queries, for one input."""
    if len(of_inputs) == 1:
        middle = len(of_inputs[0]) // 2
        return [of_inputs[0][:middle]], [of_inputs[0][middle:]]
    half = (len(of_inputs) + 1) // 2
    return of_inputs[:half], of_inputs[half:]


def interval(statistic: Callable, sums: np.ndarray, rng: np.random.Generator) -> tuple:
    """Estimate and 95 % interval over inputs of a statistic of sums [input, 6]."""
    return cluster_interval(statistic, sums, 1, rng, n_draws=500)


# Statistics of the queries of some inputs follow from sums over those of each input, its moments.


def moments(x: list[np.ndarray], y: list[np.ndarray]) -> np.ndarray:
    """Sums [input, 6] of 1, x, y, x^2, x y, y^2 over the queries of each input."""
    return np.array(
        [[len(a), a.sum(), b.sum(), a @ a, a @ b, b @ b] for a, b in zip(x, y)], dtype=float
    )


def covariances(sums: np.ndarray) -> tuple[float, float, float]:
    """Var(x), Cov(x, y) and Var(y) over the queries of all inputs."""
    n, x, y, xx, xy, yy = sums.sum(0)
    return xx / n - (x / n) ** 2, xy / n - x * y / n**2, yy / n - (y / n) ** 2


def sd_x(sums: np.ndarray) -> float:
    """Standard deviation of x."""
    return np.sqrt(max(covariances(sums)[0], 0))


def slope(sums: np.ndarray) -> float:
    """Exponent of C in Z, by least squares of y = ln C on x = ln Z; NaN where Z does not vary."""
    xx, xy, _ = covariances(sums)
    return xy / xx if xx > 0 else np.nan


def best_power(sums: np.ndarray) -> float:
    """Power gamma that leaves the least variance of ln(Z / C^gamma); NaN where C does not vary."""
    _, xy, yy = covariances(sums)
    return xy / yy if yy > 0 else np.nan


def sd_gain(sums: np.ndarray, gamma: float) -> float:
    """Standard deviation of ln(Z / C^gamma)."""
    xx, xy, yy = covariances(sums)
    return np.sqrt(max(xx - 2 * gamma * xy + gamma**2 * yy, 0))
