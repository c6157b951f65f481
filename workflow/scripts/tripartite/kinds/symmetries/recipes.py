"""What can be fitted to queries and keys, and the hidden neurons that a head then needs."""

import numpy as np
import torch
from torch import Tensor

from tripartite import symmetries, theory
from tripartite.attention import log_key_weight

CENTER = ["center_keys", "center_queries"]
Recipe = tuple[list[str], str]
RECIPES: dict[str, Recipe] = {  # what is fitted: symmetries, feature map
    "plain": ([], "performer"),
    "keys centred": (["center_keys"], "performer"),
    "centred": (CENTER, "performer"),
    "balanced": (["balance"], "performer"),
    "one width": ([], "generalized_positive"),
    "width of each direction": ([], "fitted_normal"),
    "centred, balanced": ([*CENTER, "balance"], "performer"),
    "centred, balanced, one width": ([*CENTER, "balance"], "generalized_positive"),
    "centred, balanced, width of each direction": ([*CENTER, "balance"], "fitted_normal"),
}
BEFORE = {  # of recipes that add one thing to another: the other one
    "keys centred": "plain",
    "centred": "plain",
    "balanced": "plain",
    "one width": "plain",
    "width of each direction": "plain",
    "centred, balanced": "centred",
    "centred, balanced, one width": "centred, balanced",
    "centred, balanced, width of each direction": "centred, balanced, one width",
}

Input = tuple[Tensor, Tensor, Tensor]  # q and k [T, D], and ln of the normaliser [T]


def log10_needed(
    inputs: list[Input], fitted_to: list[Input], recipe: Recipe, causal: bool = False
) -> list[np.ndarray]:
    """log10 of the neurons for 10 % rms error that each query [T] of each input needs.

    causal: a query reads only the keys up to its own token. ValueError where the recipe cannot be
    fitted.
    """
    symmetry, a = symmetries.fitted([(q, k) for q, k, _ in fitted_to], *recipe, causal)
    found = []
    for q, k, log_normalizer in inputs:
        q, k, log_gain, log_shift = symmetries.transform(q, k, symmetry)
        log_weight = log_gain + log_key_weight(torch.ones(len(k), dtype=torch.bool), causal)
        log_r = theory.log_second_moment(q, k, log_normalizer - log_shift, log_weight, a)
        found.append(theory.log10_features_needed(theory.log_variance(log_r)).numpy())
    return found
