"""What was measured on networks: errors, gains and correlations with intervals over seeds.

Networks are taken by their size, since the responses of all of them may not fit into memory; a
point is a head.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tripartite.statistics import Interval, over_clusters, over_seeds, pooled_correlation
from tripartite.streams import stream


class Observed(NamedTuple):
    """What was observed of the networks of one size, [seed, input, point], also by token."""

    log_calcium: np.ndarray  # [..., token], ln|p|
    calcium_sign: np.ndarray  # [..., token]
    output_error: np.ndarray
    output_gain: np.ndarray
    output_error_other_pool: np.ndarray
    computed: np.ndarray  # whether the network was run
    draw: np.ndarray  # [seed]


def _pooled(values: np.ndarray) -> np.ndarray:
    """[seed, point, n] -> [point, seed * n]."""
    return np.moveaxis(values, 0, 1).reshape(values.shape[1], -1)


def _median(values: np.ndarray) -> np.ndarray:
    return np.median(_pooled(values), -1)


def _rms(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.sqrt(np.mean(np.square(_pooled(values)), -1))


def _mean(values: np.ndarray) -> np.ndarray:
    return np.mean(_pooled(values), -1)


def _between(values: np.ndarray) -> np.ndarray:
    """Median of the difference between the networks of two seeds, one after the other."""
    return _median(np.abs(values - np.roll(values, 1, 0)))


Statistic = Callable[[np.ndarray], np.ndarray]
STATISTICS: dict[str, tuple[Statistic, str, str]] = {  # of which values, scale of the interval
    "normalizer_error": (_median, "error", "log"),
    "normalizer_error_rms": (_rms, "error", "log"),
    "normalizer_ratio": (_median, "ratio", "log"),
    "output_error": (_mean, "output_error", "log"),
    "output_error_rms": (_rms, "output_error", "log"),
    "output_error_other_pool_rms": (_rms, "output_error_other_pool", "log"),
    "output_gain": (_mean, "output_gain", "linear"),
    "other_pool_cost": (_median, "other_pool_cost", "log"),
    "pool_log_ratio": (_between, "log_p", "log"),
    "correlation": (_mean, "fisher_z", "linear"),
}


def statistics(
    observed: Observed, log_normalizer: np.ndarray, mask: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each of STATISTICS with its interval over seeds, [3, point].

    And the share of responses that are not positive, [point]. All are pooled over queries, inputs
    and seeds; NaN where no network was run. log_normalizer [input, point, token]; mask [input,
    token] is true at the tokens that count.
    """
    run, values = _values(observed, log_normalizer, mask)
    found = {name: np.full((3, len(run)), np.nan) for name in STATISTICS}
    share = np.full(len(run), np.nan)
    for name, (statistic, of, scale) in STATISTICS.items():
        found[name][:, run] = over_seeds(statistic, values[of], scale)
    share[run] = 1 - values["positive"].mean((0, 2))
    found["correlation"] = np.tanh(found["correlation"])
    return found, share


def _values(
    observed: Observed, log_normalizer: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Which points have networks [point], and what was measured on these.

    [seed, point, query], of outputs [seed, point, input].
    """
    inputs = np.flatnonzero(mask.any(1))
    run = np.asarray(observed.computed[:, inputs].all((0, 1)))
    log_p, sign = (
        np.moveaxis(values, 1, -2)[:, run][..., mask]
        for values in (observed.log_calcium, observed.calcium_sign)
    )
    target = np.moveaxis(log_normalizer, 0, -2)[run][..., mask]  # [point, query]
    with np.errstate(over="ignore"):  # beyond float64 an error is infinite
        ratio = sign * np.exp(log_p - target)
    # One network's correlation, on Fisher's scale, where means and intervals over seeds are sound.
    positive = np.greater(sign, 0)
    log_p = np.where(np.all(positive, (0, 2), keepdims=True)[0], log_p, np.nan)
    r = pooled_correlation(log_p, np.broadcast_to(target, log_p.shape))
    outputs = {
        name: np.moveaxis(getattr(observed, name)[:, inputs][:, :, run], 1, -1)
        for name in ("output_error", "output_gain", "output_error_other_pool")
    }
    with np.errstate(divide="ignore", invalid="ignore"):  # an error may be 0
        cost = outputs["output_error_other_pool"] / outputs["output_error"]
    return run, outputs | {
        "other_pool_cost": cost,
        "ratio": ratio,
        "error": np.abs(ratio - 1),
        "positive": positive,
        "log_p": log_p,
        "fisher_z": np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))[..., None],
    }


def beside_uniform(
    output_error: np.ndarray,
    draw: np.ndarray,
    uniform: np.ndarray,
    distinct: np.ndarray,
    inputs: np.ndarray,
    run: np.ndarray,
) -> dict[str, np.ndarray | Interval]:
    """Output errors of the simulated heads together, and those of equal attention.

    output_error [n_features, seed, input, layer, head] and draw [n_features, seed] are those of
    networks, which were run where run [layer, head] is true; uniform [input, layer, head] are
    relative errors of equal attention for the inputs of the given places, distinct [layer, head]
    numbers of sets of weights. Medians over heads of means over inputs and seeds, with intervals
    over inputs and distinct heads; NaN where no network was run.
    """
    rng = stream(0, "bootstrap", "output_error")
    n_sizes = len(draw)
    of_size, better = np.full((3, n_sizes), np.nan), np.zeros(n_sizes, dtype=np.int64)
    for size, draws in enumerate(draw):
        seeds = np.flatnonzero(draws >= 0)
        errors = output_error[size][np.ix_(seeds, inputs)].mean(0)[:, run]
        if errors.size:
            of_size[:, size] = _median_head(errors, distinct[run], rng)
            better[size] = (errors.mean(0) < uniform[:, run].mean(0)).sum()
    together = _median_head(uniform[:, run], distinct[run], rng) if run.any() else (np.nan,) * 3
    return {
        "output_error_all": tuple(of_size),
        "heads_better_than_uniform": better,
        "output_error_uniform": uniform.mean(0),
        "output_error_uniform_all": together,
    }


def _median_head(errors: np.ndarray, distinct: np.ndarray, rng: np.random.Generator) -> Interval:
    """Median over heads of the mean over inputs of errors [input, head], with its interval."""
    return over_clusters(
        lambda x: np.median(x.mean(0)), errors, [None, distinct], rng, "log", n_draws=500
    )


def of_best_constant(log_normalizer: np.ndarray) -> np.ndarray:
    """Least median of |c / Z - 1| that a constant c leaves, of ln Z [..., query].

    |c / Z - 1| <= e holds for the queries with ln Z in a window of width ln((1 + e) / (1 - e)), so
    that the narrowest window with half of the queries tells e.
    """
    ordered = np.sort(log_normalizer, -1)
    n = ordered.shape[-1] // 2 + 1
    width = (ordered[..., n - 1 :] - ordered[..., : ordered.shape[-1] - n + 1]).min(-1)
    return np.tanh(width / 2)


def typical_errors(observed: Observed, log_normalizer: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """ln of the median over queries of the normaliser's error: mean over the networks of one draw.

    [input, draw, point]; NaN where no network was run.
    """
    draws, inputs = observed.draw, np.flatnonzero(mask.any(1))
    shape = (len(inputs), draws.max() + 1, observed.computed.shape[-1])
    typical = np.full(shape, np.nan)
    for place, draw in np.ndindex(shape[:2]):
        i = inputs[place]
        seeds = np.flatnonzero(draws == draw)
        run = observed.computed[seeds, i].all(0)  # [point]
        log_p, sign = (
            values[seeds, i][:, run][..., mask[i]]
            for values in (observed.log_calcium, observed.calcium_sign)
        )  # [seed, point, query]
        target = log_normalizer[i][run][..., mask[i]]
        with np.errstate(over="ignore", divide="ignore"):
            error = np.abs(sign * np.exp(log_p - target) - 1)
            typical[place, draw, run] = np.log(np.median(error, -1)).mean(0)
    return typical


def quantiles(observed: Observed, mask: np.ndarray) -> np.ndarray:
    """Quantiles .1, .5 and .9 of log_calcium over seeds, NaN where not all calcium is positive.

    [3, input, point, token].
    """
    log_p = np.where(observed.calcium_sign > 0, observed.log_calcium, np.nan)
    found = np.full((3, *log_p.shape[1:]), np.nan)
    run = np.asarray(observed.computed.all(0))[..., None] & mask[:, None, :]  # as [..., token]
    found[:, run] = np.quantile(log_p[:, run], (0.1, 0.5, 0.9), axis=0)
    return found
