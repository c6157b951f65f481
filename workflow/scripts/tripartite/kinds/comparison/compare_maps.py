"""Compare hidden layers on the same heads and weights: bias, variance, limits and ranks."""

import numpy as np
import torch
import xarray as xr

from tripartite import hidden
from tripartite.attention import uniform_attention
from tripartite.contracts import UserError
from tripartite.heads import Head, Heads
from tripartite.kinds.comparison import ranking
from tripartite.kinds.comparison.hidden_layers import HiddenLayer, output_floors, rate_ranges
from tripartite.kinds.comparison.moments import of_networks, relative_square
from tripartite.network import Tokens, read
from tripartite.statistics import Interval, over_clusters
from tripartite.symmetries import Symmetry, for_map, transform


def compare_maps(
    heads: Heads,
    variants: dict[str, dict],
    n_features: list[int],
    n_seeds: int,
    symmetries: list[str],
    dtype: str,
) -> xr.Dataset:
    """Return bias, variance, floor and rank of hidden layers with different feature maps.

    Beside them stand equal attention to all keys that are read and the best constant gain of each
    network.

    variants are {name: {feature_map, threshold, a}}, the last two as far as the map takes them;
    their order is that of the axis. Every variant, and simulate itself, has the same streams of
    hidden weights, and smaller networks are the first neurons of larger ones. A network has the
    order of its layer.
    """
    layers = [HiddenLayer(**variant) for variant in variants.values()]

    def one_layer(head: Head, layer: HiddenLayer) -> tuple[dict, np.ndarray]:
        symmetry, a = _fitted(head, layer, symmetries)
        exact = [one.output for one in head.readings]
        tokens, log_normalizer = [], []
        for one in head.readings:
            q, k, log_gain, log_shift = transform(one.q, one.k, symmetry)
            tokens.append(Tokens(q, k, one.v, log_gain))
            log_normalizer.append(one.log_normalizer - log_shift)
        seen = [_cast(one, head.device, dtype) for one in tokens]
        ranges, neurons = [(0, m) for m in n_features], (n_features[-1], layer.feature_map, a)
        networks = (  # one seed at a time
            read(
                seen,
                hidden.neurons(head, draw, *neurons),
                ranges,
                layer.activation,
                layer.threshold,
                head.causal,
            )
            for draw in range(n_seeds)
        )
        statistics, squares = of_networks(networks, exact, log_normalizer)
        statistics["output_floor"] = output_floors(layer, tokens, exact, n_features, head.causal)
        drawn = hidden.neurons(head, 0, *neurons)
        statistics["log10_rate_range"] = rate_ranges(layer, seen, drawn, n_features)
        return statistics, squares

    def one_head(head: Head) -> dict:
        of_variants, squares = zip(*(one_layer(head, layer) for layer in head.each(layers)))
        statistics = _stacked(of_variants)
        uniform = np.array(
            [
                relative_square(uniform_attention(one.v, one.causal), one.output)
                for one in head.readings
            ]
        )  # [input]
        compared = _compared(
            layers,
            np.stack(squares, -1),
            uniform,
            statistics["log10_rate_range"],
            head.stream("compare", "bootstrap"),
        )
        return statistics | compared

    results = heads.map(one_head, "compare_maps")
    coords = {
        "variant": list(variants),
        "decades": ranking.DECADES,
        "n_features": n_features,
    }
    of_all = {
        "feature_map": [layer.feature_map for layer in layers],
        "threshold": np.array([layer.threshold for layer in layers], dtype=float),
    }
    return heads.dataset("comparison", heads.placed("comparison", results, coords) | of_all, coords)


def _compared(
    layers: list[HiddenLayer],
    squares: np.ndarray,
    uniform: np.ndarray,
    decades: np.ndarray,
    rng: np.random.Generator,
) -> dict:
    """The layers beside each other and beside equal attention, by the names of variables.

    squares [n_features, input, seed, variant] and uniform [input] are relative square errors,
    decades [variant, n_features] those between the highest and the median rate.
    """
    thresholds = np.array([layer.threshold for layer in layers], dtype=float)
    saturating = [
        i
        for i in np.argsort(thresholds, kind="stable")
        if layers[i].feature_map in ("truncated_performer", "performer")
    ]
    of_sizes = [
        ranking.of_thresholds(
            x[..., saturating], uniform, thresholds[saturating], of_size[saturating], rng
        )
        for x, of_size in zip(squares, decades.T)
    ]
    found = _stacked(tuple(of_sizes))
    for name in ("mean_square_in_range", "in_range_over_uniform"):
        found[name] = _sizes_last(found[name])
    ranks = _stacked(tuple({"rank": ranking.rank_interval(x, rng)} for x in squares))["rank"]
    equal = over_clusters(lambda x: np.sqrt(x.mean(0)), uniform, (None,), rng, "log")
    return found | {"rank": _sizes_last(ranks), "uniform_error": equal}


def _sizes_last(interval: Interval) -> Interval:
    """An interval [n_features, ...] as [..., n_features]."""
    estimate, low, high = (np.moveaxis(x, 0, -1) for x in interval)
    return estimate, low, high


def _fitted(head: Head, layer: HiddenLayer, symmetries: list[str]) -> tuple[Symmetry, torch.Tensor]:
    """What is fitted to the inputs that calibrate, or else to those that are read."""
    inputs = [(one.q, one.k) for one in head.calibrating or head.readings]
    try:
        return for_map(inputs, symmetries, layer.feature_map, layer.a, head.causal)
    except ValueError as error:
        raise UserError(
            f"layer {head.layer}, head {head.head}: {error}; leave out balance, or compare on "
            "other heads"
        ) from error


def _cast(tokens: Tokens, device: str, dtype: str) -> Tokens:
    """Tokens as networks read them."""
    q, k, v = (x.to(device, getattr(torch, dtype)) for x in tokens[:3])
    return Tokens(q, k, v, tokens.log_gain.to(device))


def _stacked(parts: tuple[dict, ...]) -> dict:
    """Values of several sources along a first axis, by their names; intervals stay triples."""
    columns = {name: [part[name] for part in parts] for name in parts[0]}
    return {
        name: tuple(map(np.stack, zip(*values)))
        if isinstance(values[0], tuple)
        else np.stack(values)
        for name, values in columns.items()
    }
