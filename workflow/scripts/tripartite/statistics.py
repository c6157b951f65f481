"""Statistics over seeds: an estimate pooled over everything, with an interval over independent seeds.

Values of one seed share its hidden neurons and are dependent; seeds are independent. The interval is
the delete-one-seed jackknife with Student's t, on a scale where the estimate is nearly normal
(Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11); of more than GROUPS seeds,
equal groups are deleted. It needs no random numbers.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
GROUPS = 100

SCALES = {"linear": (lambda x: x, lambda x: x), "log": (np.log, np.exp)}


def over_seeds(
    statistic: Callable[[np.ndarray], np.ndarray], values: np.ndarray, scale: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return estimate, low and high of `statistic` with a 95 % interval over seeds.

    `statistic` maps values [seed, ...] to an array, pooled over seeds; `scale` names the scale on
    which the interval is symmetric: "linear", or "log" for positive errors.
    Seeds: at least 2, or ValueError. Where every subset of seeds gives the same value, the interval
    has no width.
    """
    n_seeds = len(values)
    if n_seeds < 2:
        raise ValueError(f"an interval over seeds needs at least 2 seeds, got {n_seeds}")
    forward, back = SCALES[scale]
    estimate = statistic(values)
    groups = np.array_split(np.arange(n_seeds), min(n_seeds, GROUPS))
    parts = np.stack([statistic(np.delete(values, group, axis=0)) for group in groups])
    with np.errstate(divide="ignore", invalid="ignore"):
        centre, parts_scaled = forward(estimate), forward(parts)
        deviation = parts_scaled - parts_scaled.mean(0)
        n = len(groups)
        error = np.sqrt((n - 1) / n * np.square(deviation).sum(0))
        half = stdtrit(n - 1, (1 + LEVEL) / 2) * error
        low, high = back(centre - half), back(centre + half)
    same = (parts == estimate).all(0)
    return estimate, np.where(same, estimate, low), np.where(same, estimate, high)


def pooled_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of x and y over the last axis; NaN where one of them does not vary.

    A spread of rounding errors is no variation.
    """
    deviations = []
    for values in (x, y):
        deviation = values - values.mean(-1, keepdims=True)
        rounding = 1e-12 * np.abs(values).max(-1, keepdims=True)
        deviations.append(
            np.where(np.abs(deviation).max(-1, keepdims=True) > rounding, deviation, np.nan)
        )
    dx, dy = deviations
    return np.clip((dx * dy).sum(-1) / np.sqrt((dx * dx).sum(-1) * (dy * dy).sum(-1)), -1, 1)
