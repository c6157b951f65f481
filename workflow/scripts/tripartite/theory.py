"""Closed forms for finite networks: how far the astrocyte's response is from the normaliser.

For positive random features the estimate Z^ of the normaliser Z = sum_j exp(q . k_j) from m neurons
is unbiased, with relative variance (R - 1) / m exactly, where

    R(q) = exp(|q|^2) sum_jl exp(2 q.k_j + 2 q.k_l + k_j.k_l) / Z(q)^2

is the relative second moment of a single neuron's contribution (from E exp(omega . a) =
exp(|a|^2 / 2) applied to Choromanski et al., ICLR 2021, Lemma 2, summed over pairs of keys).
"""

import math

import torch
from torch import Tensor

LOG_R_MIN = 1e-15  # keeps the log finite where the estimate has no variance and R = 1


def log_second_moment(q: Tensor, k: Tensor, log_normalizer: Tensor, mask: Tensor) -> Tensor:
    """Return ln R(q_t) [..., T] for q, k [..., T, D], log_normalizer [..., T] and mask [..., T].

    No exponential overflows at any norm: with D_jl = -|k_j - k_l|^2 / 2 the double sum is
    sum_jl w_j exp(D_jl) w_l with w_j = exp(2 q.k_j + |k_j|^2 / 2), scaled so that max_j w_j = 1, and
    the sum lies between 1 and T^2.
    """
    square = k.square().sum(-1)  # [..., T]
    distance = (square[..., :, None] + square[..., None, :]) / 2 - k @ k.mT  # [..., T, T]
    kernel = torch.exp(-distance.clamp_min(0))
    log_w = 2 * q @ k.mT + square[..., None, :] / 2  # [..., T (query), T (key)]
    log_w = log_w.masked_fill(~mask[..., None, :], -torch.inf)
    peak = log_w.amax(-1, keepdim=True)
    w = torch.exp(log_w - peak)
    pairs = ((w @ kernel) * w).sum(-1)  # [..., T]
    log_r = q.square().sum(-1) + 2 * peak.squeeze(-1) + pairs.log() - 2 * log_normalizer
    return log_r.clamp_min(LOG_R_MIN)


def log_variance(log_r: Tensor) -> Tensor:
    """ln(R - 1), the log of the relative variance at m = 1, from ln R of any size."""
    return log_r + torch.log(-torch.expm1(-log_r))


def log10_features_needed(log_r: Tensor) -> Tensor:
    """log10 of the hidden neurons m at which the relative rms error sqrt((R - 1) / m) is 10 %."""
    return log_variance(log_r) / math.log(10) + 2


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
