"""Errors of finite networks in closed form: of the astrocyte's calcium, and of the output.

For positive random features the estimate Z^ of the normaliser Z = sum_j exp(q . k_j) from m neurons
is unbiased, with the exact relative variance (R - 1) / m, where

    R(q) = exp(|q|^2) sum_jl exp(2 q.k_j + 2 q.k_l + k_j.k_l) / Z(q)^2

is the relative second moment of a single neuron's contribution (from E exp(omega . a) =
exp(|a|^2 / 2) applied to Choromanski et al., ICLR 2021, Lemma 2, summed over pairs of keys).
Weighted keys, generalized positive features and mirrored neurons have closed forms of the same
kind.
"""

import math

import torch
from torch import Tensor

BLOCK_VALUES = 1 << 23  # queries x keys x d_head at a time
LOG_R_MIN = 1e-15  # keeps ln(R - 1) finite where the estimate has no variance and R = 1


def pairs_of_keys(
    q: Tensor, k: Tensor, log_normalizer: Tensor, log_weight: Tensor, a: Tensor | float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Second moments C_jl of one neuron's contributions to each pair of keys, for every query t.

    C_jl / Z^2 = exp(log_scale_t) w_tj w_tl kernel_jl. Returns log_scale [..., T], w [..., T, T] and
    kernel [..., T, T], both at most 1. Arguments as for log_second_moment.
    """
    a = torch.as_tensor(a, dtype=q.dtype, device=q.device)
    a = a.expand(*a.shape[:-1], q.shape[-1])
    c = ((1 - 4 * a) / (1 - 8 * a))[..., None, :]  # [..., 1, D]
    seen = c.sqrt() * k
    square = seen.square().sum(-1)  # [..., T]
    distance = (square[..., :, None] + square[..., None, :]) / 2 - seen @ seen.mT  # [..., T, T]
    kernel = torch.exp(-distance.clamp_min(0))
    length = ((c - 0.5) * k.square()).sum(-1)  # [..., T]
    log_w = 2 * (c * q) @ k.mT + length[..., None, :] + log_weight  # by query and key
    peak = log_w.amax(-1, keepdim=True)
    growth = torch.log((1 - 4 * a) ** 2 / (1 - 8 * a)).sum(-1)[..., None] / 2
    log_scale = (
        growth + ((2 * c - 1) * q.square()).sum(-1) + 2 * (peak.squeeze(-1) - log_normalizer)
    )
    return log_scale, torch.exp(log_w - peak), kernel


def log_second_moment(
    q: Tensor, k: Tensor, log_normalizer: Tensor, log_weight: Tensor, a: Tensor | float = 0.0
) -> Tensor:
    """ln R(q_t) [..., T] of positive random features, for q, k [..., T, D].

    log_normalizer [..., T] is ln sum_j w_j exp(q.k_j); log_weight [..., T or 1, T] is ln w_j, for
    each query or for all. a [..., D], below 1/8, is the parameter of generalized positive features
    in each direction, or one number for all; 0 for plain positive features. With
    c = (1 - 4a) / (1 - 8a), from E exp(4a omega^2 + b omega) = (1 - 8a)^(-1/2) exp(b^2 / (2 - 16a))
    in each direction,

        R = prod_i ((1 - 4a_i)^2 / (1 - 8a_i))^(1/2) exp(sum_i (2c_i - 1) q_i^2) sum_jl w_j w_l
            exp(sum_i (2c_i - 1)(k_ji^2 + k_li^2) / 2 + 2c_i q_i (k_ji + k_li)
            - c_i (k_ji - k_li)^2 / 2) / Z^2.

    No exponential overflows at any norm: relative to its largest factors, the sum is between 1 and
    T^2.
    """
    log_scale, w, kernel = pairs_of_keys(q, k, log_normalizer, log_weight, a)
    return (log_scale + ((w @ kernel) * w).sum(-1).log()).clamp_min(LOG_R_MIN)


def output_moments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    output: Tensor,
    log_normalizer: Tensor,
    log_weight: Tensor,
    a: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Covariance and bias of the output for one neuron, and the trace with separate pools.

    With C as in pairs_of_keys and the exact output o [T, E], for m neurons and to first order in
    1 / m (the delta method for a ratio of sums),

        m Cov(O^) = (V - o)^T C (V - o) / Z^2,     m (E O^ - o) = -(V - o)^T C 1 / Z^2,

    and, if the astrocyte pooled other neurons than those whose synapses it scales,

        m Cov(O^) = V^T C V / Z^2 - o o^T + o o^T (R - 1).

    q, k [T, D], v [T, E]. Returns log_scale [T], and, to be multiplied by exp(log_scale), the
    covariance [T, E, E], the bias [T, E] and the trace [T] of the last covariance.
    """
    log_scale, w, kernel = pairs_of_keys(q, k, log_normalizer, log_weight, a)
    drawn = w @ kernel  # [T, T]
    covariances, biases = [], []
    for rows in torch.arange(len(q)).split(max(1, BLOCK_VALUES // v.numel())):  # bounds the memory
        spread = w[rows, :, None] * (v - output[rows, None])  # [rows, T, E]
        covariances.append(spread.mT @ (kernel @ spread))
        biases.append(-(drawn[rows, None] @ spread)[:, 0])
    covariance, bias = torch.cat(covariances), torch.cat(biases)
    excess = (drawn * w).sum(-1) - torch.exp(-log_scale)  # R - 1
    separate = covariance.diagonal(dim1=-2, dim2=-1).sum(-1) - 2 * (output * bias).sum(-1)
    return log_scale, covariance, bias, separate + 2 * output.square().sum(-1) * excess


def log_mirror_moment(q: Tensor, k: Tensor, log_normalizer: Tensor, log_weight: Tensor) -> Tensor:
    """ln R' [..., T], the relative mean product of the contributions of a neuron and its mirror.

    R' = exp(-|q|^2) sum_jl w_j w_l exp(-k_j.k_l) / Z^2, from
    E exp(omega.(q + k_j) - omega.(q + k_l)). With m / 2 mirrored pairs the relative variance is
    (R + R' - 2) / m.
    """
    products = k @ k.mT  # [..., T, T]
    pairs = [
        torch.logsumexp((w[..., :, None] + w[..., None, :] - products).flatten(-2), -1)
        for w in log_weight.unbind(-2)
    ]
    return torch.stack(pairs, -1) - q.square().sum(-1) - 2 * log_normalizer


def log_variance(log_r: Tensor) -> Tensor:
    """ln(R - 1), the ln of the relative variance for m = 1, from ln R of any size."""
    return log_r + torch.log(-torch.expm1(-log_r))


def log_mirrored_variance(log_variance: Tensor, log_mirror: Tensor) -> Tensor:
    """ln(R + R' - 2), the ln of the variance with mirrored neurons, from ln(R - 1) and ln R'."""
    return log_variance + torch.log1p(
        (torch.exp(log_mirror - log_variance) - torch.exp(-log_variance)).clamp_min(-1)
    )


def log10_features_needed(log_variance: Tensor) -> Tensor:
    """log10 of the number m of hidden neurons with relative rms error sqrt((R - 1) / m) of 10 %."""
    return log_variance / math.log(10) + 2


def log_median_error(log_sd: Tensor) -> Tensor:
    """ln of the median of |error| [...] over normal errors with the given ln sd [..., n].

    Solves mean_i erf(x / (sd_i sqrt 2)) = 1/2 for ln x by bisection. The median error of the
    normaliser follows it when every estimate is nearly normal.
    """
    low, high = log_sd.amin(-1) - 1, log_sd.amax(-1)  # the median of one error is .674 sd
    for _ in range(60):
        middle = (low + high) / 2
        share = torch.erf(torch.exp((middle[..., None] - log_sd).clamp_max(50)) / 2**0.5).mean(-1)
        low, high = torch.where(share < 0.5, middle, low), torch.where(share < 0.5, high, middle)
    return (low + high) / 2
