"""The lag of an astrocyte process behind the normaliser: errors of gain and output, and their laws.

Queries are read in turn (turns.py), so that the gain is stale.
"""

import numpy as np

from tripartite.statistics import over_clusters
from tripartite.turns import GRID, MIN_ERROR, Stream, crossings, log_gain, squared_errors

TOLERANCES = np.array([0.1, 0.05])  # of the output, for the lag alone


def sd_law(sd: float, correlation: np.ndarray, ratio: float) -> float:
    """sd of ln(Z_t / p_t) for a small sd of ln Z and its correlations rho_1, rho_2, ... [lag].

    To first order ln p is the mean of earlier ln Z with weights (1 - a) a^j, where
    a = exp(-T_r / tau_p), hence

        Var = 2 a^2 / (1 + a) Var(ln Z) (1 - (1 - a) sum_k rho_k a^(k-1)):

    sd(ln Z) for slow processes, and a sqrt(2) sd(ln Z) sqrt(1 - rho_1) for fast ones.
    """
    a = np.exp(-ratio)
    memory = (1 - a) * (correlation * a ** np.arange(len(correlation))).sum()
    return a * sd * np.sqrt(2 / (1 + a) * max(1 - memory, 0))


def autocorrelation(x: np.ndarray) -> np.ndarray:
    """Correlation of x [T] with itself at lags 1 to T - 1, 0 where x does not vary."""
    deviation = x - x.mean()
    if np.abs(deviation).max() <= 1e-12 * max(np.abs(x).max(), 1):  # rounding errors
        return np.zeros(len(x) - 1)
    products = np.correlate(deviation, deviation, "full")[len(x) - 1 :]
    return products[1:] / products[0]


# The exact network: statistics over inputs.


def of_exact(exact: list[Stream], ratios: np.ndarray, rng: np.random.Generator) -> dict:
    """Statistics of the network without random features; intervals are over inputs."""
    longest = max(len(log_z) for log_z, _ in exact)
    gains = np.full((len(exact), longest, len(ratios)), np.nan)  # |Z / p - 1|
    variance, law, of_log_z = [], [], []
    for gain, (log_z, _) in zip(gains, exact):
        logs = np.stack([log_gain(log_z, ratio) for ratio in ratios], -1)  # [T - 1, ratio]
        gain[: len(logs)] = np.abs(np.expm1(logs))
        variance.append(logs.var(0))
        sd, correlation = log_z.std(), autocorrelation(log_z)
        law.append([sd_law(sd, correlation, ratio) for ratio in ratios])
        stale = 2**0.5 * sd * np.sqrt(1 - correlation[0])
        of_log_z.append([np.diff(log_z).var(), sd**2, correlation[0], stale])
    plain = np.array(of_log_z)
    per_input = {
        "gain_error": (_median, gains, "log"),
        "sd_log_gain": (_root_mean, np.array(variance), "log"),
        "gain_output_error": (_root_mean, of_lag(exact, ratios), "log"),
        "sd_log_gain_stale": (_root_mean, plain[:, 0], "log"),
        "sd_log_normalizer": (_root_mean, plain[:, 1], "log"),
        "lag_correlation": (lambda x: x.mean(0), plain[:, 2], "linear"),
        "ratio_for_lag": (_ratios_for_lag, of_lag(exact, GRID), "log"),
    }
    return {
        **{
            name: over_clusters(statistic, values, [None], rng, scale)
            for name, (statistic, values, scale) in per_input.items()
        },
        "sd_log_gain_law": _root_mean(np.square(law)),
        "sd_log_gain_stale_law": _root_mean(np.square(plain[:, 3])),
    }


def of_lag(exact: list[Stream], ratios: np.ndarray) -> np.ndarray:
    """Squared output errors that the stale gain alone gives [input, ratio]."""
    return np.stack([squared_errors(stream, stream[1], ratios) for stream in exact])


def _ratios_for_lag(squares: np.ndarray) -> np.ndarray:
    """T_r / tau_p from which on the lag errs at most by each of TOLERANCES; [input, GRID]."""
    curves = np.repeat(_root_mean(squares)[:, None], len(TOLERANCES), 1)
    return crossings(curves, TOLERANCES)


def _median(values: np.ndarray) -> np.ndarray:
    """Median over inputs and queries of values [input, T, ratio], NaN where there is no query."""
    ordered = np.sort(values.reshape(-1, values.shape[-1]), axis=0)  # NaN last
    n = np.isfinite(ordered[:, 0]).sum()
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _root_mean(values: np.ndarray) -> np.ndarray:
    return np.sqrt(values.mean(0))


# Networks of random features: statistics over seeds and inputs.


def of_networks(
    networks: list[list[Stream]],
    exact: list[Stream],
    ratios: np.ndarray,
    rng: np.random.Generator,
) -> dict:
    """Output errors of settled and of lagging networks, and the ratios that are needed.

    networks [seed][input] have ln p [m, T] and outputs [m, T, E]; intervals are over seeds and
    inputs.
    """

    def errors(sweep: np.ndarray) -> np.ndarray:  # [seed, input, ratio, m]
        return np.array(
            [[squared_errors(x, o, sweep) for x, (_, o) in zip(run, exact)] for run in networks]
        )

    settled, lagging, on_grid = errors(np.array([np.inf])), errors(ratios), errors(GRID)
    lag = np.broadcast_to(of_lag(exact, GRID)[None, ..., None], on_grid.shape)
    values = {
        "random_feature_error": (_root_mean_square, settled[:, :, 0]),
        "total_error": (_root_mean_square, lagging),
        "ratio_needed": (_crossings, np.concatenate([settled, lag], 2)),
        "ratio_needed_in_all": (_crossings, np.concatenate([2 * settled, on_grid], 2)),
    }
    found: dict = {
        name: over_clusters(statistic, x, [None, None], rng, "log")
        for name, (statistic, x) in values.items()
    }
    level, *curve = _root_mean_square(values["ratio_needed"][1])
    return found | {"ratio_note": [note(*pair) for pair in zip(np.transpose(curve), level)]}


def _root_mean_square(squares: np.ndarray) -> np.ndarray:
    """Root mean of squares [seed, input, ...]."""
    return np.sqrt(squares.mean((0, 1)))


def _crossings(squares: np.ndarray) -> np.ndarray:
    """T_r / tau_p [m] from which on the error at every ratio of GRID is at most the first one.

    squares [seed, input, first and every ratio of GRID, m].
    """
    errors = _root_mean_square(squares)
    return crossings(errors[1:], errors[0])


def note(curve: np.ndarray, level: float) -> str:
    """Why a curve [GRID] does not cross the level; empty if it does."""
    if not (np.isfinite(level) and np.isfinite(curve).all() and level > MIN_ERROR):
        return "the error of the random features is 0 or not known"
    above = np.greater(curve, level)
    if not above.any():
        return f"the error of the gain is smaller at every T_r / tau_p from {GRID[0]:g} on"
    if above[-1]:
        return f"the error of the gain is larger up to T_r / tau_p = {GRID[-1]:g}"
    return ""
