"""How many trials tell what drives fluorescence: tests, their power, and what recordings need.

Each hypothesis is a regressor beside a constant. Trials repeat an input in the same network; an
experiment is one network of random hidden weights that reads one input. Its designs are t tests
over trials (5 %, two sides) of the coefficient of the normaliser, by least squares in each trial:

    beside signals    one recording, beside regressors that depend on no contacts
    beside contacts   one recording, beside these and contacts of another input, or shuffled ones
    two contexts      two recordings of the same queries, after this input and another one have been
                      written: their difference, against that of the exact normalisers

What does not depend on what has been written cancels between two contexts.

ASSUME: noise is independent between recordings. ASSUME: an astrocyte of other contacts has the same
noise in units of its own signal.
ASSUME: every trial reads the same input; what is found holds for that input.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy.special import nctdtr, ndtr, stdtrit

from tripartite.kinds.imaging.fluorescence import ASTROCYTES, HYPOTHESES, SIGNALS, Noise, Recording
from tripartite.statistics import Function, Interval, over_clusters, wilson

DESIGNS = ("beside signals", "beside contacts", "two contexts")
SIGNIFICANCE = 0.05
POWER = 0.8
MAX_NONCENTRALITY = 8.0  # times 1 + the critical t, beyond which no test fails
MIN_NONCENTRALITY = -4.0  # below, none succeeds (1e-5)
N_EXPERIMENTS = 200  # simulated
MAX_SIMULATED = 100  # trials of one
N_DRAWS = 1000  # of each axis of clusters
NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
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


def both_above(x: np.ndarray, y: np.ndarray, correlation: float) -> np.ndarray:
    """Probability that two standard normals of a correlation are below x and below y.

    By Plackett's identity (Biometrika 1954), an integral over arcsines up to that of the
    correlation; 1e-7 for correlations within +-0.99.
    """
    end = np.arcsin(np.clip(correlation, -1, 1)) / 2
    angle = end * (1 + NODES)
    x, y = np.clip(x, -40, 40)[..., None], np.clip(y, -40, 40)[..., None]
    exponent = (x**2 + y**2 - 2 * x * y * np.sin(angle)) / (2 * np.cos(angle) ** 2)
    together = end * (np.exp(-exponent) * WEIGHTS).sum(-1) / (2 * np.pi)
    return np.clip(ndtr(x[..., 0]) * ndtr(y[..., 0]) + together, 0, 1)


def discrimination(
    clean: np.ndarray,
    right: np.ndarray,
    rival: np.ndarray,
    levels: np.ndarray,
    noise: Noise,
    n: np.ndarray,
) -> np.ndarray:
    """Probability [level, n] that least squares fits `right` better than `rival`, all [F].

    Each is one regressor with a constant, `right` with a slope above 0, fitted to the mean of n
    trials; levels are standard deviations of a frame in one trial. With unit directions a and b
    it is the probability of a.y > |b.y|, that is, of a.y - b.y and a.y + b.y above 0. 0.5 where
    the two are the same, NaN where one is constant.
    """
    a, b = (unique_direction(x, np.zeros((len(x), 0))) for x in (right, rival))
    if not (a.any() and b.any()):
        return np.full((len(levels), len(n)), np.nan)
    minus, plus = a - b, a + b
    if min(np.linalg.norm(minus), np.linalg.norm(plus)) < 1e-9:
        return np.full((len(levels), len(n)), 0.5)
    spread = [np.sqrt(noise.covariance(x, x)) for x in (minus, plus)]
    correlation = noise.covariance(minus, plus) / (spread[0] * spread[1])
    deviation = np.sqrt(n) / levels[:, None]
    above = [deviation * (x @ clean / sd) for x, sd in zip((minus, plus), spread)]
    return both_above(above[0], above[1], correlation)


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

    Explained shares of the variance [rival], that of the normaliser beyond all rivals, standard
    deviation of dF/F. Of each design the weights of frames [F], the coefficient of the normaliser
    [design, astrocyte] and the standard deviation of its noise [design], both at noise as large as
    the signal and in units of it. Curves [rival - 1, level, n] of `discrimination`.
    """

    shares: list[float]
    partial: float
    deviation: float
    weights: list[np.ndarray]
    coefficients: np.ndarray
    spread: np.ndarray
    curves: np.ndarray

    @property
    def effects(self) -> np.ndarray:
        """Coefficients over the standard deviation of their noise [design, astrocyte]."""
        spread, nothing = self.spread[:, None], 0 * self.coefficients
        return np.divide(self.coefficients, spread, out=nothing, where=spread > 0)


def measure(recording: Recording, levels: np.ndarray, noise: Noise, n: np.ndarray) -> Measured:
    """One recording, at levels of noise over the signal's standard deviation, and n [k] trials."""
    regressors, clean = recording.regressors, recording.first[0]
    normalizer, rivals = regressors[:, 0], regressors[:, 1:]
    weights = [
        unique_direction(normalizer, rivals[:, -len(SIGNALS) :]),
        unique_direction(normalizer, rivals),
        unique_direction(recording.difference, rivals[:, :0]),
    ]
    spread = np.sqrt([noise.covariance(x, x) for x in weights] * np.array([1, 1, 2]))
    shares = [r_squared(clean, x[:, None]) for x in regressors.T]
    deviations = recording.first.std(-1)
    if np.isnan(shares[0]):
        nothing = np.full((len(HYPOTHESES) - 1, len(levels), len(n)), np.nan)
        unknown = np.full((len(DESIGNS), len(ASTROCYTES)), np.nan)
        return Measured(shares, np.nan, deviations[0], weights, unknown, spread, nothing)
    varies = deviations > 0
    seen = (recording.first, recording.first, recording.first - recording.second)
    coefficients = np.stack(
        [
            np.where(varies, y @ x / np.where(varies, deviations, 1), 0)
            for x, y in zip(weights, seen)
        ]
    )
    curves = [
        discrimination(clean, normalizer, rival, levels * deviations[0], noise, n)
        for rival in rivals.T
    ]
    partial = coefficients[1, 0] ** 2 / len(clean)
    return Measured(shares, partial, deviations[0], weights, coefficients, spread, np.array(curves))


def of_sizes(
    recordings: list[list[list[Recording]]],
    levels: np.ndarray,
    noise: Noise,
    max_trials: int,
    rng: np.random.Generator,
) -> dict:
    """`summaries` of the recordings [seed][n_features][input] of a head, each [..., n_features]."""
    sizes = [
        summaries(list(zip(*of_size)), levels, noise, max_trials, rng)
        for of_size in zip(*recordings)
    ]
    return {
        name: tuple(np.stack(x, -1) for x in zip(*(size[name] for size in sizes)))
        if isinstance(value, tuple)
        else np.stack([size[name] for size in sizes], -1)
        for name, value in sizes[0].items()
    }


def summaries(
    recordings: list[tuple[Recording, ...]],
    levels: np.ndarray,
    noise: Noise,
    max_trials: int,
    rng: np.random.Generator,
) -> dict:
    """Shares, numbers of trials and notes of the recordings [input][seed] of one size of a head.

    Estimates have intervals over inputs and seeds. Numbers of trials [design, level] and
    [rival, level] are NaN where they or their intervals are beyond max_trials, and a note says so.
    """
    n = trials_grid(max_trials)
    measured = [measure(x, levels, noise, n) for x in itertools.chain(*recordings)]
    effects = np.array([x.effects for x in measured])  # [recording, design, astrocyte]
    curves = np.array([x.curves for x in measured])  # [recording, rival - 1, level, n]
    powers = power(effects[:, :, 0, None, None] / levels[:, None], n[1:])

    def over(statistic: Function, values: list | np.ndarray, scale: str) -> Interval:
        """A statistic of values of recordings, [recording, ...] but given as [input, seed, ...]."""
        of_clusters = np.reshape(values, (len(recordings), -1, *np.shape(values)[1:]))
        return over_clusters(statistic, of_clusters, [None, None], rng, scale, N_DRAWS)

    def trials(of: np.ndarray, at: np.ndarray) -> Interval:
        """Trials at which the mean curve is at 80 %, twice max_trials for all beyond these."""
        beyond = 2.0 * max_trials
        middle, low, high = over(
            lambda x: np.minimum(trials_for(x.mean((0, 1)), at), beyond), of, "log"
        )
        unknown = np.isnan(of).any((0, -1))
        low = np.maximum(low, at[0])
        return middle, np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)

    def mean(values: list | np.ndarray) -> Interval:
        """Mean share."""
        middle, low, high = over(lambda x: x.mean((0, 1)), values, "linear")
        return middle, np.clip(low, 0, 1), np.clip(high, 0, 1)

    still = STILL if np.isnan(effects).any() else ""
    needed, told = trials(powers, n[1:]), trials(curves, n)
    tried = np.where(bool(still), np.nan, np.minimum(needed[0], max_trials))  # [design, level]
    too_little = [
        [
            still or f"more than {max_trials} trials: the power of {max_trials} is {100 * x:.0f} %"
            for x in of_design
        ]
        for of_design in powers[..., -1].mean(0)
    ]
    not_told = [  # with the least noise and all trials
        [still or _why_not_told(rival, ends, max_trials)]
        for rival, ends in zip(HYPOTHESES[1:], curves[:, :, 0, -1].T)
    ]
    trials_needed, trials_note = affordable(needed, max_trials, too_little)
    to_discriminate, discriminate_note = affordable(told, max_trials, not_told)
    simulated = simulate(
        measured, levels, noise, np.where(needed[0] > max_trials, np.nan, tried), rng
    )
    low, high = wilson(simulated, N_EXPERIMENTS)
    return {
        "r_squared": mean([x.shares for x in measured]),
        "partial": mean([x.partial for x in measured]),
        "signal_sd": over(lambda x: x.mean((0, 1)), [x.deviation for x in measured], "log"),
        "trials_needed": trials_needed,
        "trials_note": trials_note,
        "trials_tried": tried,
        "share_found": mean(power(effects.swapaxes(1, 2)[..., None] / levels, tried)),
        "share_simulated": simulated,
        "share_simulated_low": low,
        "share_simulated_high": high,
        "trials_to_discriminate": tuple(_after(np.nan, x) for x in to_discriminate),
        "discriminate_note": _after("the normaliser itself", discriminate_note),
    }


def affordable(
    trials: Interval, max_trials: int, reasons: list | np.ndarray
) -> tuple[Interval, np.ndarray]:
    """Numbers of trials with intervals, as far as they can be afforded, and notes of the others.

    A number is NaN if it or the upper end of its interval is beyond max_trials, and the note says
    which; then the upper end is inf, the lower one at most max_trials. reasons: why it is beyond.
    """
    middle, low, high = trials
    beyond, wide = middle > max_trials, high > max_trials
    estimates = [
        f"{x:.0f} trials by the estimate, but its interval reaches beyond {max_trials}"
        for x in middle.flat
    ]
    notes = np.where(wide, np.reshape(np.array(estimates, dtype=object), middle.shape), "")
    notes = np.where(beyond, np.asarray(reasons, dtype=object), notes)
    ends = np.minimum(low, max_trials), np.where(wide, np.inf, high)
    return (np.where(beyond | wide, np.nan, middle), *ends), notes


def _after(first: float | str, values: np.ndarray) -> np.ndarray:
    """Values [rival, level] of all hypotheses, with the first one for the normaliser."""
    return np.concatenate([np.full_like(values[:1], first), values])


def _why_not_told(rival: str, certainty: np.ndarray, max_trials: int) -> str:
    """Why the normaliser cannot be told from a rival: its `discrimination` of each recording."""
    constant, likelier = int(np.isnan(certainty).sum()), int((certainty < 0.5).sum())
    if constant:
        return f"{rival} is constant in {constant} of {len(certainty)} recordings"
    if likelier:
        return f"{rival} fits better in {likelier} of {len(certainty)} recordings"
    return f"more than {max_trials} trials"


def simulate(
    measured: list[Measured],
    levels: np.ndarray,
    noise: Noise,
    trials: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Share [astrocyte, design, level] of simulated experiments whose t test finds the normaliser.

    An experiment draws one of the recordings and the noise of all frames of all its trials, which
    is added to the signal of each astrocyte; least squares gives the coefficient of each trial. As
    it is linear, signal and noise are fitted apart. NaN where trials [design, level] are, and
    beyond MAX_SIMULATED.
    """
    known = np.argwhere(trials <= MAX_SIMULATED)  # of NaN false
    shares = np.full((len(ASTROCYTES), *trials.shape), np.nan)
    for design, level in known:
        shares[:, design, level] = 0
    single, paired = (_most(trials[rows]) for rows in (slice(2), slice(2, 3)))
    for place in rng.integers(len(measured), size=N_EXPERIMENTS):
        one = measured[place]
        first, second = (
            noise.draw(n, len(one.weights[0]), rng) for n in (max(single, paired), paired)
        )
        fitted = [
            first @ one.weights[0],
            first @ one.weights[1],
            (first[:paired] - second) @ one.weights[2],
        ]
        for design, level in known:
            n = int(trials[design, level])
            of_noise = fitted[design][:n]
            with np.errstate(invalid="ignore"):  # nothing is fitted
                mean = one.coefficients[design] / levels[level] + of_noise.mean()
                t = mean / of_noise.std(ddof=1) * np.sqrt(n)
            shares[:, design, level] += t > stdtrit(n - 1, 1 - SIGNIFICANCE / 2)
    return shares / N_EXPERIMENTS


def _most(trials: np.ndarray) -> int:
    """The most trials that are simulated, 0 if none are."""
    return int(np.max(trials, initial=0, where=trials <= MAX_SIMULATED))
