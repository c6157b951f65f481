"""Fit symmetries and distributions of hidden weights to some inputs, and test them on others."""

import numpy as np
import xarray as xr

from tripartite.heads import Head, Heads
from tripartite.kinds.symmetries.recipes import RECIPES, log10_needed
from tripartite.statistics import cluster_bootstrap, of_median
from tripartite.streams import stream

MAX_LOG10_FEW = 5.0  # of the neurons that are few
NOT_FITTED = {
    "log10_features_needed": np.nan,
    "log10_features_needed_own": np.nan,
    "reduction": (np.nan,) * 3,
}


def calibrate(heads: Heads) -> xr.Dataset:
    """Return the neurons that each head needs by each recipe, and the paired reductions.

    Recipes are fitted to the inputs that calibrate, and for comparison to each other input by
    itself. All numbers are the closed form's; intervals are over queries for one head, over inputs
    and heads for all of them. A head to which a recipe cannot be fitted is NaN, and `note` says
    why.
    """
    tested = heads.read_inputs

    def one_head(head: Head) -> dict:
        given = {x.name: (x.q, x.k, x.log_normalizer) for x in (*head.calibrating, *head.readings)}
        inputs = [given[name] for name in heads.names]
        calibrating = [given[x.name] for x in head.calibrating]
        own = np.full((len(RECIPES), len(inputs)), np.nan)
        try:
            needed = [log10_needed(inputs, calibrating, recipe) for recipe in RECIPES.values()]
            for i in tested:
                own[:, i] = [
                    np.median(log10_needed([inputs[i]], [inputs[i]], recipe))
                    for recipe in RECIPES.values()
                ]
        except ValueError as error:
            return NOT_FITTED | {"note": str(error)}
        of_queries = np.array([np.concatenate([x[i] for i in tested]) for x in needed])
        return {
            "log10_features_needed": [[np.median(x) for x in of_inputs] for of_inputs in needed],
            "log10_features_needed_own": own,
            "reduction": of_median(of_queries[0] - of_queries),
            "note": "",
        }

    coords = {"recipe": [*RECIPES]}
    found = heads.placed("symmetries", heads.map(one_head, "calibrate"), coords)
    needed = found["log10_features_needed"][:, tested]  # [recipe, input, layer, head]
    on_others, on_itself = (
        x[..., found["note"] == ""] for x in (needed, found["log10_features_needed_own"][:, tested])
    )  # [recipe, input, head]
    others = {
        "role": ["tested" if i in tested else "calibrated" for i in range(len(heads.names))],
        "heads_with_few": (np.median(needed, 1) <= MAX_LOG10_FEW).sum((1, 2)),
        "reduction_all": over_heads(on_others[:1] - on_others, "reduction_all"),
        "lost": over_heads(on_others - on_itself, "lost"),
    }
    return heads.dataset("symmetries", found | others, coords)


def over_heads(values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median over inputs and heads of values [recipe, input, head], with its interval.

    NaN where there is one input and one head.
    """
    if not values.size or max(values.shape[1:]) == 1:
        return (np.full(len(values), np.nan),) * 3
    return cluster_bootstrap(
        lambda x: np.median(x, (0, 1)),
        np.moveaxis(values, 0, -1),
        2,
        stream(0, "bootstrap", name),
    )
