"""What perturbations do to the output of a head: numbers of one network, and their summaries."""

import math
from collections.abc import Iterable

import numpy as np

from tripartite.attention import relative_error
from tripartite.kinds.perturbations.perturbations import Law, Network
from tripartite.kinds.perturbations.registry import Perturbation
from tripartite.statistics import Interval, over_clusters

Array = np.ndarray
CLUSTERS = (None, None)  # seeds, inputs: all crossed
TOLERATED = (1.1, math.sqrt(2))  # errors over those without the perturbation


def _mean(values: Array) -> Array:
    return values.mean((0, 1))


def _root_mean_square(values: Array) -> Array:
    return np.sqrt(np.square(values).mean((0, 1)))


# Summary over seeds and inputs, and the scale on which its interval is symmetric.
MEASURED = {
    "output_error": (_root_mean_square, "log"),
    "added_error": (_root_mean_square, "log"),
    "gain": (_mean, "log"),
    "sd_log_gain": (_mean, "log"),
    "direction": (_mean, "linear"),
}
EXPECTED = {
    "added_error_law": _root_mean_square,
    "added_error_uniform": _root_mean_square,
    "gain_law": _mean,
    "gain_law_low": _mean,
    "gain_law_high": _mean,
    "sd_log_gain_law": _mean,
    "total_factor": _mean,
}


def of_network(
    net: Network, cases: Iterable[tuple[Perturbation, float, np.random.Generator]]
) -> dict[str, Array]:
    """Effects [case] of perturbations of some dose, by the names of MEASURED and EXPECTED.

    The error without them, unperturbed, is repeated for every case.
    """
    found = [
        _measured(net, perturbation.function(net, dose, rng)[1])
        | _expected(perturbation.law(net, dose))
        for perturbation, dose, rng in cases
    ]
    return {name: np.array([x[name] for x in found]) for name in found[0]}


def _measured(net: Network, output: Array) -> dict[str, float]:
    along = (output * net.output).sum(1)
    square = np.square(net.output).sum(1)
    gain = along / square
    log_gain = np.log(gain[(gain > 0) & np.isfinite(gain)])
    cosine = along / np.sqrt(square * np.square(output).sum(1))
    cosine = cosine[np.isfinite(cosine)]  # of queries at which the network is not silent
    return {
        "unperturbed": float(relative_error(net.output, net.exact)),
        "output_error": float(relative_error(output, net.exact)),
        "added_error": float(relative_error(output, net.output)),
        "gain": float(np.median(gain)),
        "sd_log_gain": log_gain.std() if len(log_gain) > 1 else math.nan,
        "direction": cosine.mean() if len(cosine) else math.nan,
    }


def _expected(law: Law) -> dict[str, float]:
    gains = [
        math.nan if x is None else float(np.median(x))
        for x in (law.gain, law.gain_low, law.gain_high)
    ]
    return {
        "added_error_law": math.sqrt(law.added),
        "added_error_uniform": math.sqrt(law.added_uniform),
        **dict(zip(("gain_law", "gain_law_low", "gain_law_high"), gains)),
        "sd_log_gain_law": math.sqrt(law.log_gain_variance),
        "total_factor": math.sqrt(law.total_factor),
    }


def summaries(
    effects: list[list[list[dict[str, Array]]]], rng: np.random.Generator
) -> dict[str, Array | Interval]:
    """Effects on the networks [seed][input][m] of a head as the file has them, each [case, m].

    What is measured has an interval over seeds and inputs, of random draws from rng: estimate, low
    and high; NaN ends where there is one input. The error without perturbations is [m].
    """

    def values(name: str) -> Array:
        """[seed, input, case, m]"""
        every = [[[x[name] for x in sizes] for sizes in inputs] for inputs in effects]
        return np.array(every).swapaxes(2, 3)

    before, after = values("unperturbed"), values("output_error")
    found: dict[str, Array | Interval] = {
        name: over_clusters(statistic, values(name), CLUSTERS, rng, scale)
        for name, (statistic, scale) in MEASURED.items()
    }
    found |= {name: statistic(values(name)) for name, statistic in EXPECTED.items()}
    found["output_error_unperturbed"] = over_clusters(
        _root_mean_square, before[:, :, 0], CLUSTERS, rng, "log"
    )
    found["error_ratio"] = over_clusters(
        lambda x: _root_mean_square(x[..., 0]) / _root_mean_square(x[..., 1]),
        np.stack([after, before], -1),
        CLUSTERS,
        rng,
        "log",
    )
    # the law is a factor on the error without perturbations
    factor = np.asarray(found.pop("total_factor"))
    found["output_error_law"] = factor * found["output_error_unperturbed"][0]
    return found


def least_bits(bits: Array, ratio: Array, limit: float) -> Array:
    """The least of rising bits [b] from which on ratio [b, ...] is at most a limit.

    inf where it is not with the most bits, NaN where that is not known.
    """
    good = np.flip(np.logical_and.accumulate(np.flip(ratio <= limit, 0), 0), 0)
    least = np.where(good.any(0), bits[good.argmax(0)], np.inf)
    return np.where(np.isnan(ratio).any(0), np.nan, least)
