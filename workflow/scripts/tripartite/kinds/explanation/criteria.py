"""How well explanations explain the attention of networks, and which of them criteria prefer."""

import math

import numpy as np

from tripartite.explanation import EXPLANATIONS, explain_attention
from tripartite.statistics import cluster_interval
from tripartite.streams import stream

ESTIMATES = ("inverse_temperature", "uniform_share", "decay", "key_bias_sd", "output_gain")
CRITERIA = ("aic", "bic", "kl")

Explained = tuple[dict[str, np.ndarray], str]  # ESTIMATES and CRITERIA [explanation], and a note


def explain_network(
    weights: np.ndarray, logits: np.ndarray, age: np.ndarray, v: np.ndarray
) -> Explained:
    """Estimates and criteria of a network with attention weights [T, N], by each explanation.

    logits and ages of the keys are [T, N], values v [N, E]. NaN where an explanation cannot be
    fitted; the note is that of the first one.
    """
    found = {name: np.full(len(EXPLANATIONS), np.nan) for name in (*ESTIMATES, *CRITERIA)}
    silent = ~(weights.sum(1) > 0)
    if silent.any():
        return found, f"{silent.sum()} queries have no response"
    note = ""
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.nansum(weights * np.log(weights), 1)
    for place, explanation in enumerate(EXPLANATIONS):
        fitted = explain_attention(weights, logits, age, explanation)
        if fitted.note:
            note = note or f"{explanation}: {fitted.note}"
            continue
        output, explained = weights @ v, np.exp(fitted.log_attention) @ v
        values = fitted.estimates | {
            "key_bias_sd": fitted.estimates["key_bias"].std(),
            "output_gain": (output * explained).sum() / (np.square(explained).sum() or np.nan),
            "aic": fitted.aic,
            "bic": fitted.aic + (math.log(len(weights)) - 2) * fitted.n_parameters,
            "kl": float(entropy.mean()) - fitted.log_likelihood / len(weights),
        }
        for name in found:
            found[name][place] = values[name]
    return found, note


def summaries(networks: list[list[list[Explained]]]) -> dict:
    """Means over inputs and seeds of networks [seed][n_features][input], and the first notes.

    All are [explanation, n_features], estimates with their intervals; notes are [n_features]. NaN
    where any network is not explained; an explanation that cannot be fitted to a network is not the
    best one there.
    """

    def of_networks(name: str) -> np.ndarray:  # [explanation, n_features, input, seed]
        values = [[[found[name] for found, _ in size] for size in seed] for seed in networks]
        return np.ascontiguousarray(np.array(values).transpose(3, 1, 2, 0))

    aic, bic, kl = (of_networks(name) for name in CRITERIA)
    lowest = _lowest(aic)
    means = {
        "delta_aic": aic - lowest,
        "delta_bic": bic - _lowest(bic),
        "share_best": np.where(np.isfinite(lowest), aic == lowest, np.nan),
        "kl": kl,
    }
    notes = [[note for per_input in zip(*size) for _, note in per_input] for size in zip(*networks)]
    return {
        **{
            name: cluster_interval(
                lambda x: x.mean((0, 1)),
                np.moveaxis(of_networks(name), (-2, -1), (0, 1)),
                2,
                stream(0, "bootstrap", name),
                n_draws=1000,
            )
            for name in ESTIMATES
        },
        **{name: values.mean((-2, -1)) for name, values in means.items()},
        "note": [next(filter(None, of_size), "") for of_size in notes],
    }


def _lowest(criterion: np.ndarray) -> np.ndarray:
    """The lowest over explanations (the first axis), inf where none was fitted."""
    return np.where(np.isnan(criterion), np.inf, criterion).min(0)
