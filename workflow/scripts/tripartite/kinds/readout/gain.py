"""The gain that is left when the network divides by a power of calcium, and what noise does to it.

Query t sets the stimulus of a calcium model,

    S_t = S (1 - s + s Z_t / mean(Z)),

S at the mean normaliser, of which the normaliser makes the share s: I_0 = (1 - s) S is there
without it, and s = 1 has no other source. Calcium comes to rest at C_t, and the network divides by
C_t^gamma in a unit of its own: the gain of query t is Z_t / C_t^gamma, and only how it varies
counts. With alpha = d ln C / d ln S and alpha_Z = d ln C / d ln Z = alpha (S_t - I_0) / S_t,
dividing by C leaves an sd of the log gain of |1 - alpha_Z| sd(ln Z), and gamma = 1 / alpha_Z none.

Noise. Calcium that is read with a relative noise e (an sd of ln C) leaves

    Var(ln gain) = Var(ln Z - gamma ln C) + gamma^2 e^2,

so the best power is smaller than without noise: Cov(ln Z, ln C) / (Var(ln C) + e^2). Release in
vesicles, a Poisson number K_t of mean n C_t^gamma / mean(C^gamma) by which the network divides,
leaves Var(ln Z - E ln K) + mean(Var ln K), near 1 / n more; a query without a vesicle is not read.

Everything is over queries whose calcium comes to rest from every start; where it may oscillate, the
query is not read. What is left is the sd of the log gain over the sd of ln Z of the same queries.
Powers and operating points are fitted to some inputs and tried on others.

ASSUME: every query is read until calcium rests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar
from scipy.stats import poisson

from tripartite import calcium
from tripartite.statistics import over_clusters

MIN_SD = 1e-9  # sd of ln Z below which it does not vary
MIN_SHARE = 0.8  # of the queries that must be read: below, nothing is stated of the others
SAFE_SHARE = 0.95  # of them, on the fitted inputs, at an operating point that may be chosen
READOUTS = ("C", "C^gamma")
REST = calcium.REGIMES.index("rest")
SAME = "the normaliser does not vary"
MAX_LOG = 600.0  # of ln Z over its mean, beyond which a stimulus is not told apart
MANY = 400.0  # vesicles from which on the moments of ln K are a series


@dataclass(frozen=True)
class Noise:
    """Relative noise of calcium (sd of ln C), and vesicles released at the mean; inf: no noise."""

    calcium: float = 0.0
    vesicles: float = np.inf

    @property
    def name(self) -> str:
        """What the file calls it."""
        if np.isfinite(self.vesicles):
            return f"{self.vesicles:g} vesicles"
        return f"calcium {100 * self.calcium:g} %" if self.calcium else "none"

    def divisor(self, log_c: np.ndarray, gamma: float, log_unit: float) -> tuple[np.ndarray, ...]:
        """Mean and variance of the ln of what is divided by, and the share of times it is not 0.

        log_c is ln C [query]; log_unit the ln of the mean of C^gamma.
        """
        if np.isfinite(self.vesicles):
            return log_count(self.vesicles * np.exp(gamma * log_c - log_unit))
        return gamma * log_c, np.full(log_c.shape, (gamma * self.calcium) ** 2), 1 + 0 * log_c


def log_count(mean: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean and variance of ln K for Poisson numbers K > 0 of these means, and the share of K > 0.

    The series in 1 / mean to second order follow from the central moments of K.
    """
    few = np.log(np.clip(mean, np.exp(-6), MANY))
    first, second = _log_count_splines()
    least, many = mean < np.exp(-6), mean > MANY
    inverse = 1 / np.where(many, mean, MANY)
    log_mean = np.log(1 / inverse) - inverse / 2 - 5 / 12 * inverse**2
    average = np.where(many, log_mean, np.where(least, 0, first(few)))
    variance = np.where(many, inverse + 1.5 * inverse**2, np.where(least, 0, second(few)))
    return average, variance, -np.expm1(-mean)


@cache
def _log_count_splines() -> tuple[CubicSpline, CubicSpline]:
    """Mean and variance of ln K by ln mean, from sums over K."""
    log_mean = np.linspace(-6, np.log(MANY), 400)
    k = np.arange(1, int(MANY + 12 * np.sqrt(MANY)))
    weights = poisson.pmf(k, np.exp(log_mean)[:, None])
    weights /= weights.sum(1, keepdims=True)
    mean = weights @ np.log(k)
    return CubicSpline(log_mean, mean), CubicSpline(log_mean, weights @ np.log(k) ** 2 - mean**2)


# Statistics of the queries of some inputs follow from sums over those of each input, its moments.


def moments(
    of_input: np.ndarray, x: np.ndarray, y: np.ndarray, variance: np.ndarray, read: np.ndarray
) -> np.ndarray:
    """Sums [input, 7] of w, w x, w y, w x^2, w x y, w y^2, w variance over queries.

    of_input is true where a query [query] belongs to an input; read is the weight w. x is ln Z, y
    and variance are of the ln of the divisor; they may be NaN where w is 0.
    """
    x, y, variance = (np.where(read > 0, values, 0.0) for values in (x, y, variance))
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, variance], 1) * read[:, None]
    return of_input @ terms


def spread_left(sums: np.ndarray) -> np.ndarray:
    """sd of the log gain over sd of ln Z [...], of sums [input, 7, ...]."""
    xx, xy, yy, variance = _covariances(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.clip(xx - 2 * xy + yy + variance, 0, None) / xx)


def slope(sums: np.ndarray) -> np.ndarray:
    """Least-squares slope [...] of y on x, of sums [input, 7, ...]."""
    xx, xy, *_ = _covariances(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return xy / xx


def _covariances(sums: np.ndarray) -> tuple[np.ndarray, ...]:
    """Var(x), Cov(x, y), Var(y) and the mean variance of y."""
    n, x, y, xx, xy, yy, variance = sums.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = x / n, y / n
        return xx / n - x**2, xy / n - x * y, yy / n - y**2, variance / n


def best_power(x: np.ndarray, log_c: np.ndarray, noise: Noise) -> float:
    """Power gamma that leaves the least spread of ln(Z / C^gamma), of x = ln Z and ln C [query].

    NaN where C does not rise with Z.
    """
    covariance = np.mean((x - x.mean()) * (log_c - log_c.mean())) if len(x) else np.nan
    if not covariance > 0:
        return np.nan
    gamma = covariance / (log_c.var() + noise.calcium**2)
    if not np.isfinite(noise.vesicles):
        return float(gamma)
    everything = np.ones((1, len(x)))

    def left(log_gamma: float) -> float:
        power = np.exp(log_gamma)
        divisor = noise.divisor(log_c, power, log_mean_exp(power * log_c))
        return float(spread_left(moments(everything, x, *divisor)))

    ends = np.log(gamma) + np.array([-2, 1])
    return float(np.exp(minimize_scalar(left, bounds=ends, options={"xatol": 1e-4}).x))


def log_mean_exp(values: np.ndarray) -> float:
    """ln of the mean of exp(values)."""
    return float(np.logaddexp.reduce(values) - np.log(len(values)))


@dataclass(frozen=True)
class Queries:
    """Queries of all inputs: x, ln(Z / mean Z) [query], and to which input each belongs."""

    x: np.ndarray
    of_input: np.ndarray  # [input, query], 1 or 0
    fits: np.ndarray  # [query], whether its input is one that something is fitted to

    @classmethod
    def of(cls, fitted: list[np.ndarray], tested: list[np.ndarray]) -> "Queries":
        """The queries of ln Z [T] of each input; mean Z is that of the fitted ones."""
        inputs = [*fitted, *tested]
        lengths = [len(of_input) for of_input in inputs]
        fits = np.repeat(np.arange(len(inputs)) < len(fitted), lengths)
        x = np.concatenate(inputs)
        of_input = np.repeat(np.eye(len(inputs)), lengths, axis=1)
        return cls(x - log_mean_exp(x[fits]), of_input, fits)


def at_point(
    queries: Queries, model: str, mean_stimulus: float, share: float, noises: Sequence[Noise]
) -> dict[str, np.ndarray]:
    """What is left at one operating point: sums [input, 7, readout, noise] and powers [noise].

    Beside them regimes [regime, input], the numbers of queries in each, and the law of alpha_Z.
    """
    x, fits = queries.x, queries.fits
    from_z = share * mean_stimulus * np.exp(np.minimum(x, MAX_LOG))
    stimulus = (1 - share) * mean_stimulus + from_z
    part = np.divide(from_z, stimulus, out=np.full_like(x, share), where=stimulus > 0)
    c, regime = calcium.answer(model, stimulus)
    rests = regime == REST
    shape = len(queries.of_input), 7, len(READOUTS), len(noises)
    found = {
        "sums": np.zeros(shape),
        "power": np.full(len(noises), np.nan),
        "regimes": (np.arange(len(calcium.REGIMES))[:, None] == regime) @ queries.of_input.T,
        "law": np.array(np.nan),
    }
    fit, test = rests & fits, rests & ~fits
    if fit.sum() < MIN_SHARE * fits.sum() or not test.any():
        return found
    local = calcium.exponent_of(model, stimulus[test], c[test])
    found["law"] = np.median(local * part[test])
    log_c = np.log(np.where(rests, c, 1.0))
    for j, noise in enumerate(noises):
        found["power"][j] = best_power(x[fit], log_c[fit], noise)
        for i, power in enumerate((1.0, found["power"][j])):
            if np.isnan(power):
                continue
            divisor = noise.divisor(log_c, power, log_mean_exp(power * log_c[fit]))
            y, variance, released = divisor
            sums = moments(queries.of_input, x, y, variance, rests * released)
            found["sums"][:, :, i, j] = sums
    return found


def of_head(
    fitted: list[np.ndarray],
    tested: list[np.ndarray],
    points: dict[str, np.ndarray],
    shares: np.ndarray,
    noises: Sequence[Noise],
    rng: np.random.Generator,
) -> dict:
    """Variables of readout.nc that belong to a head, by their names.

    fitted and tested are ln Z [T] of each input; points are mean stimuli [operating_point] (uM) of
    each model; the first noise is none. Numbers with an interval over tested inputs are triples.
    """
    queries, n = Queries.of(fitted, tested), len(fitted)
    grid = [
        [[at_point(queries, model, x, share, noises) for x in stimuli] for share in shares]
        for model, stimuli in points.items()
    ]
    arrays = {
        name: np.array([[[at[name] for at in row] for row in block] for block in grid])
        for name in ("sums", "power", "regimes", "law")
    }  # [model, normalizer_share, operating_point, ...]
    sums = np.moveaxis(arrays["sums"], (0, 1, 2), (-3, -2, -1))  # [input, 7, readout, noise, ...]
    power = np.moveaxis(arrays["power"], -1, 0)
    totals = queries.of_input.sum(1)
    steady, bistable, _ = (
        arrays["regimes"][..., n:].sum(-1).transpose(3, 0, 1, 2) / totals[n:].sum()
    )
    read = [sums[part, 0].sum(0) / totals[part].sum() for part in (slice(n), slice(n, None))]
    enough = [share >= MIN_SHARE - 1e-12 for share in read]
    left = [spread_left(sums[:n]), spread_left(sums[n:])]
    varies = min(queries.x[queries.fits].std(), queries.x[~queries.fits].std()) > MIN_SD
    stated = enough[0] & enough[1] & varies & np.isfinite(left[0])
    to_fit = np.where((read[0] >= SAFE_SHARE) & varies & np.isfinite(left[0]), left[0], np.inf)
    plain = stated[0, 0]  # dividing by C without noise
    of_all = moments(queries.of_input, queries.x, 0 * queries.x, 0 * queries.x, 1 + 0 * queries.x)
    found = {
        "sd_log_normalizer": over_clusters(sd_x, of_all[n:], [None], rng, "log"),
        "share_steady": steady,
        "share_bistable": bistable,
        "exponent_z": np.where(plain, slope(sums[n:, :, 0, 0]), np.nan),
        "exponent_z_law": np.where(plain, arrays["law"], np.nan),
        "readout_exponent": np.where(stated[1], power, np.nan),
        "spread_left": np.where(stated, left[1], np.nan),
        "spread_left_law": np.where(plain, abs(1 - arrays["law"]), np.nan),
        "note": _notes(plain, varies),
    }
    flat = to_fit.reshape(*to_fit.shape[:3], -1)  # [readout, noise, model, place]
    best, any_point = flat.argmin(-1), np.isfinite(flat).any(-1)
    share, place = np.unravel_index(best, to_fit.shape[3:])
    at = (*np.indices(best.shape), share, place)
    model = at[2]
    mean_stimuli = np.array(list(points.values()))
    chosen, kept = sums[(slice(n, None), slice(None), *at)], stated[at]

    def known(values: np.ndarray, where: np.ndarray = any_point) -> np.ndarray:
        return np.where(where, values, np.nan)

    def interval(statistic: Callable, values: np.ndarray, scale: str) -> tuple:
        with np.errstate(invalid="ignore"):
            return tuple(
                known(x, kept) for x in over_clusters(statistic, values, [None], rng, scale)
            )

    exponents = sums[n:, :, 0, 0][(slice(None), slice(None), model, share, place)]
    powers = np.where(at[0] == 0, 1.0, power[(at[1], model, share, place)])
    return found | {
        "best_mean_stimulus": known(mean_stimuli[model, place]),
        "best_normalizer_share": known(shares[share]),
        "best_power": known(powers),
        "best_share_steady": known(steady[model, share, place]),
        "best_share_bistable": known(bistable[model, share, place]),
        "best_share_read": known(read[1][at]),
        "best_exponent_z": interval(slope, exponents, "linear"),
        "best_spread_left_fitted": known(to_fit[at]),
        "best_spread_left": interval(spread_left, chosen, "log"),
        "best_note": _best_notes(any_point, kept, varies),
    }


def sd_x(sums: np.ndarray) -> np.ndarray:
    """Standard deviation of x [...], of sums [input, 7, ...]."""
    return np.sqrt(np.clip(_covariances(sums)[0], 0, None))


def _notes(stated: np.ndarray, varies: bool) -> np.ndarray:
    """Why there is no number, [...]."""
    few = f"calcium comes to rest from every start at less than {MIN_SHARE:.0%} of the queries"
    return np.where(stated, "", few if varies else SAME).astype(object)


def _best_notes(any_point: np.ndarray, stated: np.ndarray, varies: bool) -> np.ndarray:
    """Why there is no best operating point, or no number for it, [...]."""
    none = f"fewer than {SAFE_SHARE:.0%} of the queries are read at every operating point"
    lost = f"fewer than {MIN_SHARE:.0%} of the queries of the tested inputs are read"
    notes = np.where(any_point, np.where(stated, "", lost), none if varies else SAME)
    return notes.astype(object)
