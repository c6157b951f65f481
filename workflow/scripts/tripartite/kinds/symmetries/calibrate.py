"""Fit symmetries and distributions of hidden weights to some inputs, and test them on others."""

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from tripartite import symmetries, theory
from tripartite.statistics import cluster_bootstrap, of_median
from tripartite.streams import stream

CENTER = ["center_keys", "center_queries"]
RECIPES = {  # what is fitted: symmetries, feature map
    "plain": ([], "performer"),
    "keys centred": (["center_keys"], "performer"),
    "centred": (CENTER, "performer"),
    "balanced": (["balance"], "performer"),
    "centred, balanced": ([*CENTER, "balance"], "performer"),
    "generalized alone": ([], "generalized_positive"),
    "generalized": ([*CENTER, "balance"], "generalized_positive"),
    "fitted normal": ([*CENTER, "balance"], "fitted_normal"),
}
FEW = 5.0  # log10 of neurons


def calibrate(qkv: xr.Dataset, attention: xr.Dataset, calibrated_on: list[str]) -> xr.Dataset:
    """Return the neurons that each head needs by each recipe, and the paired reductions.

    Recipes are fitted to the inputs of the names calibrated_on, and for comparison to each other input by
    itself. All numbers are the closed form's; intervals are over queries for one head, over inputs and
    heads for all of them. A head to which a recipe cannot be fitted is NaN, and `note` says why.
    """
    names = [str(name) for name in qkv["input"].values]
    calibrating = [names.index(name) for name in calibrated_on]
    tested = [i for i in range(len(names)) if i not in calibrating]
    mask = torch.from_numpy(qkv["mask"].values)
    n_inputs, n_layers, n_heads = qkv["q"].shape[:3]
    shape = (len(RECIPES), n_inputs, n_layers, n_heads)
    needed, needed_own = np.full(shape, np.nan), np.full(shape, np.nan)
    reduction = np.full((3, len(RECIPES), n_layers, n_heads), np.nan)
    notes = np.full((n_layers, n_heads), "", dtype=object)

    def one_head(layer: int, head: int) -> None:
        inputs = [
            tuple(torch.from_numpy(qkv[x].values[i, layer, head]).double()[mask[i]] for x in "qk")
            for i in range(n_inputs)
        ]
        log_z = [
            torch.from_numpy(attention["log_normalizer"].values[i, layer, head])[mask[i]]
            for i in range(n_inputs)
        ]
        per_query = []  # of the tested inputs, recipe by recipe
        for r, recipe in enumerate(RECIPES.values()):
            fitted = symmetries.fitted([inputs[i] for i in calibrating], *recipe)
            found = [_needed(*inputs[i], log_z[i], *fitted) for i in range(n_inputs)]
            needed[r, :, layer, head] = [np.median(values) for values in found]
            per_query.append(np.concatenate([found[i] for i in tested]))
            for i in tested:
                own = symmetries.fitted([inputs[i]], *recipe)
                needed_own[r, i, layer, head] = np.median(_needed(*inputs[i], log_z[i], *own))
        reduction[:, :, layer, head] = of_median(per_query[0] - np.array(per_query))

    bar = "{desc}: {percentage:.0f} % of {total} heads, {elapsed} gone, {remaining} left\n"
    places = list(np.ndindex(n_layers, n_heads))
    for layer, head in tqdm(places, "calibrate", mininterval=5, maxinterval=5, bar_format=bar):
        try:
            one_head(layer, head)
        except ValueError as error:
            notes[layer, head] = str(error)
            needed[:, :, layer, head] = needed_own[:, :, layer, head] = np.nan

    per_head = ("recipe", "layer", "head")
    variables = {
        "role": (
            "input",
            ["calibrated" if i in calibrating else "tested" for i in range(n_inputs)],
        ),
        "log10_features_needed": (("recipe", "input", "layer", "head"), needed),
        "log10_features_needed_own": (("recipe", "input", "layer", "head"), needed_own),
        "note": (per_head[1:], notes),
        "heads_with_few": ("recipe", (np.median(needed[:, tested], 1) <= FEW).sum((1, 2))),
    }
    for suffix, values in zip(("", "_low", "_high"), reduction):
        variables[f"reduction{suffix}"] = (per_head, values)
    fitted_heads = notes.ravel() == ""
    on_others, own = (
        x[:, tested].reshape(len(RECIPES), len(tested), -1)[..., fitted_heads]
        for x in (needed, needed_own)
    )  # [recipe, input, head]
    for name, values in (("reduction_all", on_others[:1] - on_others), ("lost", on_others - own)):
        triple = np.full((3, len(RECIPES)), np.nan)
        if max(values.shape[1:]) > 1 and values.size:
            triple = cluster_bootstrap(
                lambda x: np.median(x, (0, 1)),
                np.moveaxis(values, 0, -1),
                2,
                stream(0, "bootstrap", name),
            )
        for suffix, one in zip(("", "_low", "_high"), triple):
            variables[name + suffix] = ("recipe", one)
    coords = {name: qkv[name] for name in ("input", "layer", "head")}
    return xr.Dataset(variables, coords=coords | {"recipe": list(RECIPES)})


def _needed(q, k, log_z, symmetry, a) -> np.ndarray:
    """log10 of the neurons that each query of one input needs [T]; q, k [T, D]."""
    q, k, log_gain, log_shift = symmetries.transform(q, k, symmetry)
    log_r = theory.log_second_moment(q, k, log_z - log_shift, log_gain[None], a)
    return theory.log10_features_needed(theory.log_variance(log_r)).numpy()
