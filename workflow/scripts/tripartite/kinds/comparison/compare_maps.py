"""Compare hidden layers on the same heads and weights: bias, variance, limits and ranks."""

import numpy as np
import torch
import xarray as xr

from tripartite import hidden
from tripartite.contracts import UserError
from tripartite.heads import Head, Heads
from tripartite.kinds.comparison import ranking
from tripartite.kinds.comparison.hidden_layers import HiddenLayer, output_floors, rate_ranges
from tripartite.kinds.comparison.moments import of_networks
from tripartite.network import Tokens, read
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

    variants are {name: {feature_map, threshold, a}}, the last two as far as the map takes them;
    their order is that of the axis. Every variant, and simulate itself, has the same streams of
    hidden weights, and smaller networks are the first neurons of larger ones. Networks are
    bidirectional.
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
            )
            for draw in range(n_seeds)
        )
        statistics, squares = of_networks(networks, exact, log_normalizer)
        statistics["output_floor"] = output_floors(layer, tokens, exact, n_features)
        drawn = hidden.neurons(head, 0, *neurons)
        statistics["log10_rate_range"] = rate_ranges(layer, seen, drawn, n_features)
        return statistics, squares

    def one_head(head: Head) -> tuple[dict, np.ndarray]:
        statistics, squares = zip(*(one_layer(head, layer) for layer in head.each(layers)))
        return _stacked(statistics), np.stack(squares)  # [variant, n_features, seed]

    of_heads = heads.map(one_head, "compare_maps")
    squares = np.stack([squares for _, squares in of_heads], 2)  # [variant, n_features, head, seed]
    feature_maps = [layer.feature_map for layer in layers]
    thresholds = np.array([layer.threshold for layer in layers], dtype=float)
    rng = heads.stream("compare", "bootstrap")
    rank = ranking.mean_ranks(squares, rng)
    best = ranking.best_thresholds(squares, feature_maps, thresholds, rng)
    results = [result | _stacked(sizes) for (result, _), sizes in zip(of_heads, zip(*best))]
    coords = {"variant": list(variants), "n_features": n_features}
    of_all = {"rank": rank, "feature_map": feature_maps, "threshold": thresholds}
    placed = heads.placed("comparison", results, coords)
    return heads.dataset("comparison", placed | of_all, coords)


def _fitted(head: Head, layer: HiddenLayer, symmetries: list[str]) -> tuple[Symmetry, torch.Tensor]:
    """What is fitted to the inputs that calibrate, or else to those that are read."""
    inputs = [(one.q, one.k) for one in head.calibrating or head.readings]
    try:
        return for_map(inputs, symmetries, layer.feature_map, layer.a)
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
