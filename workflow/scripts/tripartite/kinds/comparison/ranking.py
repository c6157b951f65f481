"""Which hidden layer errs least: ranks of variants, and the threshold at which rates may saturate.

squares are |E|^2, the relative square errors of the output, of single seeds.
"""

import math

import numpy as np

from tripartite.kinds.comparison.moments import Interval
from tripartite.statistics import cluster_bootstrap

TIE = 1e-3  # relative difference of two mean squares up to which neither is better
MIN_THRESHOLDS = 3


def ranks(mean_square: np.ndarray) -> np.ndarray:
    """Rank of each variant, 1 the smallest, from [..., variant]; ties share their mean rank."""
    x = np.nan_to_num(mean_square, nan=np.inf)
    mine, other = x[..., :, None], x[..., None, :]
    with np.errstate(invalid="ignore"):
        better = other < mine * (1 - TIE)
        worse = mine < other * (1 - TIE)
    tied = ~better & ~worse
    return 0.5 + better.sum(-1) + tied.sum(-1) / 2  # it is tied with itself


def mean_ranks(squares: np.ndarray, rng: np.random.Generator) -> Interval:
    """Mean over heads of the rank of each variant [variant, n_features], with its interval.

    squares [variant, n_features, head, seed]; the interval is over heads and seeds.
    """
    of_sizes = [
        cluster_bootstrap(
            lambda x: ranks(x.mean(1)).mean(0), squares[:, size].transpose(1, 2, 0), 2, rng
        )
        for size in range(squares.shape[1])
    ]
    estimate, low, high = (np.stack(values, -1) for values in zip(*of_sizes))
    return estimate, low, high


def best_thresholds(
    squares: np.ndarray, feature_maps: list[str], thresholds: np.ndarray, rng: np.random.Generator
) -> list[list[dict]]:
    """The best threshold [n_features][head] and what it gains, by the names of variables.

    squares [variant, n_features, head, seed]. Variants of truncated_performer are compared, and
    performer, which has no threshold (inf).
    """
    places = np.flatnonzero(np.isin(feature_maps, ("truncated_performer", "performer")))
    places = places[np.argsort(thresholds[places], kind="stable")]
    _, n_sizes, n_heads, _ = squares.shape
    return [
        [
            _of_thresholds(squares[places, size, i].T, thresholds[places], rng)
            for i in range(n_heads)
        ]
        for size in range(n_sizes)
    ]


def _of_thresholds(squares: np.ndarray, thresholds: np.ndarray, rng: np.random.Generator) -> dict:
    """Of one head and size, from squares [seed, threshold]; or why there is no best threshold."""
    note = ""
    if len(thresholds) < MIN_THRESHOLDS:
        note = f"{len(thresholds)} thresholds, the untruncated included, of {MIN_THRESHOLDS} needed"
    elif not np.isfinite(squares).all():
        note = "errors are not finite"
    return {
        "best_threshold": (np.nan,) * 3 if note else best_threshold(squares, thresholds, rng),
        "truncation_gain": np.nan if note else truncation_gain(squares, thresholds),
        "best_threshold_note": note,
    }


def best_threshold(
    squares: np.ndarray, thresholds: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, float]:
    """The threshold of the least mean square with a 95 % bootstrap interval over seeds.

    squares [seed, threshold], thresholds rising. The ends are thresholds that were tried.
    """
    best, low, high = cluster_bootstrap(lambda x: np.asarray(x.mean(0).argmin()), squares, 1, rng)
    ends = int(best), math.floor(low), math.ceil(high)
    estimate, lowest, highest = thresholds[[*ends]].tolist()
    return estimate, lowest, highest


def truncation_gain(squares: np.ndarray, thresholds: np.ndarray) -> float:
    """Mean square at the best threshold over that of the untruncated map.

    squares [seed, threshold], thresholds rising. Even seeds choose and odd seeds evaluate, so that
    the best of equals gains nothing. NaN where there is no untruncated map (threshold inf).
    """
    if thresholds[-1] != np.inf:
        return np.nan
    best = np.argmin(squares[::2].mean(0))
    evaluated = squares[1::2].mean(0)
    return float(evaluated[best] / evaluated[-1]) if evaluated[-1] > 0 else np.nan
