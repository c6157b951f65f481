"""Fit the network to standard attention: measured errors beside the closed forms, for every head.

Then the phase that each network is in, and the power laws of its error inside one phase.
"""

from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from tripartite import phases
from tripartite.attention import log_key_weight, relative_error, uniform_attention
from tripartite.heads import Head, Heads
from tripartite.kinds.network import closed_forms, measured
from tripartite.kinds.network.closed_forms import UNKNOWN, OutputErrors, Pairs
from tripartite.kinds.network.laws import laws
from tripartite.kinds.network.measured import Observed
from tripartite.symmetries import Symmetry, transform

RMS = ("normalizer_error_rms", "output_error_rms", "output_error_other_pool_rms")


def fit(
    heads: Heads,
    states: xr.Dataset,
    feature_map: str,
    leak_hebbian: float,
    leak_presynaptic: float,
    feature_maps: dict,
) -> xr.Dataset:
    """Return the neurons each head needs (closed form), and errors and correlations with intervals.

    All are over the inputs on which networks were run. Statistics are pooled over queries, inputs
    and seeds, with 95 % intervals over seeds; heads that were not simulated are NaN in them. The
    closed form of the normaliser is for every head, that of the output for the simulated ones; they
    are NaN for feature maps that have none, by what is declared of feature_maps.
    """
    known = feature_maps[feature_map].get("closed_forms", [])
    has_output = "output" in known and leak_hebbian == leak_presynaptic
    computed = states["computed"]
    read = computed.any(("n_features", "seed", "layer", "head")).values  # [input]
    simulated = computed.any(("n_features", "seed", "input")).values  # [layer, head]
    heads = replace(heads, inputs=[heads.names[i] for i in np.flatnonzero(read)])

    def one_head(head: Head) -> tuple[torch.Tensor, OutputErrors, list[float]]:
        pairs = pairs_seen(head, states, leak_presynaptic)
        variances = [closed_forms.log_variance(one, feature_map, known) for one in pairs]
        outputs = UNKNOWN
        if has_output and simulated[head.layer, head.head]:
            of_inputs = [(x.v, x.output) for x in head.readings]
            outputs = closed_forms.output_errors(pairs, *zip(*of_inputs))
        uniform = [
            float(relative_error(uniform_attention(x.v, x.causal), x.output)) for x in head.readings
        ]
        return torch.cat(variances), outputs, uniform

    variances, of_outputs, uniform = zip(*heads.map(one_head, "fit"))
    log_variance = torch.stack(variances).unflatten(0, simulated.shape)  # [layer, head, query]
    outputs = OutputErrors(*np.array(of_outputs).T.reshape(-1, *simulated.shape))
    n_features, log_z = states["n_features"].values, heads.attention["log_normalizer"].values
    mask = heads.qkv["mask"].values & read[:, None]  # [input, token]
    closed = closed_forms.of_networks(n_features, log_variance, outputs)
    target, of_sizes = log_z[:, simulated], []  # [input, point, token]
    for size in range(len(n_features)):
        observed = observed_of_size(states, size, simulated)
        of_sizes.append(
            (
                *measured.statistics(observed, target, mask),
                measured.typical_errors(observed, target, mask),
                measured.quantiles(observed, mask),
            )
        )
    statistics, share_not_positive, typical, quantiles = zip(*of_sizes)
    found = {
        name: np.stack([at_heads(one[name], simulated, 1) for one in statistics], 1)
        for name in statistics[0]
    }
    for name in RMS:
        found[name][1:, ~closed_forms.is_sampled(n_features, log_variance)] = np.nan
    distinct, of_inputs = heads.qkv["distinct_head"].values, np.flatnonzero(read & mask.any(1))
    equal = np.array(uniform).T.reshape(-1, *simulated.shape)  # [input, layer, head]
    together = measured.beside_uniform(
        states["output_error"].values,
        states["draw"].values,
        equal,
        distinct,
        of_inputs,
        simulated,
    )
    low, middle, high = np.stack([at_heads(one, simulated, 2) for one in quantiles], 1)
    return heads.dataset(
        "fit",
        {
            **closed,
            **{name: tuple(values) for name, values in found.items()},
            **laws(
                n_features,
                closed["sigma_squared"],
                np.stack([at_heads(one, simulated, 2) for one in typical]),
                found["normalizer_ratio"][0],
                distinct,
            ),
            **together,
            "normalizer_error_constant": measured.of_best_constant(
                np.moveaxis(log_z, 0, 2)[..., mask]
            ),
            "distinct_head": distinct,
            "order": heads.qkv["order"].values,
            "share_not_positive": np.stack(
                [at_heads(one, simulated, 0) for one in share_not_positive]
            ),
            "log_normalizer": log_z,
            "log_calcium": middle,
            "log_calcium_low": low,
            "log_calcium_high": high,
        },
        {"n_features": n_features, "phase": phases.PHASES},
    )


def observed_of_size(states: xr.Dataset, size: int, simulated: np.ndarray) -> Observed:
    """The networks of a size, of the heads where simulated [layer, head] is true."""
    draw = states["draw"].values[size]
    seeds, layers = np.flatnonzero(draw >= 0), np.flatnonzero(simulated.any(1))

    def of_points(name: str) -> np.ndarray:
        variable = states[name].variable[size]  # [seed, input, layer, head, ...]
        parts = [variable[:, :, layer].values[seeds][:, :, simulated[layer]] for layer in layers]
        return np.concatenate(parts, 2)

    values = {name: of_points(name) for name in Observed._fields if name != "draw"}
    return Observed(**values, draw=draw[seeds])


def at_heads(values: np.ndarray, simulated: np.ndarray, axis: int) -> np.ndarray:
    """Values whose axis has one point for each simulated head, with layer and head in its place.

    NaN elsewhere; simulated [layer, head].
    """
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    found = np.full((*before, *simulated.shape, *after), np.nan)
    found[(slice(None),) * axis + (simulated,)] = values
    return found


def pairs_seen(head: Head, states: xr.Dataset, leak: float) -> list[Pairs]:
    """The queries and keys of each input as the networks of a head were given them."""
    place = {"layer": head.layer, "head": head.head}
    symmetry = Symmetry(
        *(torch.from_numpy(states[name][place].values) for name in Symmetry._fields)
    )
    a, pairs = torch.from_numpy(states["feature_a"][place].values), []
    for reading in head.readings:
        q, k, log_gain, log_shift = transform(reading.q, reading.k, symmetry)
        log_weight = log_key_weight(torch.ones(len(q), dtype=torch.bool), head.causal, leak)
        pairs.append(Pairs(q, k, reading.log_normalizer - log_shift, log_weight + log_gain, a))
    return pairs
