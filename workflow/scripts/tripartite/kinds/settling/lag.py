"""The lag of an astrocyte process behind the normaliser: errors of gain and output, and their laws.

Queries are read one after another, T_r seconds each, and the process relaxes to the normaliser Z_t
of the query that is read:

    tau_p dp/dt = -p + Z_t,    p_t = Z_t + (p_{t-1} - Z_t) exp(-T_r / tau_p)

at the end of query t. The output is read then, and is o_t Z_t / p_t: its direction is right and its
gain is stale. Only the ratio T_r / tau_p matters.

ASSUME: the process is settled on the first query, which does not count.
ASSUME: H and g are complete before the first query and stay as they are while all are read.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.optimize import brentq

from tripartite.attention import relative_error
from tripartite.statistics import cluster_interval, over_seeds

SEARCHED = (1e-3, 60.0)  # of T_r / tau_p, in which ratio_needed is searched
GRID = np.geomspace(*SEARCHED, 121)
MAX_EXPM1 = 30.0  # ln(p / Z) beyond which p / Z - 1 is p / Z
MIN_ERROR = 1e-12  # errors below are rounding errors

Stream = tuple[
    np.ndarray, np.ndarray
]  # ln Z or ln p [T], and outputs [T, E], of the queries of an input


def relaxed(log_normalizer: np.ndarray, ratio: float) -> np.ndarray:
    """ln p_t at the end of each query [..., T], for ln Z_t [..., T] and T_r / tau_p.

    It is a running ln-sum-exp.
    """
    age = ratio * np.arange(log_normalizer.shape[-1])
    drive = log_normalizer + np.log(-np.expm1(-ratio)) + age
    drive[..., 0] = log_normalizer[..., 0]
    return np.logaddexp.accumulate(drive, axis=-1) - age


def log_gain(log_normalizer: np.ndarray, ratio: float) -> np.ndarray:
    """ln(Z_t / p_t) [..., T - 1] from the second query on, for ln Z_t [..., T] and T_r / tau_p.

    p_t / Z_t - 1 = (p_{t-1} / Z_t - 1) exp(-T_r / tau_p) keeps its digits however small it is.
    """
    before = relaxed(log_normalizer, ratio)[..., :-1] - log_normalizer[..., 1:]
    near = np.log1p(np.exp(-ratio) * np.expm1(np.minimum(before, MAX_EXPM1)))
    far = np.logaddexp(before - ratio, np.log(-np.expm1(-ratio)))
    return -np.where(before < MAX_EXPM1, near, far)


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


def output_error(
    log_p: np.ndarray, output: np.ndarray, exact: np.ndarray, ratio: float = np.inf
) -> float:
    """|O^ p / p~ - O| / |O| from the second query on: output [T, E], relaxation p~ of ln p [T]."""
    gain = np.exp(log_gain(log_p, ratio))[:, None] if ratio < np.inf else 1.0
    return float(relative_error(gain * output[1:], exact[1:]))


def autocorrelation(x: np.ndarray) -> np.ndarray:
    """Correlation of x [T] with itself at lags 1 to T - 1, 0 where x does not vary."""
    deviation = x - x.mean()
    if np.abs(deviation).max() <= 1e-12 * max(np.abs(x).max(), 1):  # rounding errors
        return np.zeros(len(x) - 1)
    products = np.correlate(deviation, deviation, "full")[len(x) - 1 :]
    return products[1:] / products[0]


# The exact network: statistics over inputs.


def of_exact(exact: list[Stream], ratios: np.ndarray, rng: np.random.Generator) -> dict:
    """Statistics of the network without random features per ratio; intervals are over inputs."""
    longest = max(len(log_z) for log_z, _ in exact)
    gains = np.full((len(exact), longest, len(ratios)), np.nan)  # |Z / p - 1|
    variance, output, law, of_log_z = [], [], [], []
    for gain, (log_z, outputs) in zip(gains, exact):
        logs = np.stack([log_gain(log_z, ratio) for ratio in ratios], -1)  # [T - 1, ratio]
        gain[: len(logs)] = np.abs(np.expm1(logs))
        variance.append(logs.var(0))
        output.append([output_error(log_z, outputs, outputs, ratio) for ratio in ratios])
        sd, correlation = log_z.std(), autocorrelation(log_z)
        law.append([sd_law(sd, correlation, ratio) for ratio in ratios])
        stale = 2**0.5 * sd * np.sqrt(1 - correlation[0])
        of_log_z.append([np.diff(log_z).var(), sd**2, correlation[0], stale])
    plain = np.array(of_log_z)
    per_input = {
        "gain_error": (_median, gains),
        "sd_log_gain": (_root_mean, np.array(variance)),
        "gain_output_error": (_root_mean, np.square(output)),
        "sd_log_gain_stale": (_root_mean, plain[:, 0]),
        "sd_log_normalizer": (_root_mean, plain[:, 1]),
        "lag_correlation": (lambda x: x.mean(0), plain[:, 2]),
    }
    return {
        **{
            name: cluster_interval(statistic, values, 1, rng, n_draws=500)
            for name, (statistic, values) in per_input.items()
        },
        "sd_log_gain_law": _root_mean(np.square(law)),
        "sd_log_gain_stale_law": _root_mean(np.square(plain[:, 3])),
    }


def _median(values: np.ndarray) -> np.ndarray:
    """Median over inputs and queries of values [input, T, ratio], NaN where there is no query."""
    ordered = np.sort(values.reshape(-1, values.shape[-1]), axis=0)  # NaN last
    n = np.isfinite(ordered[:, 0]).sum()
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _root_mean(values: np.ndarray) -> np.ndarray:
    return np.sqrt(values.mean(0))


# Networks of random features: statistics over seeds.


def of_networks(
    networks: list[list[list[Stream]]], exact: list[Stream], ratios: np.ndarray
) -> dict:
    """Output errors of settled and of lagging networks, and the ratios that are needed.

    networks [seed][n_features][input] are streams; intervals are over seeds.
    """

    def errors(sweep: np.ndarray) -> np.ndarray:  # [seed, ratio, n_features, input]
        return np.array(
            [
                [
                    [
                        [output_error(*x, outputs, ratio) for x, (_, outputs) in zip(one, exact)]
                        for one in of_seed
                    ]
                    for ratio in sweep
                ]
                for of_seed in networks
            ]
        )

    settled, lagging, on_grid = errors(np.array([np.inf])), errors(ratios), errors(GRID)
    with np.errstate(divide="ignore"):  # the ln of no error
        found = {
            "random_feature_error": over_seeds(_root_mean_square, settled[:, 0], "log"),
            "total_error": over_seeds(_root_mean_square, lagging, "log"),
        }
    everything = np.concatenate([settled, on_grid], 1)
    found["ratio_needed_in_all"] = over_seeds(_crossings, everything, "log")
    gain = partial(_gain_output_error, exact)
    curve = np.array([gain(ratio) for ratio in GRID])
    middle, low, high = found["random_feature_error"]
    needed = [[ratio_needed(gain, curve, x) for x in level] for level in (middle, high, low)]
    ratio, upper, lower = ([one for one, _ in level] for level in needed)
    return found | {
        "ratio_needed": (ratio, upper, lower),  # the larger error needs the smaller ratio
        "ratio_note": [note for _, note in needed[0]],
    }


def _root_mean_square(values: np.ndarray) -> np.ndarray:
    """Root mean square over seeds and inputs of values [seed, ..., input]."""
    return np.sqrt(np.square(values).mean((0, -1)))


def ratio_needed(
    curve: Callable[[float], float], on_grid: np.ndarray, error: float
) -> tuple[float, str]:
    """T_r / tau_p from which on curve, known on GRID, stays below error; NaN and a note if none."""
    if not (np.isfinite(error) and np.isfinite(on_grid).all() and error > MIN_ERROR):
        return np.nan, "the error of the random features is 0 or not known"
    above = np.flatnonzero(on_grid > error)
    if not len(above):
        words = "the error of the gain is smaller at every T_r / tau_p from"
        return np.nan, f"{words} {SEARCHED[0]:g} on"
    if above[-1] == len(GRID) - 1:
        return np.nan, f"the error of the gain is larger up to T_r / tau_p = {SEARCHED[1]:g}"
    ends = np.log(GRID[above[-1] : above[-1] + 2])
    root = brentq(lambda x: curve(np.exp(x)) / error - 1, *ends, xtol=1e-10)
    return float(np.exp(root)), ""


def _crossings(errors: np.ndarray) -> np.ndarray:
    """T_r / tau_p [m] from which on the total error is at most sqrt(2) times the settled one.

    errors [seed, settled and every ratio of GRID, m, input]; NaN where it is so on all of GRID.
    """
    mean_square = np.square(errors).mean((0, -1))
    found = np.full(mean_square.shape[1], np.nan)
    for size, (settled, *slow) in enumerate(mean_square.T):
        excess = np.array(slow) / settled - 2 if settled > MIN_ERROR**2 else np.array([])
        above = np.flatnonzero(excess > 0)
        if len(above) and above[-1] < len(GRID) - 1:
            last = slice(above[-1], above[-1] + 2)
            found[size] = np.exp(np.interp(0, -excess[last], np.log(GRID[last])))
    return found


def _gain_output_error(exact: list[Stream], ratio: float) -> float:
    """Output error that the stale gain alone gives, root mean square over inputs."""
    errors = [output_error(log_z, outputs, outputs, ratio) for log_z, outputs in exact]
    return float(np.sqrt(np.mean(np.square(errors))))
