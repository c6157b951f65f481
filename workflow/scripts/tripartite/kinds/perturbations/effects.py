"""What perturbations do to the output of a head: numbers of one network, and their summaries."""

import math
from collections.abc import Iterable

import numpy as np

from tripartite.attention import relative_error
from tripartite.kinds.perturbations.perturbations import Law, Network
from tripartite.kinds.perturbations.registry import Perturbation
from tripartite.statistics import over_seeds

Array = np.ndarray


def _mean(values: Array) -> Array:
    return values.mean((0, 3))


def _root_mean_square(values: Array) -> Array:
    return np.sqrt(np.square(values).mean((0, 3)))


def _median(values: Array) -> Array:
    return np.median(values, (0, 3))


# Summary over seeds and inputs or queries, and the scale on which its interval is symmetric.
MEASURED = {
    "output_error": (_root_mean_square, "log"),
    "output_error_unperturbed": (_root_mean_square, "log"),
    "added_error": (_root_mean_square, "log"),
    "gain": (_median, "log"),
    "sd_log_gain": (_mean, "log"),
    "direction": (_mean, "linear"),
}
EXPECTED = {
    "added_error_law": _root_mean_square,
    "added_error_uniform": _root_mean_square,
    "gain_law": _median,
    "gain_law_low": _median,
    "gain_law_high": _median,
    "sd_log_gain_law": _mean,
    "total_factor": _mean,
}


def of_network(
    net: Network, cases: Iterable[tuple[Perturbation, float, np.random.Generator]]
) -> dict[str, Array]:
    """Effects of perturbations of some dose on a network, by the names of MEASURED and EXPECTED.

    Each is [case, 1] or, for gains of every query, [case, T]; of the error without them [1, 1].
    """
    found = [
        _measured(net, perturbation.function(net, dose, rng)[1])
        | _expected(perturbation.law(net, dose), len(net.p))
        for perturbation, dose, rng in cases
    ]
    effects = {
        name: np.array([x[name] for x in found]).reshape(len(found), -1) for name in found[0]
    }
    unperturbed = relative_error(net.output, net.exact)
    return effects | {"output_error_unperturbed": np.array([[unperturbed]])}


def _measured(net: Network, output: Array) -> dict[str, float | Array]:
    along = (output * net.output).sum(1)
    square = np.square(net.output).sum(1)
    gain = along / square
    log_gain = np.log(gain[(gain > 0) & np.isfinite(gain)])
    cosine = along / np.sqrt(square * np.square(output).sum(1))
    cosine = cosine[np.isfinite(cosine)]  # of queries at which the network is not silent
    return {
        "output_error": relative_error(output, net.exact),
        "added_error": relative_error(output, net.output),
        "gain": gain,
        "sd_log_gain": log_gain.std() if len(log_gain) > 1 else math.nan,
        "direction": cosine.mean() if len(cosine) else math.nan,
    }


def _expected(law: Law, n_queries: int) -> dict[str, float | Array]:
    gains = [
        np.full(n_queries, math.nan) if x is None else x
        for x in (law.gain, law.gain_low, law.gain_high)
    ]
    return {
        "added_error_law": math.sqrt(law.added),
        "added_error_uniform": math.sqrt(law.added_uniform),
        **dict(zip(("gain_law", "gain_law_low", "gain_law_high"), gains)),
        "sd_log_gain_law": math.sqrt(law.log_gain_variance),
        "total_factor": math.sqrt(law.total_factor),
    }


def summaries(effects: list[list[list[dict[str, Array]]]]) -> dict[str, Array | tuple]:
    """Effects on the networks [seed][input][m] of a head as the file has them, each [case, m].

    What is measured has an interval over seeds: estimate, low and high. The error without
    perturbations is [1, m].
    """

    def values(name: str) -> Array:
        """[seed, case, m, input or query]"""
        return np.stack(
            [
                np.concatenate([np.stack([x[name] for x in sizes], 1) for sizes in inputs], -1)
                for inputs in effects
            ]
        )

    found: dict[str, Array | tuple] = {
        name: over_seeds(statistic, values(name), scale)
        for name, (statistic, scale) in MEASURED.items()
    }
    found |= {name: statistic(values(name)) for name, statistic in EXPECTED.items()}
    # the law is a factor on the error without perturbations
    found["output_error_law"] = found.pop("total_factor") * found["output_error_unperturbed"][0]
    return found
