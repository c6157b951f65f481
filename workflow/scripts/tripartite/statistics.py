"""Estimates with intervals over independent seeds, or over inputs, heads and seeds.

Values of one seed share its hidden neurons and are dependent; seeds are independent. Queries of one
input are dependent as well; inputs are independent. So intervals are over clusters: seeds, inputs,
heads. All have Student's t on a scale where the estimate is nearly normal. Over seeds alone the
standard error is the delete-one-seed jackknife (Efron & Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 11), in groups if there are more than GROUPS seeds; it needs no random
numbers. docs/intervals.md has the coverage of each kind of interval, as simulated by the tests.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import ndtri, stdtrit

LEVEL = 0.95  # of confidence
GROUPS = 100  # at most, of the jackknife

Function = Callable[[np.ndarray], np.ndarray]
Interval = tuple[np.ndarray, np.ndarray, np.ndarray]  # estimate, lower and upper end

SCALES: dict[str, tuple[Function, Function]] = {  # the way to each scale, and back
    "linear": (lambda x: x, lambda x: x),
    "log": (np.log, np.exp),
}


def over_seeds(statistic: Function, values: np.ndarray, scale: str) -> Interval:
    """Return estimate, low and high of `statistic` with a 95 % interval over seeds.

    `statistic` maps values [seed, ...] to an array, pooled over seeds; `scale` is the scale on
    which the interval is symmetric: "linear", or "log" for positive errors. The interval has no
    width if every subset of seeds gives the same value. ValueError for fewer than 2 seeds.
    """
    n_seeds = len(values)
    if n_seeds < 2:
        raise ValueError(f"an interval over seeds needs at least 2 seeds, got {n_seeds}")
    forward, back = SCALES[scale]
    estimate = statistic(values)
    groups = np.array_split(np.arange(n_seeds), min(n_seeds, GROUPS))
    parts = np.stack([statistic(np.delete(values, group, axis=0)) for group in groups])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # an end may be inf
        centre, parts_scaled = forward(estimate), forward(parts)
        deviation = parts_scaled - parts_scaled.mean(0)
        n = len(groups)
        error = np.sqrt((n - 1) / n * np.square(deviation).sum(0))
        half = stdtrit(n - 1, (1 + LEVEL) / 2) * error
        low, high = back(centre - half), back(centre + half)
    same = (parts == estimate).all(0)
    return estimate, np.where(same, estimate, low), np.where(same, estimate, high)


def pooled_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of x and y over the last axis; NaN where x or y does not vary.

    Differences as small as rounding errors are no variation.
    """
    deviations = []
    for values in (x, y):
        deviation = values - values.mean(-1, keepdims=True)
        rounding = 1e-12 * np.abs(values).max(-1, keepdims=True)
        varies = np.abs(deviation).max(-1, keepdims=True) > rounding
        deviations.append(np.where(varies, deviation, np.nan))
    dx, dy = deviations
    return np.clip((dx * dy).sum(-1) / np.sqrt((dx * dx).sum(-1) * (dy * dy).sum(-1)), -1, 1)


def over_clusters(
    statistic: Function,
    values: np.ndarray,
    clusters: Sequence[np.ndarray | None],
    rng: np.random.Generator,
    scale: str = "linear",
    n_draws: int = 1000,
) -> Interval:
    """Return estimate, low and high of `statistic` with a 95 % interval over crossed clusters.

    The first len(clusters) axes of values, such as [input, head, seed, ...], are crossed: every
    head reads every input. clusters has for each of them the label of every place, where places
    of one label are one cluster (heads that share their weights), or None if each place is one.
    The clusters of each axis are resampled by themselves; the variances that this gives, each
    times n / (n - 1), add up to that of the estimate. They count what is common to two axes twice,
    so that the interval is rather too wide (Owen, Annals of Applied Statistics 2007). The interval
    is Student's t with the freedom of Satterthwaite (Biometrics Bulletin 1946), so that an axis of
    few clusters widens it as much as it contributes. `statistic` maps an array like values to an
    array or a number, `scale` is as in over_seeds. Both ends are NaN if an axis has one cluster,
    which says nothing about others.
    """
    forward, back = SCALES[scale]
    estimate = np.asarray(statistic(values), dtype=float)
    labels = [
        np.arange(n) if of_axis is None else np.unique(of_axis, return_inverse=True)[1]
        for n, of_axis in zip(values.shape, clusters)
    ]
    counts = [int(of_axis.max()) + 1 for of_axis in labels]
    if min(counts) < 2:
        return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    variances = []
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # an end may be inf
        for axis, (of_axis, n) in enumerate(zip(labels, counts)):
            places = [np.flatnonzero(of_axis == label) for label in range(n)]
            drawn = (
                np.concatenate([places[i] for i in chosen])
                for chosen in rng.integers(n, size=(n_draws, n))
            )
            draws = np.stack([forward(statistic(np.take(values, x, axis))) for x in drawn])
            variances.append(draws.var(0) * n / (n - 1))
        total = np.sum(variances, 0)
        squares = [np.square(x) / (n - 1) for x, n in zip(variances, counts)]
        freedom = np.square(total) / np.sum(squares, 0)
        half = stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(total)
        centre = forward(estimate)
        low, high = back(centre - half), back(centre + half)
    return estimate, np.where(total == 0, estimate, low), np.where(total == 0, estimate, high)


def best_place(
    errors: np.ndarray, clusters: Sequence[np.ndarray | None], rng: np.random.Generator
) -> tuple[int, int, int]:
    """Place of the least mean error, and the first and last one that may be the best.

    errors [clusters..., place] are positive. A place may be the best if the 95 % interval of the
    ln of its error over that of the least one holds 0: the ends bracket the best place, and do not
    depend on how errors between tried places are interpolated. With one cluster on an axis every
    place may be.
    """
    axes = tuple(range(len(clusters)))
    best = int(errors.mean(axes).argmin())

    def log_ratio(x: np.ndarray) -> np.ndarray:
        means = x.mean(axes)
        return np.log(means / means[best])

    _, low, high = over_clusters(log_ratio, errors, clusters, rng)
    possible = np.flatnonzero(~((low > 0) | (high < 0)))  # true where the ends are NaN
    return best, int(possible[0]), int(possible[-1])


def wilson(share: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Wilson's 95 % interval of a share of n (Wilson, JASA 1927)."""
    z = ndtri((1 + LEVEL) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return centre - half, centre + half
