"""Closed forms for finite networks: how far the astrocyte's response is from the normaliser.

For positive random features the estimate Z^ of the normaliser Z = sum_j exp(q . k_j) from m neurons
is unbiased, with relative variance (R - 1) / m exactly, where

    R(q) = exp(|q|^2) sum_jl exp(2 q.k_j + 2 q.k_l + k_j.k_l) / Z(q)^2

is the relative second moment of a single neuron's contribution (from E exp(omega . a) =
exp(|a|^2 / 2) applied to Choromanski et al., ICLR 2021, Lemma 2, summed over pairs of keys). Weighted
keys, generalized positive features and mirrored neurons have closed forms of the same kind.
"""

import math

import torch
from torch import Tensor

LOG_R_MIN = 1e-15  # keeps the log finite where the estimate has no variance and R = 1


def log_second_moment(
    q: Tensor, k: Tensor, log_normalizer: Tensor, log_weight: Tensor, a: Tensor | float = 0.0
) -> Tensor:
    """Return ln R(q_t) [..., T] for q, k [..., T, D], of neurons of positive random features.

    log_normalizer [..., T] is ln sum_j w_j exp(q.k_j) and log_weight [..., T or 1, T] is ln w_j, for each
    query or for all. a [...] < 1/8 is the parameter of generalized positive features, 0 for plain ones:
    with c = (1 - 4a) / (1 - 8a), from E exp(4a|omega|^2 + b.omega) = (1 - 8a)^(-D/2) exp(|b|^2 / (2 - 16a)),

        R = ((1 - 4a)^2 / (1 - 8a))^(D/2) exp((2c - 1)|q|^2)
            sum_jl w_j w_l exp((2c - 1)(|k_j|^2 + |k_l|^2) / 2 + 2c q.(k_j + k_l) - c|k_j - k_l|^2 / 2) / Z^2.

    No exponential overflows at any norm: the sum is scaled by its largest factors and lies between 1
    and T^2.
    """
    a = torch.as_tensor(a, dtype=q.dtype)
    c = ((1 - 4 * a) / (1 - 8 * a))[..., None, None]
    square = k.square().sum(-1)  # [..., T]
    distance = (square[..., :, None] + square[..., None, :]) / 2 - k @ k.mT  # [..., T, T]
    kernel = torch.exp(-c * distance.clamp_min(0))
    log_w = 2 * c * (q @ k.mT) + (c - 0.5) * square[..., None, :] + log_weight  # by query and key
    peak = log_w.amax(-1, keepdim=True)
    w = torch.exp(log_w - peak)
    pairs = ((w @ kernel) * w).sum(-1).log() + 2 * peak.squeeze(-1)  # [..., T]
    growth = q.shape[-1] / 2 * torch.log((1 - 4 * a) ** 2 / (1 - 8 * a))[..., None]
    log_r = growth + (2 * c[..., 0] - 1) * q.square().sum(-1) + pairs - 2 * log_normalizer
    return log_r.clamp_min(LOG_R_MIN)


def log_mirror_moment(q: Tensor, k: Tensor, log_normalizer: Tensor, log_weight: Tensor) -> Tensor:
    """ln of the relative mean product of a neuron's contribution and its mirror image's, [..., T].

    ln(exp(-|q|^2) sum_jl w_j w_l exp(-k_j.k_l) / Z^2), from E exp(omega.(q + k_j) - omega.(q + k_l)): with
    m / 2 mirrored pairs the relative variance is (R + this - 2) / m.
    """
    products = k @ k.mT  # [..., T, T]
    pairs = [
        torch.logsumexp((w[..., :, None] + w[..., None, :] - products).flatten(-2), -1)
        for w in log_weight.unbind(-2)
    ]
    return torch.stack(pairs, -1) - q.square().sum(-1) - 2 * log_normalizer


def log_variance(log_r: Tensor) -> Tensor:
    """ln(R - 1), the log of the relative variance at m = 1, from ln R of any size."""
    return log_r + torch.log(-torch.expm1(-log_r))


def log_mirrored_variance(log_variance: Tensor, log_mirror: Tensor) -> Tensor:
    """ln(R - 1 + R' - 1), the variance with mirrored neurons, from ln(R - 1) and ln R' of any size."""
    return log_variance + torch.log1p(
        (torch.exp(log_mirror - log_variance) - torch.exp(-log_variance)).clamp_min(-1)
    )


def log10_features_needed(log_variance: Tensor) -> Tensor:
    """log10 of the hidden neurons m at which the relative rms error sqrt((R - 1) / m) is 10 %."""
    return log_variance / math.log(10) + 2


def log_median_error(log_sd: Tensor) -> Tensor:
    """ln of the median of |error| over a pool of normal errors with the given ln sd [..., n] -> [...].

    Solves mean_i erf(x / (sd_i sqrt 2)) = 1/2 for ln x by bisection. It is what the median
    normaliser error follows once every estimate has its limiting normal distribution.
    """
    low, high = log_sd.amin(-1) - 1, log_sd.amax(-1)  # the median of one error is .674 sd
    for _ in range(60):
        middle = (low + high) / 2
        share = torch.erf(torch.exp((middle[..., None] - log_sd).clamp_max(50)) / 2**0.5).mean(-1)
        low, high = torch.where(share < 0.5, middle, low), torch.where(share < 0.5, high, middle)
    return (low + high) / 2
