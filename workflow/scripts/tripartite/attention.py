"""Exact softmax attention, the reference of the neuron-astrocyte network."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray | Tensor


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    causal: bool = False,
    leak: tuple[float, float] = (0.0, 0.0),
) -> tuple[Tensor, Tensor]:
    """Return ln Z_t = ln sum_j exp(q_t . k_j) and the output o_t = sum_j exp(q_t . k_j) v_j / Z_t.

    Vaswani et al. (2017), eq. 1, with the temperature already in q and k (each d_head^-1/4). A leak
    multiplies the term of a key of age n by exp(-leak[0] n) in the numerator and exp(-leak[1] n) in
    Z: the retention of a leaky network (RetNet's decay where both are equal; Sun et al. 2023).

    q, k [..., T, D], v [..., T, E], mask [..., T] true where a token is present; returns
    log_normalizer [..., T] and output [..., T, E]. Masked keys get no weight; rows of masked
    queries have no meaning. The rows of a sequence without any token are NaN.
    """
    logits = q @ k.mT  # [..., T, T]
    log_terms = log_numerator = logits + log_key_weight(mask, causal, leak[1])
    if leak[0] != leak[1]:
        log_numerator = logits + log_key_weight(mask, causal, leak[0])
    log_normalizer = torch.logsumexp(log_terms, dim=-1)  # [..., T]
    return log_normalizer, torch.exp(log_numerator - log_normalizer[..., None]) @ v


def log_key_weight(mask: Tensor, causal: bool = False, leak: float = 0.0) -> Tensor:
    """ln weight of each key for each query [..., T or 1, T] in float64, -inf where it is not read.

    mask [..., T]; leak in 1 per token. The age of a key is the number of tokens written after it:
    all later ones, or, with causal, those up to the query.
    """
    position = mask.double().cumsum(-1)
    now = position[..., :, None] if causal else position[..., -1:, None]  # [..., T or 1, 1]
    age = now - position[..., None, :]  # [..., T or 1, T]
    return (-leak * age).masked_fill(~mask[..., None, :] | (age < 0), -torch.inf)


def key_share(n_tokens: int, causal: bool) -> Tensor:
    """Mean weight of each key [T] if every query attended equally to all keys that it may read."""
    if not causal:
        return torch.full((n_tokens,), 1 / n_tokens, dtype=torch.float64)
    of_queries = 1 / torch.arange(1, n_tokens + 1, dtype=torch.float64)
    return of_queries.flip(0).cumsum(0).flip(0) / n_tokens


def uniform_attention(v: Tensor, causal: bool = False) -> Tensor:
    """Output [T, E] of equal attention to all values v [T, E] that a query may read.

    What is left of attention without queries and keys; with the network, the weakest baseline.
    """
    if not causal:
        return v.mean(0, keepdim=True).expand_as(v)
    return v.cumsum(0) / torch.arange(1, len(v) + 1, dtype=v.dtype)[:, None]


def relative_error(output: Array, exact: Array) -> Array:
    """|O^ - O| / |O| (Frobenius norm) of outputs [T, E], tensors or arrays; NaN where O is 0."""
    norm: Callable = np.linalg.norm if isinstance(exact, np.ndarray) else Tensor.norm
    size = norm(exact)
    return norm(output - exact) / size if size else size + math.nan
