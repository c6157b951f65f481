"""The lag of an astrocyte process behind the normaliser: errors of gain and output, and their laws.

Queries are read one after another, T_r seconds each, and the process relaxes to the normaliser Z_t
of the query that is read:

    tau_p dp/dt = -p + Z_t,    p_t = Z_t + (p_{t-1} - Z_t) exp(-T_r / tau_p)

at the end of query t. The output is read then, and is o_t Z_t / p_t: its direction is right and its
gain is stale. Only the ratio T_r / tau_p matters.

ASSUME: the process is settled on the first query, which does not count.
ASSUME: H and g are complete before the first query and stay as they are while all are read.
"""

import numpy as np

from tripartite.statistics import over_clusters

GRID = np.geomspace(1e-3, 60.0, 121)  # of T_r / tau_p, in which times that are needed are searched
TOLERANCES = np.array([0.1, 0.05])  # of the output, for the lag alone
MAX_EXPM1 = 30.0  # ln(p / Z) beyond which p / Z - 1 is p / Z
MIN_ERROR = 1e-12  # errors below are rounding errors

Stream = tuple[
    np.ndarray, np.ndarray
]  # ln Z or ln p [..., T], and outputs [..., T, E], of the queries of an input


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


def squared_errors(stream: Stream, exact: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """|O^ p / p~ - O|^2 / |O|^2 from the second query on, [ratio, ...], of networks on an input.

    stream has ln p [..., T] and outputs O^ [..., T, E] of settled networks, whose process relaxes
    to p~; exact is O [T, E]. A ratio of inf is a settled network.
    """
    log_p, output = stream
    difference = output[..., 1:, :] - exact[1:]
    settled = np.square(difference).sum(-1)  # [..., T - 1]
    both = 2 * (output[..., 1:, :] * difference).sum(-1)
    size = np.square(output[..., 1:, :]).sum(-1)
    found = []
    for ratio in ratios:
        excess = np.expm1(log_gain(log_p, ratio)) if ratio < np.inf else np.zeros_like(settled)
        found.append((excess**2 * size + excess * both + settled).sum(-1))
    with np.errstate(invalid="ignore"):  # no output
        return np.array(found).clip(0) / np.square(exact[1:]).sum()


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


def crossings(curves: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """T_r / tau_p [n] from which on curves of errors [GRID, n] stay below levels [n]; or NaN.

    Between ratios of GRID the ln of the error is linear in the ln of the ratio. NaN where `note`
    says why.
    """
    above = curves > levels
    after = len(GRID) - np.argmax(above[::-1], 0)  # of the last one above
    known = np.isfinite(curves).all(0) & (levels > MIN_ERROR) & above.any(0) & ~above[-1]
    place = np.where(known, after, 1) + np.array([[-1], [0]])
    ends = np.take_along_axis(curves, place, 0)
    before, behind = np.log(np.maximum(ends, MIN_ERROR)) - np.log(np.maximum(levels, MIN_ERROR))
    share = before / np.where(known, before - behind, 1)
    log_ratio = np.log(GRID)[place]
    return np.where(known, np.exp(log_ratio[0] + share * (log_ratio[1] - log_ratio[0])), np.nan)


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
