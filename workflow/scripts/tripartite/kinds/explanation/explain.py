"""Find the standard attention that explains the attention of simulated networks best."""

import numpy as np
import torch
import xarray as xr

from tripartite import hidden, theory
from tripartite.attention import log_key_weight
from tripartite.explanation import EXPLANATIONS
from tripartite.heads import Head, Heads
from tripartite.kinds.explanation.criteria import ATTENDED_TOKENS, explain_network, summaries
from tripartite.kinds.explanation.prediction import expected_slope, fitted_shifts, predicted


def explain(heads: Heads, n_features: list[int], n_seeds: int) -> xr.Dataset:
    """Return the parameters of each explanation, what it removes, and the predicted beta.

    Networks of plain positive features get one-hot values, so that their outputs are their
    attention weights. Estimates are means over inputs and seeds with 95 % intervals over both.
    Where a network cannot be explained, its head is NaN at that size, and `note` says why.
    """
    log_m = np.log(n_features)

    def one_head(head: Head) -> dict:
        logits = [(x.q @ x.k.T).numpy() for x in head.readings]
        ages = [ages_of_keys(len(x), head.causal) for x in logits]
        values = [x.v.numpy() for x in head.readings]
        networks = [
            [
                [
                    explain_network(weights.numpy(), *reading)
                    for (_, _, weights), *reading in zip(of_inputs, logits, ages, values)
                ]
                for of_inputs in hidden.networks(head, draw, n_features, one_hot=True)
            ]
            for draw in head.each(range(n_seeds))
        ]
        log_r = [
            theory.log_second_moment(
                x.q,
                x.k,
                x.log_normalizer,
                log_key_weight(torch.ones(len(x.k), dtype=torch.bool), head.causal),
            )
            for x in head.readings
        ]
        slopes = [
            expected_slope(x.q.numpy(), x.k.numpy(), log_m, age >= 0)
            for x, age in zip(head.readings, ages)
        ]
        return summaries(networks, head.stream("bootstrap")) | {
            "sigma_squared": float(np.median(torch.cat(log_r).numpy())),
            "slope_of_logs_predicted": np.mean(slopes, 0),
        }

    results = heads.map(one_head, "explain")
    place = list(EXPLANATIONS).index("temperature")
    sigma_squared = np.array([found["sigma_squared"] for found in results])
    measured = np.stack([found["inverse_temperature"][0][place] for found in results], -1)
    shift, of_others, note = fitted_shifts(log_m, sigma_squared, measured, heads.distinct)
    shifted, unshifted = (predicted(log_m, sigma_squared, x) for x in (of_others, 0.0))
    for found, *predictions in zip(results, shifted.T, unshifted.T):
        names = ("inverse_temperature_shifted", "inverse_temperature_unshifted")
        found |= dict(zip(names, predictions))
    coords = {
        "attended_tokens": list(ATTENDED_TOKENS),
        "explanation": list(EXPLANATIONS),
        "n_features": n_features,
    }
    values = heads.placed("explanation", results, coords)
    return heads.dataset(
        "explanation", values | {"reach_shift": shift, "reach_shift_note": note}, coords
    )


def ages_of_keys(n_tokens: int, causal: bool) -> np.ndarray:
    """Age of each key for each query [T, T]: tokens written after it, until the query is read.

    All later tokens, or, with causal, those up to the query; negative where a key is not read.
    """
    position = np.arange(n_tokens, dtype=float)
    now = position[:, None] if causal else np.full((n_tokens, 1), n_tokens - 1.0)
    return now - position
