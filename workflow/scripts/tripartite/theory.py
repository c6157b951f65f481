"""Errors of finite networks in closed form: of the astrocyte's calcium, and of the output.

For positive random features the estimate Z^ of the normaliser Z = sum_j exp(q . k_j) from m neurons
is unbiased, with the exact relative variance (R - 1) / m, where

    R(q) = exp(|q|^2) sum_jl exp(2 q.k_j + 2 q.k_l + k_j.k_l) / Z(q)^2

is the relative second moment of a single neuron's contribution (from E exp(omega . a) =
exp(|a|^2 / 2) applied to Choromanski et al., ICLR 2021, Lemma 2, summed over pairs of keys).
Weighted keys, generalized positive features and mirrored neurons have closed forms of the same
kind.

These sums over pairs of keys take T^3 operations for T queries (a third of them in causal order),
as products of matrices that do not depend on the width of queries and values. Blocks of queries
bound the memory to a few matrices [T, T].
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_VALUES = 1 << 21  # queries x keys at a time
LOG_LOST = -600.0  # sums below exp of this may have lost terms to the range of float64
LOG_R_MIN = 1e-15  # keeps ln(R - 1) finite where the estimate has no variance and R = 1


class PairsOfKeys(NamedTuple):
    """Second moments C_jl of one neuron's contributions to pairs of keys, for some queries t.

    C_jl / Z^2 = exp(log_scale_t) w_tj w_tl kernel_jl, with w and kernel at most 1, for the first S
    keys; these queries read no other.
    """

    rows: slice  # the queries
    log_scale: Tensor  # [..., rows]
    w: Tensor  # [..., rows, S]
    kernel: Tensor  # [..., T, T]


def pairs_of_keys(
    q: Tensor, k: Tensor, log_normalizer: Tensor, log_weight: Tensor, a: Tensor | float = 0.0
) -> Iterator[PairsOfKeys]:
    """Second moments of a block of queries at a time. Arguments as for log_second_moment."""
    a = torch.as_tensor(a, dtype=q.dtype, device=q.device)
    a = a.expand(*a.shape[:-1], q.shape[-1])
    c = ((1 - 4 * a) / (1 - 8 * a))[..., None, :]  # [..., 1, D]
    kernel = _kernel(c.sqrt() * k)
    length = ((c - 0.5) * k.square()).sum(-1)  # [..., T]
    growth = torch.log((1 - 4 * a) ** 2 / (1 - 8 * a)).sum(-1)[..., None] / 2
    for rows in _blocks(q.shape[-2], k.shape[-2]):
        query, weight = q[..., rows, :], log_weight
        if log_weight.shape[-2] > 1:
            weight = log_weight[..., rows, :]
            read = (weight > -torch.inf).flatten(0, -2).any(0).nonzero()
            weight = weight[..., : int(read.max()) + 1]
        n = weight.shape[-1]
        log_w = 2 * (c * query) @ k[..., :n, :].mT + length[..., None, :n] + weight
        peak = log_w.amax(-1, keepdim=True)
        log_scale = growth + ((2 * c - 1) * query.square()).sum(-1)
        log_scale = log_scale + 2 * (peak.squeeze(-1) - log_normalizer[..., rows])
        yield PairsOfKeys(rows, log_scale, torch.exp(log_w - peak), kernel)


def _blocks(n_queries: int, n_keys: int) -> list[slice]:
    size = max(1, BLOCK_VALUES // n_keys)
    return [slice(i, i + size) for i in range(0, n_queries, size)]


def _kernel(x: Tensor, sign: float = -1.0) -> Tensor:
    """exp(-|x_j + sign x_l|^2 / 2) of all pairs of x [..., T, D], in one matrix [..., T, T]."""
    square = x.square().sum(-1) / 2  # [..., T]
    kernel = (x @ x.mT).mul_(-sign)
    kernel.sub_(square[..., :, None]).sub_(square[..., None, :])
    return kernel.clamp_max_(0).exp_()


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
    parts = []
    for _, log_scale, w, kernel in pairs_of_keys(q, k, log_normalizer, log_weight, a):
        n = w.shape[-1]
        parts.append(log_scale + ((w @ kernel[..., :n, :n]) * w).sum(-1).log())
    return torch.cat(parts, -1).clamp_min(LOG_R_MIN)


def output_moments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    output: Tensor,
    log_normalizer: Tensor,
    log_weight: Tensor,
    a: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Variance and bias of the output for one neuron, and the variance with separate pools.

    With C as in pairs_of_keys and the exact output o [T, E], for m neurons and to first order in
    1 / m (the delta method for a ratio of sums),

        m Cov(O^) = (V - o)^T C (V - o) / Z^2,     m (E O^ - o) = -(V - o)^T C 1 / Z^2,

    and, if the astrocyte pooled other neurons than those whose synapses it scales,

        m Cov(O^) = V^T C V / Z^2 - o o^T + o o^T (R - 1).

    q, k [T, D], v [T, E]. Returns log_scale [T], and, to be multiplied by exp(log_scale), the trace
    of the covariance [T], the bias [T, E] and the trace [T] of the last covariance.

    The trace is a quadratic form of C and the products v_j . v_l. For each query, the value c of
    the key that weighs most is subtracted from values and output; that key then adds nothing, and
    no digits are lost where a query attends to it alone.
    """
    centre = v.mean(0)
    v, centred = v - centre, output - centre
    gram, parts = None, []
    for rows, log_scale, w, kernel in pairs_of_keys(q, k, log_normalizer, log_weight, a):
        gram = kernel * (v @ v.mT) if gram is None else gram
        n = w.shape[-1]
        top_w, top = w.max(-1)
        c = v[top]  # [rows, E]
        rest = w.scatter(-1, top[:, None], 0)  # [rows, S]
        of_rest = rest @ kernel[:n, :n]
        drawn = of_rest + top_w[:, None] * kernel[top, :n]
        pairs = rest * of_rest  # of which neither is the key that weighs most
        square = ((rest @ gram[:n, :n]) * rest).sum(-1) - 2 * (c * (pairs @ v[:n])).sum(-1)
        square += c.square().sum(-1) * pairs.sum(-1)
        first = rest * drawn
        moment = first @ v[:n] - c * first.sum(-1, keepdim=True)  # [rows, E]
        total = (w * drawn).sum(-1)
        error = centred[rows] - c
        trace = square - 2 * (error * moment).sum(-1) + error.square().sum(-1) * total
        bias = error * total[:, None] - moment
        excess = total - torch.exp(-log_scale)  # R - 1
        o = output[rows]
        separate = trace - 2 * (o * bias).sum(-1) + 2 * o.square().sum(-1) * excess
        parts.append((log_scale, trace, bias, separate))
    log_scale, trace, bias, separate = (torch.cat(x) for x in zip(*parts))
    return log_scale, trace, bias, separate


def log_mirror_moment(q: Tensor, k: Tensor, log_normalizer: Tensor, log_weight: Tensor) -> Tensor:
    """ln R' [..., T], the relative mean product of the contributions of a neuron and its mirror.

    R' = exp(-|q|^2) sum_jl w_j w_l exp(-k_j.k_l) / Z^2, from
    E exp(omega.(q + k_j) - omega.(q + k_l)). With m / 2 mirrored pairs the relative variance is
    (R + R' - 2) / m. The sum is a product of matrices by 2 k_j.k_l = |k_j + k_l|^2 - |k_j|^2
    - |k_l|^2; queries whose sum leaves the range of the numbers so take T^2 exponentials each.
    """
    length = k.square().sum(-1) / 2
    kernel = _kernel(k, 1.0)
    found = []
    for rows in _blocks(log_weight.shape[-2], k.shape[-2]):
        log_w = log_weight[..., rows, :] + length[..., None, :]
        peak = log_w.amax(-1, keepdim=True)
        w = torch.exp(log_w - peak)
        log_sum = ((w @ kernel) * w).sum(-1).log()
        for place in (log_sum < LOG_LOST).nonzero():  # T^2 exponentials for each such query
            *batch, t = place.tolist()
            keys = k[(*batch,)]
            x = (log_w - peak)[(*batch, t)] - length[(*batch,)]
            pairs = x[:, None] + x - keys @ keys.mT
            log_sum[(*batch, t)] = torch.logsumexp(pairs.flatten(), 0)
        found.append(log_sum + 2 * peak.squeeze(-1))
    return torch.cat(found, -1) - q.square().sum(-1) - 2 * log_normalizer


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
