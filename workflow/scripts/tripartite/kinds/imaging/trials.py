"""How many trials tell what drives fluorescence: tests, their power, and what recordings need.

Each hypothesis is a regressor beside a constant. Trials repeat an input in the same network; an
experiment is one network of random hidden weights that reads one input.

ASSUME: the noise of a frame is normal, white, and independent between trials (photons and readout).
ASSUME: every trial reads the same input; what is found holds for that input.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy.special import nctdtr, ndtr, stdtrit

from tripartite.kinds.imaging.fluorescence import HYPOTHESES, Recording
from tripartite.statistics import cluster_bootstrap, wilson

SIGNIFICANCE = 0.05
POWER = 0.8
MAX_NONCENTRALITY = 8.0  # times 1 + the critical t, beyond which no test fails
MIN_NONCENTRALITY = -4.0  # below, none succeeds (1e-5)
N_EXPERIMENTS = 400  # simulated
N_DRAWS = 500  # of the bootstrap
STILL = "the fluorescence does not vary"


def r_squared(y: np.ndarray, regressors: np.ndarray) -> float:
    """Share of the variance of y [F] that regressors [F, p] and a constant explain.

    NaN if y is constant.
    """
    deviation = y - y.mean()
    total = np.square(deviation).sum()
    if total <= 1e-24 * np.square(y).sum():
        return np.nan
    return float(np.square(_basis(regressors).T @ deviation).sum() / total)


def unique_direction(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Unit vector [F] along what is in x [F] and not in others [F, p] or a constant; 0 if nothing.

    Its product with data is the least-squares coefficient of x beside the others, up to a factor.
    """
    deviation = x - x.mean()
    basis = _basis(others)
    rest = deviation - basis @ (basis.T @ deviation)
    rest -= basis @ (basis.T @ rest)  # what rounding has left
    norm = np.linalg.norm(rest)
    rounding = max(1e-10 * np.linalg.norm(deviation), 1e-12 * np.linalg.norm(x))
    return rest / norm if norm > rounding else np.zeros_like(x)


def _basis(regressors: np.ndarray) -> np.ndarray:
    """Orthonormal columns [F, r] that span regressors [F, p] around their means."""
    deviation = regressors - regressors.mean(0)
    size = np.linalg.norm(deviation, axis=0)
    known = size > 1e-12 * np.linalg.norm(regressors, axis=0)
    if not known.any():
        return np.zeros((len(regressors), 0))
    u, s, _ = np.linalg.svd(deviation[:, known] / size[known], full_matrices=False)
    return u[:, s > 1e-10 * s[0]]


def power(effect: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Probability that the t test (5 %, two sides) finds the mean coefficient of n trials above 0.

    effect is a trial's coefficient over its standard deviation, n at least 2. Noncentral t.
    """
    noncentrality = effect * np.sqrt(n)
    critical = stdtrit(n - 1, 1 - SIGNIFICANCE / 2)
    certain = noncentrality > MAX_NONCENTRALITY * (1 + critical)
    between = np.where(certain, 0.0, np.maximum(noncentrality, MIN_NONCENTRALITY))
    found = 1 - nctdtr(n - 1, between, critical)
    return np.where(np.isnan(noncentrality), np.nan, np.where(certain, 1.0, found))


def discrimination(
    clean: np.ndarray, right: np.ndarray, rival: np.ndarray, noise: np.ndarray, n: np.ndarray
) -> np.ndarray:
    """Probability that the mean of n trials is likelier under `right` than under `rival`, all [F].

    Each is one regressor with a constant, `right` with a slope above 0; noise is the standard
    deviation of a frame in one trial. With unit directions a and b it is the probability of
    a.y > |b.y|: a.y - b.y and a.y + b.y, independent normals, are above 0. 0.5 where the two are
    the same, NaN where one is constant.
    """
    a, b = (unique_direction(x, np.zeros((len(x), 0))) for x in (right, rival))
    deviation = np.sqrt(n) / noise
    with np.errstate(divide="ignore", invalid="ignore"):
        minus, plus = (
            ndtr(deviation * ((a + sign * b) @ clean) / np.linalg.norm(a + sign * b))
            for sign in (-1, 1)
        )
    if not (a.any() and b.any()):
        return np.full_like(minus, np.nan)
    return np.where(min(np.linalg.norm(a - b), np.linalg.norm(a + b)) < 1e-9, 0.5, minus * plus)


def trials_grid(max_trials: int) -> np.ndarray:
    """Numbers of trials from 1 on at which power is computed: all up to 30, then 4 % apart."""
    apart = np.exp(np.arange(0, np.log(max_trials), 0.04)).round()
    return np.unique(np.concatenate([apart, np.arange(1, min(30, max_trials) + 1), [max_trials]]))


def trials_for(curve: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Least trials from which on curves [..., len(n)] of power are at 80 %; inf if there are none.

    Between the numbers of trials n [k] they are interpolated in ln n.
    """
    curve = np.minimum.accumulate(curve[..., ::-1], -1)[..., ::-1]
    reached = curve >= POWER
    first = reached.argmax(-1)
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(curve, at[..., None], -1)[..., 0] for at in (before, first))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(first > 0, (POWER - low) / (high - low), 1.0)
        log_n = np.log(n[before]) + share * (np.log(n[first]) - np.log(n[before]))
        return np.where(reached.any(-1), np.ceil(np.exp(log_n) - 1e-9), np.inf)


# Recordings of the networks of one size of a head.


class Measured(NamedTuple):
    """What one recording tells: NaN where its fluorescence does not vary.

    Explained shares of the variance [rival], standard deviation of dF/F, coefficient of the
    normaliser beside all rivals over that deviation, and curves [rival - 1, noise, n] of
    `discrimination`.
    """

    shares: list[float]
    deviation: float
    effect: float
    curves: list[np.ndarray]


def measure(recording: Recording, noise: np.ndarray, n: np.ndarray) -> Measured:
    """One recording, with noise over the signal's standard deviation, and n [k] trials."""
    clean, regressors = recording
    shares = [r_squared(clean, x[:, None]) for x in regressors.T]
    deviation = clean.std()
    if not np.isfinite(shares[0]):
        nothing = np.full((len(noise), len(n)), np.nan)
        return Measured(shares, deviation, np.nan, [nothing] * (len(shares) - 1))
    direction = unique_direction(regressors[:, 0], regressors[:, 1:])
    curves = [
        discrimination(clean, regressors[:, 0], rival, noise[:, None] * deviation, n)
        for rival in regressors.T[1:]
    ]
    return Measured(shares, deviation, direction @ clean / deviation, curves)


def of_sizes(
    recordings: list[list[list[Recording]]],
    noise: np.ndarray,
    max_trials: int,
    rng: np.random.Generator,
) -> dict:
    """`summaries` of the recordings [seed][n_features][input] of a head, each [..., n_features]."""
    sizes = [summaries(list(zip(*of_size)), noise, max_trials, rng) for of_size in zip(*recordings)]
    return {
        name: tuple(np.stack(x, -1) for x in zip(*(size[name] for size in sizes)))
        if isinstance(value, tuple)
        else np.stack([size[name] for size in sizes], -1)
        for name, value in sizes[0].items()
    }


def summaries(
    recordings: list[tuple[Recording, ...]],
    noise: np.ndarray,
    max_trials: int,
    rng: np.random.Generator,
) -> dict:
    """Shares, numbers of trials and notes of the recordings [input][seed] of one size of a head.

    Estimates have intervals over inputs and seeds. Numbers of trials [noise] and [rival, noise] are
    NaN beyond max_trials, and a note says why.
    """
    n = trials_grid(max_trials)
    measured = [measure(x, noise, n) for x in itertools.chain(*recordings)]
    effects = np.array([x.effect for x in measured])
    curves = np.array([x.curves for x in measured])  # [recording, rival - 1, noise, n]
    powers = power(effects[:, None, None] / noise[:, None], n[1:])  # [recording, noise, n - 1]

    def clusters(values: list | np.ndarray) -> np.ndarray:  # [input, seed, ...]
        return np.reshape(values, (len(recordings), -1, *np.shape(values)[1:]))

    n_frames = [len(x.clean) for x in itertools.chain(*recordings)]
    means: dict[str, list] = {
        "r_squared": [x.shares for x in measured],
        "partial": [x.effect**2 / frames for x, frames in zip(measured, n_frames)],
        "signal_sd": [x.deviation for x in measured],
    }
    found = {
        name: cluster_bootstrap(lambda x: x.mean((0, 1)), clusters(values), 2, rng, n_draws=N_DRAWS)
        for name, values in means.items()
    }
    needed = _trials(clusters(powers), n[1:], rng)
    to_discriminate = _trials(clusters(curves), n, rng)
    shares = simulated_power(effects[:, None] / noise, needed[0], rng)
    still = STILL if np.isnan(effects).any() else ""
    power_notes = [
        still or f"more than {max_trials} trials: the power of {max_trials} is {100 * x:.0f} %"
        for x in powers[:, :, -1].mean(0)
    ]
    rival_notes = [  # with the least noise and all trials
        still or _why_not_told(rival, ends, max_trials)
        for rival, ends in zip(HYPOTHESES[1:], curves[:, :, 0, -1].T)
    ]
    notes = _where_unknown(to_discriminate[0], np.array(rival_notes)[:, None])
    low, high = wilson(shares, N_EXPERIMENTS)
    return found | {
        "trials_needed": needed,
        "trials_note": _where_unknown(needed[0], power_notes),
        "power_simulated": shares,
        "power_simulated_low": low,
        "power_simulated_high": high,
        "trials_to_discriminate": tuple(_after(np.nan, x) for x in to_discriminate),
        "discriminate_note": _after("the normaliser itself", notes),
    }


def _where_unknown(numbers: np.ndarray, notes: np.ndarray | list[str]) -> np.ndarray:
    """The notes where numbers are NaN, elsewhere empty."""
    return np.where(np.isnan(numbers), np.asarray(notes, dtype=object), "")


def _after(first: float | str, values: np.ndarray) -> np.ndarray:
    """Values [rival, noise] of all hypotheses, with the first one for the normaliser."""
    return np.concatenate([np.full_like(values[:1], first), values])


def _why_not_told(rival: str, certainty: np.ndarray, max_trials: int) -> str:
    """Why the normaliser cannot be told from a rival: its `discrimination` of each recording."""
    constant, likelier = int(np.isnan(certainty).sum()), int((certainty < 0.5).sum())
    if constant:
        return f"{rival} is constant in {constant} of {len(certainty)} recordings"
    if likelier:
        return f"{rival} is likelier in {likelier} of {len(certainty)} recordings"
    return f"more than {max_trials} trials"


def _trials(curves: np.ndarray, n: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Trials at which the mean of the curves [input, seed, ..., n] reaches 80 %, and interval.

    NaN where it does not; the upper end is inf where it may not.
    """
    beyond = 2 * n[-1]

    def trials(values: np.ndarray) -> np.ndarray:
        return np.minimum(trials_for(values.mean((0, 1)), n), beyond)

    middle, low, high = cluster_bootstrap(trials, curves, 2, rng, n_draws=N_DRAWS)
    high = np.where(high > n[-1], np.inf, high)
    return tuple(np.where(middle > n[-1], np.nan, x) for x in (middle, low, high))


def simulated_power(
    effects: np.ndarray, trials: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Share [noise] of simulated experiments whose t test finds the normaliser.

    effects [recording, noise]; an experiment takes one of the recordings, and the coefficient of
    each of its trials is normal around the effect. NaN where the numbers of trials [noise] are.
    """
    shares = np.full(len(trials), np.nan)
    for place in np.flatnonzero(~np.isnan(trials)):
        n, found = trials[place], 0
        for effect in rng.choice(effects[:, place], N_EXPERIMENTS):
            coefficients = effect + rng.standard_normal(int(n))
            t = coefficients.mean() / coefficients.std(ddof=1) * np.sqrt(n)
            found += t > stdtrit(n - 1, 1 - SIGNIFICANCE / 2)
        shares[place] = found / N_EXPERIMENTS
    return shares
