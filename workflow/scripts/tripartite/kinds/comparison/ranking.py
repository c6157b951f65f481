"""Which hidden layer of a head errs least: ranks of variants, and ceilings of firing rates.

squares [input, seed, ...] are relative square errors of the output, |O^ - O|^2 / |O|^2.
"""

import numpy as np

from tripartite.statistics import Interval, best_place, over_clusters

TIE = 1e-3  # relative difference of two mean squares up to which neither is better
MIN_THRESHOLDS = 3
# Decades between the highest and the median firing rate that networks are allowed. Rates of
# cortical neurons span 2.0 decades from the lowest to the highest in freely moving rats (.15 to
# 16 Hz: Attwell & Laughlin, J Cereb Blood Flow Metab 2001) and 3.7 in auditory cortex (below .01 to
# above 50 Hz, lognormal: Hromadka, DeWeese & Zador, PLoS Biol 2008), about half of it above the
# median.
DECADES = (2.0, 3.0, 4.0)


def ranks(mean_square: np.ndarray) -> np.ndarray:
    """Rank of each variant, 1 the smallest, from [..., variant]; ties share their mean rank."""
    x = np.nan_to_num(mean_square, nan=np.inf)
    mine, other = x[..., :, None], x[..., None, :]
    with np.errstate(invalid="ignore"):
        better = other < mine * (1 - TIE)
        worse = mine < other * (1 - TIE)
    tied = ~better & ~worse
    return 0.5 + better.sum(-1) + tied.sum(-1) / 2  # it is tied with itself


def rank_interval(squares: np.ndarray, rng: np.random.Generator) -> Interval:
    """Ranks [variant] by mean square of squares [input, seed, variant], over inputs and seeds."""
    rank, low, high = over_clusters(lambda x: ranks(x.mean((0, 1))), squares, (None, None), rng)
    return rank, low.clip(1, len(rank)), high.clip(1, len(rank))


def of_thresholds(
    squares: np.ndarray,
    uniform: np.ndarray,
    thresholds: np.ndarray,
    decades: np.ndarray,
    rng: np.random.Generator,
) -> dict:
    """What a ceiling of firing rates does to a head, by the names of variables.

    squares [input, seed, threshold], with thresholds rising, the untruncated map last (inf), and
    the decades [threshold] between the highest and the median rate; uniform [input] are the
    relative square errors of equal attention.
    """
    note = ""
    if len(thresholds) < MIN_THRESHOLDS:
        note = f"{len(thresholds)} thresholds, the untruncated included, of {MIN_THRESHOLDS} needed"
    elif not np.isfinite(squares).all():
        note = "errors are not finite"
    if note:
        nothing, of_limits = (np.nan,) * 3, (np.full(len(DECADES), np.nan),) * 3
        return {
            "best_threshold": nothing,
            "best_threshold_decades": nothing,
            "truncation_gain": nothing,
            "mean_square_in_range": of_limits,
            "in_range_over_uniform": of_limits,
            "best_threshold_note": note,
        }
    places = list(best_place(squares, (None, None), rng))

    def in_range(x: np.ndarray) -> np.ndarray:
        return np.array([least_within(x.mean((0, 1)), decades, limit) for limit in DECADES])

    equal = np.broadcast_to(uniform[:, None, None], (*squares.shape[:2], 1))

    def over_uniform(x: np.ndarray) -> np.ndarray:
        return in_range(x[..., :-1]) / x[..., -1].mean()

    beside = np.concatenate([squares, equal], -1)
    clusters = None, None
    return {
        "best_threshold": tuple(thresholds[places].tolist()),
        "best_threshold_decades": tuple(decades[places].tolist()),
        "truncation_gain": truncation_gain(squares, thresholds, rng),
        "mean_square_in_range": over_clusters(in_range, squares, clusters, rng, "log"),
        "in_range_over_uniform": over_clusters(over_uniform, beside, clusters, rng, "log"),
        "best_threshold_note": note,
    }


def least_within(mean_square: np.ndarray, decades: np.ndarray, limit: float) -> float:
    """Least mean square [threshold] of rates that span at most `limit` decades [threshold].

    Between tried thresholds the ln of the mean square is interpolated linearly in decades. NaN if
    the rates of every threshold span more.
    """
    order = np.argsort(decades, kind="stable")
    mean_square, decades = mean_square[order], decades[order]
    n_within = int((decades <= limit).sum())
    if n_within == 0:
        return np.nan
    least = float(mean_square[:n_within].min())
    if n_within == len(decades) or least == 0:
        return least
    pair = slice(n_within - 1, n_within + 1)
    return min(least, float(np.exp(np.interp(limit, decades[pair], np.log(mean_square[pair])))))


def truncation_gain(
    squares: np.ndarray, thresholds: np.ndarray, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Mean square at the best threshold over that of the untruncated map, and its interval.

    squares [input, seed, threshold], thresholds rising. Even seeds choose and odd seeds evaluate,
    so that the best of equals gains nothing; the interval is over inputs. NaN where there is no
    untruncated map (threshold inf).
    """
    if thresholds[-1] != np.inf:
        return (np.nan,) * 3
    halves = np.stack([squares[:, half::2].mean(1) for half in (0, 1)], 1)  # [input, half, ...]

    def gain(x: np.ndarray) -> np.ndarray:
        choosing, evaluated = x.mean(0)
        with np.errstate(divide="ignore", invalid="ignore"):  # an untruncated map without error
            return np.asarray(evaluated[choosing.argmin()] / evaluated[-1])

    estimate, low, high = map(float, over_clusters(gain, halves, (None,), rng, "log"))
    return estimate, low, high
