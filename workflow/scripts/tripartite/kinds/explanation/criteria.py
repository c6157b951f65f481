"""How much of a network's deviation from softmax attention explanations remove, and which wins."""

from typing import NamedTuple

import numpy as np

from tripartite.explanation import (
    EXPLANATIONS,
    aic,
    explain_attention,
    likelihood,
    log_explained_attention,
)
from tripartite.kinds.explanation.prediction import slope
from tripartite.statistics import Interval, over_clusters

ESTIMATES = ("inverse_temperature", "uniform_share", "decay", "key_bias_sd", "output_gain")
OTHERS = ("kl", "kl_unfitted", "log_likelihood", "n_parameters")
SOFTMAX = list(EXPLANATIONS).index("softmax")
# ASSUME: weights of one query stand for so many attended tokens. No experiment says how many, so
# the criterion is reported for each.
ATTENDED_TOKENS = (0.3, 1.0, 3.0, 10.0, 30.0)


class Explained(NamedTuple):
    """Values [explanation] of ESTIMATES and OTHERS of a network, the slope of its logs, a note."""

    values: dict[str, np.ndarray]
    slope: float
    note: str


def explain_network(
    weights: np.ndarray, logits: np.ndarray, age: np.ndarray, v: np.ndarray
) -> Explained:
    """What explains a network with attention weights [T, N], by each explanation.

    logits and ages of the keys are [T, N], values v [N, E]; keys of negative age are not read. NaN
    where an explanation cannot be fitted; the note is that of the first one.
    """
    values = {name: np.full(len(EXPLANATIONS), np.nan) for name in (*ESTIMATES, *OTHERS)}
    silent = ~(weights.sum(1) > 0)
    if silent.any():
        return Explained(values, np.nan, f"{silent.sum()} queries have no response")
    note = ""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_weights = np.log(weights)
        entropy = np.nansum(weights * log_weights, 1)
    for place, explanation in enumerate(EXPLANATIONS):
        fitted = explain_attention(weights, logits, age, explanation)
        if fitted.note:
            note = note or f"{explanation}: {fitted.note}"
            continue
        output, explained = weights @ v, np.exp(fitted.log_attention) @ v
        found = fitted.estimates | {
            "key_bias_sd": fitted.estimates["key_bias"].std(),
            "output_gain": (output * explained).sum() / (np.square(explained).sum() or np.nan),
            "kl": float(entropy.mean()) - fitted.log_likelihood / len(weights),
            "kl_unfitted": float(entropy.mean())
            - unfitted_likelihood(weights, logits, age, explanation, fitted.estimates)
            / len(weights),
            "log_likelihood": fitted.log_likelihood,
            "n_parameters": fitted.n_parameters,
        }
        for name in values:
            values[name][place] = found[name]
    return Explained(values, slope(log_weights, logits, age >= 0), note)


def unfitted_likelihood(
    weights: np.ndarray, logits: np.ndarray, age: np.ndarray, explanation: str, near: dict
) -> float:
    """Log likelihood of each second query by the fit to the others, and the other way round.

    near has the estimates from all queries. NaN where one of the halves cannot be fitted. Other
    arguments are as of explain_network.
    """
    total = 0.0
    for first in (0, 1):
        fitted_to, rest = slice(first, None, 2), slice(1 - first, None, 2)
        fit = explain_attention(
            weights[fitted_to], logits[fitted_to], age[fitted_to], explanation, near
        )
        if fit.note:
            return np.nan
        log_p, _ = log_explained_attention(fit.estimates, logits[rest], age[rest])
        total += likelihood(weights[rest], log_p)
    return total


def summaries(networks: list[list[list[Explained]]], rng: np.random.Generator) -> dict:
    """Means over inputs and seeds of networks [seed][n_features][input], and the first notes.

    All are [explanation, n_features], those of AIC [attended_tokens, explanation, n_features], of
    the slope and the notes [n_features]; intervals are over inputs and seeds. NaN where any network
    is not explained; an explanation that cannot be fitted to a network is not the best one there.
    """

    def of_networks(name: str) -> np.ndarray:  # [input, seed, explanation, n_features]
        found = [[[network.values[name] for network in size] for size in seed] for seed in networks]
        return np.array(found).transpose(2, 0, 3, 1)

    def interval(statistic, *names: str, scale: str = "linear") -> tuple:
        values = np.stack([of_networks(name) for name in names], 2)
        return over_clusters(lambda x: statistic(*x.mean((0, 1))), values, [None] * 2, rng, scale)

    estimates = interval(lambda *x: np.stack(x), *ESTIMATES)
    slopes = [[[network.slope for network in size] for size in seed] for seed in networks]
    criteria = [
        aic(of_networks("n_parameters"), of_networks("log_likelihood"), n) for n in ATTENDED_TOKENS
    ]
    filled = [np.where(np.isnan(x), np.inf, x) for x in criteria]
    lowest = [x.min(2, keepdims=True) for x in filled]
    notes = [[one.note for per_input in zip(*size) for one in per_input] for size in zip(*networks)]
    return {
        **{name: tuple(end[place] for end in estimates) for place, name in enumerate(ESTIMATES)},
        "kl": interval(lambda kl: kl, "kl", scale="log"),
        "divergence_removed": _share_removed(interval(divergence_left, "kl", scale="log")),
        "divergence_removed_unfitted": _share_removed(
            interval(divergence_left, "kl_unfitted", scale="log")
        ),
        "attended_tokens_needed": interval(
            tokens_needed, "log_likelihood", "n_parameters", scale="log"
        ),
        "slope_of_logs": over_clusters(
            lambda x: x.mean((0, 1)), np.array(slopes).transpose(2, 0, 1), [None] * 2, rng
        ),
        "delta_aic": np.stack([(x - y).mean((0, 1)) for x, y in zip(criteria, lowest)]),
        "share_best": np.stack(
            [np.where(np.isfinite(y), x == y, np.nan).mean((0, 1)) for x, y in zip(filled, lowest)]
        ),
        "note": [next(filter(None, of_size), "") for of_size in notes],
    }


def divergence_left(kl: np.ndarray) -> np.ndarray:
    """Divergence from explanations over that from softmax attention, of kl [e, m].

    Above 1 where an explanation is farther from the network than softmax attention is.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return kl / kl[SOFTMAX]


def _share_removed(left: Interval) -> Interval:
    """One less what is left; the upper end of what is left is the lower one of what is removed."""
    estimate, low, high = left
    return 1 - estimate, 1 - high, 1 - low


def tokens_needed(log_likelihood: np.ndarray, n_parameters: np.ndarray) -> np.ndarray:
    """Attended tokens per query from which AIC prefers explanations to all simpler ones, [e, m].

    Both are [e, m]. 0 for explanations without a parameter, inf where a simpler one explains as
    much, NaN where it is not fitted; a simpler one that is not fitted does not count.
    """
    more = n_parameters[:, None] - n_parameters[None]  # [e, simpler, m]
    gain = log_likelihood[:, None] - np.nan_to_num(log_likelihood, nan=-np.inf)[None]
    tiny = 1e-9 * np.abs(np.nan_to_num(log_likelihood))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.where(gain > tiny, more / gain, np.inf)
    needed = np.where(more > 0, needed, 0.0).max(1)
    return np.where(np.isnan(log_likelihood), np.nan, needed)
