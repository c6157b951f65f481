"""Softmax attention, exactly: what the neuron-astrocyte network is measured against."""

import torch
from torch import Tensor


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln Z_t = ln sum_j exp(q_t . k_j) and the output o_t = sum_j exp(q_t . k_j) v_j / Z_t.

    Vaswani et al. (2017), eq. 1, with the temperature already in q and k (each d_head^-1/4).

    q, k [..., T, D], v [..., T, E], mask [..., T] true where a token is present; returns
    log_normalizer [..., T] and output [..., T, E]. Masked keys get no weight; what is returned for
    masked queries has no meaning. Every sequence needs a token, or its rows are NaN.
    """
    logits = (q @ k.mT).masked_fill(~mask[..., None, :], -torch.inf)  # [..., T, T]
    log_normalizer = torch.logsumexp(logits, dim=-1)  # [..., T]
    weights = torch.exp(logits - log_normalizer[..., None])
    return log_normalizer, weights @ v
