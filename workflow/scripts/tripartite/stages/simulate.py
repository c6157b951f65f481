"""Run the neuron-astrocyte network on every chosen head, for every seed and number of neurons."""

import itertools

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from tripartite.features import FEATURE_MAPS
from tripartite.network import batched
from tripartite.streams import stream


def simulate(
    qkv: xr.Dataset,
    attention: xr.Dataset,
    feature_map: str,
    n_features: list[int],
    n_seeds: int,
    heads: str | list[list[int]],
    seed: int,
    source: str,
    device: str,
) -> xr.Dataset:
    """Return log_calcium and output_error of networks with n_features hidden neurons, in float64.

    heads is "all" or a list of [layer, head]; the rest of the arrays is NaN and `computed` is false
    there. source is the experiment whose qkv.nc is read: the hidden weights belong to it, so that
    two experiments on the same data use the same weights. A smaller network consists of the first
    neurons of the larger one of the same seed: points of different n_features are not independent.
    """
    chosen = (
        list(itertools.product(range(qkv.sizes["layer"]), range(qkv.sizes["head"])))
        if heads == "all"
        else [tuple(pair) for pair in heads]
    )
    mask = torch.from_numpy(qkv["mask"].values).to(device)  # [input, token]
    n_inputs, n_layers, n_heads, n_tokens, d_head = qkv["q"].shape
    per_head = (len(n_features), n_seeds, n_inputs, n_layers, n_heads)
    log_calcium = np.full((*per_head, n_tokens), np.nan)
    output_error = np.full(per_head, np.nan)
    computed = np.zeros(per_head, dtype=bool)

    runs = list(itertools.product(chosen, range(n_seeds)))
    bar_format = "{desc}: {percentage:.0f} % of {total} runs, {elapsed} gone, {remaining} left\n"
    for (layer, head), index in tqdm(
        runs, desc="simulate", mininterval=5, maxinterval=5, bar_format=bar_format
    ):
        q, k, v = (
            torch.from_numpy(qkv[name].values[:, layer, head]).double().nan_to_num().to(device)
            for name in "qkv"
        )  # [input, token, d_head]
        weights = stream(seed, source, "omega", index, layer, head)
        omega = torch.from_numpy(weights.standard_normal((n_features[-1], d_head))).to(device)
        log_p, output = batched(q, k, v, mask, omega, FEATURE_MAPS[feature_map], n_features)
        exact = torch.from_numpy(attention["output"].values[:, layer, head]).to(device)
        error = (output - exact).masked_fill(~mask[..., None], 0).square().sum((-2, -1)).sqrt()
        size = exact.masked_fill(~mask[..., None], 0).square().sum((-2, -1)).sqrt()  # [input]
        log_p = log_p.masked_fill(~mask, torch.nan)
        log_calcium[:, index, :, layer, head] = log_p.cpu().numpy()
        output_error[:, index, :, layer, head] = (error / size).cpu().numpy()
        computed[:, index, :, layer, head] = True

    dims = ("n_features", "seed", "input", "layer", "head")
    return xr.Dataset(
        {
            "log_calcium": ((*dims, "token"), log_calcium),
            "output_error": (dims, output_error),
            "computed": (dims, computed),
        },
        coords={
            "n_features": np.array(n_features, dtype=np.int64),
            "seed": np.arange(n_seeds),
            **{name: qkv[name] for name in ("input", "layer", "head")},
        },
    )
