"""Attention layers of a whole transformer, rebuilt from neurons and astrocytes.

The weights of the transformer are transferred; only the hidden weights are new. They are random, of
a recipe that is fitted to each head on some inputs, or trained to the softmax attention of each
head on some inputs (attention transfer; Zhang et al., ICLR 2024). Every layer then works on the
states that the rebuilt layers before it leave, so that errors add up through the depth.

A layer works in two ways that give the same to rounding. `Rebuilt.attend` reads a whole text at
once. `Synapses` are written and read token by token, and have a fixed size: m (E + 1) numbers for
each head, whatever the length of the text,

    H <- H + phi(k_t) v_t^T,   g <- g + phi(k_t),   output = phi(q_t) H / (phi(q_t) . g).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tripartite import theory
from tripartite.attention import log_key_weight
from tripartite.features import draw_neurons, exponential
from tripartite.learning import feature_attention, log_features
from tripartite.network import Tokens, read
from tripartite.symmetries import Symmetry, fitted, transform

CENTER = ["center_keys", "center_queries"]
RECIPES: dict[str, tuple[list[str], str]] = {  # what is fitted to each head: symmetries, map
    "plain": ([], "performer"),
    "balanced": ([*CENTER, "balance"], "performer"),
    "generalized": ([*CENTER, "balance"], "generalized_positive"),
    "fitted": ([*CENTER, "balance"], "fitted_normal"),
}
LEARNED = "learned"  # the recipe whose hidden weights are trained

Reading = tuple[Tensor, Tensor]  # q and k [H, T, D] of one input
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v [..., H, T, D or E] to outputs
Random = Callable[[int, str], np.random.Generator]  # random numbers of a head and a name


class Fit(NamedTuple):
    """What is fitted to the H heads of a layer: symmetries, and a [H, D] of the hidden weights."""

    symmetry: Symmetry
    a: Tensor
    feature_map: str


class Rebuilt(NamedTuple):
    """The H heads of a layer, rebuilt.

    attend(q, k, v, causal) gives the outputs [H, T, E] of all tokens of a text, keys(k) and
    queries(q) the ln of the rates of the hidden neurons [H, T, m], those of keys with their
    presynaptic gain.
    """

    attend: Callable[[Tensor, Tensor, Tensor, bool], Tensor]
    keys: Callable[[Tensor], Tensor]
    queries: Callable[[Tensor], Tensor]


def fit_layer(inputs: Sequence[Reading], recipe: str, causal: bool) -> Fit:
    """Fit a recipe to each head of a layer, on q and k [H, T, D] of some inputs.

    A head to which no balance can be fitted, because its queries or keys do not differ, is centred
    alone.
    """
    symmetries, feature_map = RECIPES[recipe]
    found = []
    for head in range(len(inputs[0][0])):
        seen = [(q[head].double(), k[head].double()) for q, k in inputs]
        try:
            found.append(fitted(seen, symmetries, feature_map, causal))
        except ValueError:
            found.append(fitted(seen, CENTER, feature_map, causal))
    of_heads, a = zip(*found)
    return Fit(Symmetry(*(torch.stack(x) for x in zip(*of_heads))), torch.stack(a), feature_map)


def some_heads(fit: Fit, heads: Sequence[int]) -> Fit:
    """The fit of some heads of a layer."""
    chosen = list(heads)
    return Fit(Symmetry(*(x[chosen] for x in fit.symmetry)), fit.a[chosen], fit.feature_map)


def random_layer(fit: Fit, random: Random, m: int, dtype: torch.dtype) -> Rebuilt:
    """Heads of m random hidden neurons; the first neurons of a head do not depend on m.

    random: the generators "omega" and "phase" of each head of the fit. The network is
    computed in dtype, its hidden weights are drawn in float64.
    """
    drawn = []
    for head, a in enumerate(fit.a):
        streams = random(head, "omega"), random(head, "phase")
        parts = list(draw_neurons(fit.feature_map, *streams, m, fit.a.shape[-1], a))
        drawn.append([torch.cat(tensors) for tensors in zip(*parts)])
    omega, bias = (torch.stack(tensors) for tensors in zip(*drawn))  # [H, m, D], [H, m]
    weights = omega.to(dtype)
    symmetry = Symmetry(*(x.to(dtype) for x in fit.symmetry))

    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        q, k, log_gain, _ = transform(q, k, symmetry)
        tokens = Tokens(q, k, v, log_gain.double())
        return read([tokens], [(weights, bias)], [(0, m)], causal=causal)[0][0][2]

    def rates(x: Tensor) -> Tensor:
        drive = x @ weights.mT + bias.to(dtype)[..., None, :]
        return exponential(drive, x.square().sum(-1, keepdim=True), m, torch.inf)[0]

    def keys(k: Tensor) -> Tensor:
        _, seen, log_gain, _ = transform(k, k, symmetry)
        return rates(seen) + log_gain[..., None]

    def queries(q: Tensor) -> Tensor:
        return rates(transform(q, q, symmetry)[0])

    return Rebuilt(attend, keys, queries)


def learned_layer(query_weights: Tensor, key_weights: Tensor) -> Rebuilt:
    """Heads of trained hidden neurons, of weights [H, F, D]: m = 2F rates (learning.py)."""

    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        read = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device)
        read = read.tril() if causal else read
        log_weights = feature_attention(queries(q), keys(k), read.expand(*q.shape[:-1], -1))
        return torch.exp(log_weights) @ v

    def keys(k: Tensor) -> Tensor:
        return log_features(key_weights.to(k.dtype), k)

    def queries(q: Tensor) -> Tensor:
        return log_features(query_weights.to(q.dtype), q)

    return Rebuilt(attend, keys, queries)


def equal_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Equal attention to all keys that a query reads: the weakest baseline that uses a context."""
    if not causal:
        return v.mean(-2, keepdim=True).expand_as(v)
    n = torch.arange(1, v.shape[-2] + 1, dtype=v.dtype, device=v.device)
    return v.cumsum(-2) / n[:, None]


def no_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """No attention at all: every token is read by itself."""
    return torch.zeros_like(v)


def in_places(
    exact: Attention, attend: Attention, heads: Sequence[int] | None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The attention of a layer, some of whose heads are rebuilt: `attend` is given these alone.

    heads: their numbers; None for all. The others keep the exact attention.
    """

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if heads is None:
            return attend(q, k, v)
        output = exact(q, k, v)
        if len(heads):
            chosen = list(heads)
            output[..., chosen, :, :] = attend(*(x[..., chosen, :, :] for x in (q, k, v)))
        return output

    return attention


def log10_needed(q: Tensor, k: Tensor, fit: Fit, causal: bool) -> Tensor:
    """log10 of the neurons that each query of each head needs [H, T], of q and k [H, T, D].

    Needed for an rms error of the normaliser of 10 %, by the closed form (theory.py).
    """
    q, k, log_gain, _ = transform(q.double(), k.double(), fit.symmetry)
    present = torch.ones(k.shape[-2], dtype=torch.bool)
    log_weight = log_key_weight(present, causal) + log_gain[..., None, :]  # [H, T or 1, T]
    log_normalizer = torch.logsumexp(q @ k.mT + log_weight, -1)
    log_r = theory.log_second_moment(q, k, log_normalizer, log_weight, fit.a)
    return theory.log10_features_needed(theory.log_variance(log_r))


class Synapses:
    """H and g of the H heads of a layer: a state of fixed size, written and read token by token.

    They are kept relative to a scale of each neuron, so that no rate overflows at any norm.
    """

    def __init__(self, n_heads: int, m: int, d_value: int, dtype: torch.dtype):
        self.log_scale = torch.full((n_heads, m), -torch.inf, dtype=dtype)
        self.sums = torch.zeros(n_heads, m, d_value + 1, dtype=dtype)  # H, and g last

    def write(self, log_rate: Tensor, v: Tensor) -> None:
        """Add a token: ln of the rates for its key [H, m], and its value v [H, E]."""
        rises = log_rate > self.log_scale
        if rises.any():
            fresh = torch.where(rises, torch.exp(self.log_scale - log_rate), 1).nan_to_num(0)
            places = rises.nonzero(as_tuple=True)
            self.sums[places] *= fresh[places][:, None]
            self.log_scale = torch.maximum(self.log_scale, log_rate)
        rate = torch.exp(log_rate - self.log_scale).nan_to_num(0)  # NaN where it never fired
        one = torch.cat([v, torch.ones_like(v[:, :1])], -1)
        self.sums.addcmul_(rate[..., None], one[:, None, :])

    def read(self, log_rate: Tensor) -> Tensor:
        """The outputs [H, E] for the ln of the rates for a query [H, m]; 0 without a token."""
        log_rate = log_rate + self.log_scale
        peak = log_rate.amax(-1, keepdim=True)
        rate = torch.exp(log_rate - peak.masked_fill(peak == -torch.inf, 0))
        read = (rate[:, None, :] @ self.sums)[:, 0]  # [H, E + 1]
        divisor = read[:, -1:]
        return read[:, :-1] / divisor.masked_fill(divisor == 0, torch.inf)
