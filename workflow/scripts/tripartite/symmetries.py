"""Exact symmetries of softmax attention, which change what the hidden neurons see.

Attention stays as it is under three changes of queries and keys, while the variance of its estimate
by random features, about exp|q + k|^2 per neuron, does not:

    shift the keys     k -> k - mu            logits lose q.mu, which is returned to the normaliser
    shift the queries  q -> q - c             key j gets the presynaptic gain exp(c . (k_j - mu))
    balance            q -> A q, k -> A^-T k  A symmetric, A^2 the geometric mean of C_q^-1 and C_k

with C_q and C_k the second moments of queries and keys. The balance minimises
E|A q|^2 + E|A^-1 k|^2; mu and c are means. All are calibrated on some inputs, and leave the
attention of every input exact.

The distribution of the hidden weights can be fitted as well (`fitted`): it is normal with the
parameter a of generalized positive features, one for all directions (Likhosherstov et al., NeurIPS
2022), or one for each principal direction of q + k, into which A then rotates (the symmetric
dense-exponential features of Likhosherstov et al., 2023).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tripartite.attention import key_share, uniform_attention
from tripartite.features import optimal_a

# ASSUME: moments of a few hundred tokens are rounded towards the sphere by this share of the mean.
RIDGE = 1e-3


class Symmetry(NamedTuple):
    """key_shift mu and query_shift c [..., D]; balance A [..., D, D], any invertible matrix."""

    key_shift: Tensor
    query_shift: Tensor
    balance: Tensor


def calibrate(q: Tensor, k: Tensor, names: list[str], share: Tensor | None = None) -> Symmetry:
    """The symmetries of these names (center_keys, center_queries, balance), from q, k [..., T, D].

    share [T] weighs the keys in their mean and second moment; equal if left out. What is not named
    is left out: shifts of 0, a balance of 1. ValueError where a balance is asked of queries or keys
    that are all zero (once centred).
    """
    key_shift, query_shift = torch.zeros_like(k[..., 0, :]), torch.zeros_like(q[..., 0, :])
    balance = torch.eye(q.shape[-1], dtype=q.dtype).expand(*q.shape[:-2], -1, -1)
    if "center_keys" in names:
        key_shift = k.mean(-2) if share is None else share @ k
    if "center_queries" in names:
        query_shift = q.mean(-2)
    if "balance" in names:
        c_q = _second_moment(q - query_shift[..., None, :])
        c_k = _second_moment(k - key_shift[..., None, :], share)
        root = _power(c_q, 0.5)
        mean = _power(c_q, -0.5) @ _power(root @ c_k @ root, 0.5) @ _power(c_q, -0.5)
        balance = _power(mean, 0.5)
    return Symmetry(key_shift, query_shift, balance)


def fitted(
    inputs: list[tuple[Tensor, Tensor]],
    names: list[str],
    feature_map: str = "performer",
    causal: bool = False,
) -> tuple[Symmetry, Tensor]:
    """What is fitted to some inputs, each q and k [T, D] of one head: symmetries, and a [D].

    Means are over the pairs of a query and a key that it may read, equal for each query; that to
    which a is fitted is equal for each input. a is 0 but
    for generalized_positive, where it is the best for the mean |q + k|^2, and for fitted_normal,
    where it is the best for each principal direction of q + k. ValueError as for calibrate.
    """
    all_q, all_k = (torch.cat(parts) for parts in zip(*inputs))
    share = None
    if causal:
        shares = [key_share(len(k), causal) * len(k) / len(all_k) for _, k in inputs]
        share = torch.cat(shares).to(all_k.dtype)
    symmetry = calibrate(all_q, all_k, names, share)
    d = inputs[0][0].shape[-1]
    a = torch.zeros(d, dtype=torch.float64)
    if feature_map not in ("generalized_positive", "fitted_normal"):
        return symmetry, a
    seen = [transform(q, k, symmetry)[:2] for q, k in inputs]
    moment = torch.stack([_sum_moment(q, k, causal) for q, k in seen]).mean(0)
    if feature_map == "generalized_positive":
        return symmetry, a + optimal_a(float(moment.trace()), d)
    squares, directions = torch.linalg.eigh(moment)
    a = torch.tensor([optimal_a(float(x), 1) for x in squares.clamp_min(0)], dtype=torch.float64)
    return symmetry._replace(balance=directions.mT @ symmetry.balance), a


def for_map(
    inputs: list[tuple[Tensor, Tensor]],
    names: list[str],
    feature_map: str,
    a: float | None = None,
    causal: bool = False,
) -> tuple[Symmetry, Tensor]:
    """Symmetries and a [D] for a feature map: as `fitted`, but an a that is given is not fitted."""
    symmetry, best = fitted(inputs, names, "performer" if a is not None else feature_map, causal)
    return symmetry, best if a is None else torch.full_like(best, a)


def transform(q: Tensor, k: Tensor, symmetry: Symmetry) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the network sees of q, k [..., T, D], and how to come back.

    Returns q and k [..., T, D], the ln of the presynaptic gain of each key [..., T], and what is to
    be added to the ln of the normaliser of each query [..., T].
    """
    key_shift, query_shift = symmetry.key_shift[..., None, :], symmetry.query_shift[..., None, :]
    centered = k - key_shift
    log_gain = (centered * query_shift).sum(-1)
    log_shift = (q * key_shift).sum(-1)
    seen_k = torch.linalg.solve(symmetry.balance.mT, centered.mT).mT
    return (q - query_shift) @ symmetry.balance.mT, seen_k, log_gain, log_shift


def _sum_moment(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """Mean of (q + k)(q + k)^T over the pairs of q and k [T, D] that are read -> [D, D]."""
    share = key_share(len(k), causal)[:, None]
    crossed = q.mT @ uniform_attention(k, causal) / len(q)
    return q.mT @ q / len(q) + k.mT @ (share * k) + crossed + crossed.mT


def _second_moment(x: Tensor, share: Tensor | None = None) -> Tensor:
    moment = x.mT @ x / x.shape[-2] if share is None else x.mT @ (share[:, None] * x)  # [..., D, D]
    mean = moment.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    if not (mean > 0).all():
        raise ValueError(
            "all queries or keys are zero (once centred, if they are), no balance can be fitted"
        )
    return moment + RIDGE * mean * torch.eye(x.shape[-1], dtype=x.dtype)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of symmetric positive definite matrices [..., D, D]."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values[..., None, :] ** exponent) @ vectors.mT
