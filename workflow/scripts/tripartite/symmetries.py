"""Exact symmetries of softmax attention, which change what the hidden neurons see.

Attention stays as it is under three changes of queries and keys, while the variance of its estimate by
random features, about exp|q + k|^2 per neuron, does not:

    shift the keys       k -> k - mu           logits lose q.mu, which is returned to the normaliser
    shift the queries    q -> q - c            key j gets the presynaptic gain exp(c . (k_j - mu))
    balance              q -> A q, k -> A^-1 k   A symmetric, A^2 the geometric mean of C_q^-1 and C_k

with C_q and C_k the second moments of queries and keys. The balance minimises E|A q|^2 + E|A^-1 k|^2;
mu and c are means. All are calibrated on some inputs, and leave the attention of every input exact.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# ASSUME: moments of a few hundred tokens are rounded towards the sphere by this share of their mean.
RIDGE = 1e-3


class Symmetry(NamedTuple):
    """key_shift mu and query_shift c [..., D], balance A [..., D, D]."""

    key_shift: Tensor
    query_shift: Tensor
    balance: Tensor


def calibrate(q: Tensor, k: Tensor, names: list[str]) -> Symmetry:
    """The symmetries of the given names (center_keys, center_queries, balance), from q, k [..., T, D].

    What is not named is left out: shifts of 0, a balance of 1. ValueError where a balance is asked of
    queries or keys that are all zero (once centred).
    """
    key_shift, query_shift = torch.zeros_like(k[..., 0, :]), torch.zeros_like(q[..., 0, :])
    balance = torch.eye(q.shape[-1], dtype=q.dtype).expand(*q.shape[:-2], -1, -1)
    if "center_keys" in names:
        key_shift = k.mean(-2)
    if "center_queries" in names:
        query_shift = q.mean(-2)
    if "balance" in names:
        c_q, c_k = (
            _second_moment(x - shift[..., None, :])
            for x, shift in ((q, query_shift), (k, key_shift))
        )
        root = _power(c_q, 0.5)
        mean = _power(c_q, -0.5) @ _power(root @ c_k @ root, 0.5) @ _power(c_q, -0.5)
        balance = _power(mean, 0.5)
    return Symmetry(key_shift, query_shift, balance)


def transform(q: Tensor, k: Tensor, symmetry: Symmetry) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the network sees of q, k [..., T, D], and how to come back.

    Returns q and k [..., T, D], the ln of the presynaptic gain of each key [..., T], and what is to be
    added to the ln of the normaliser of each query [..., T].
    """
    key_shift, query_shift = symmetry.key_shift[..., None, :], symmetry.query_shift[..., None, :]
    centered = k - key_shift
    log_gain = (centered * query_shift).sum(-1)
    log_shift = (q * key_shift).sum(-1)
    # A is symmetric, and so is A^-1: rows are multiplied from the right
    seen_k = torch.linalg.solve(symmetry.balance, centered.mT).mT
    return (q - query_shift) @ symmetry.balance, seen_k, log_gain, log_shift


def mean_square(q: Tensor, k: Tensor) -> Tensor:
    """Mean of |q + k|^2 over all pairs of q and k [..., T, D] -> [...]."""
    squares = q.square().sum(-1).mean(-1) + k.square().sum(-1).mean(-1)
    return squares + 2 * (q.mean(-2) * k.mean(-2)).sum(-1)


def _second_moment(x: Tensor) -> Tensor:
    moment = x.mT @ x / x.shape[-2]  # [..., D, D]
    mean = moment.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    if not (mean > 0).all():
        raise ValueError(
            "all queries or keys of the calibrating inputs are zero (once centred, if they are), "
            "no balance can be fitted"
        )
    return moment + RIDGE * mean * torch.eye(x.shape[-1], dtype=x.dtype)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of symmetric positive definite matrices [..., D, D]."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values[..., None, :] ** exponent) @ vectors.mT
