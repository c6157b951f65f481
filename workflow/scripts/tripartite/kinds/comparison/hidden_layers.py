"""Hidden layers that are compared: their limit of many neurons, and the range of their rates."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tripartite.attention import log_key_weight
from tripartite.features import FEATURE_MAPS, Activation
from tripartite.kernels import limit_kernel, limit_read
from tripartite.kinds.comparison.moments import error_vector
from tripartite.network import Hidden, Tokens, rates


@dataclass(frozen=True, kw_only=True)
class HiddenLayer:
    """What sets a variant apart: its feature map, and what this map alone takes."""

    feature_map: str
    threshold: float = math.inf  # at which rates saturate
    a: float | None = None  # fitted to the head if None

    @property
    def activation(self) -> Activation:
        return FEATURE_MAPS[self.feature_map].activation


def output_floors(
    layer: HiddenLayer,
    tokens: Sequence[Tokens],
    exact: Sequence[Tensor],
    n_features: list[int],
    causal: bool,
) -> list[float]:
    """Relative output error of infinitely many neurons, rms over inputs; NaN where it is not known.

    One for each of n_features, as the kernel of the linear map depends on m.
    """
    if layer.feature_map != "linear":
        return [_output_floor(layer, tokens, exact, n_features[0], causal)] * len(n_features)
    return [_output_floor(layer, tokens, exact, m, causal) for m in n_features]


def _output_floor(
    layer: HiddenLayer, tokens: Sequence[Tokens], exact: Sequence[Tensor], m: int, causal: bool
) -> float:
    outputs = []
    for q, k, v, log_gain in tokens:
        kernel = limit_kernel(layer.feature_map, q, k, m, layer.threshold)
        if kernel is None:
            return math.nan
        log_kernel, sign = kernel
        log_kernel = log_kernel + log_key_weight(torch.ones(len(k), dtype=torch.bool), causal)
        outputs.append(limit_read(log_kernel, sign, log_gain, v)[2])
    return float(error_vector(outputs, exact).norm())


def rate_ranges(
    layer: HiddenLayer,
    tokens: Sequence[Tokens],
    neurons: Iterable[tuple[Tensor, Tensor]],
    n_features: list[int],
) -> list[float]:
    """log10 of the highest over the median firing rate phi, its factor exp(-|x|^2 / 2) included.

    Over all neurons, queries and keys of an input; mean over inputs, for each of n_features. NaN
    for maps with signs or silent neurons.
    """
    weights, bias = (torch.cat(parts) for parts in zip(*neurons))
    ranges = []
    for m in n_features:
        decades = []
        for q, k, _, _ in tokens:
            x = torch.cat([q, k])
            hidden = Hidden(
                weights[:m].to(x), bias[:m].to(x.device), layer.activation, layer.threshold
            )
            log_phi, sign = rates(hidden, x, m)
            if sign is not None or bool((log_phi == -torch.inf).any()):
                return [math.nan] * len(n_features)
            decades.append(float(log_phi.max() - log_phi.flatten().median()) / math.log(10))
        ranges.append(sum(decades) / len(decades))
    return ranges
