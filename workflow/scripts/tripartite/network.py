"""The neuron-astrocyte network of Kozachkov, Kastanenka & Krotov (PNAS 2023).

Tokens x_t arrive one by one. A hidden layer of m neurons fires at h; synapses H lead from it to the
last layer l; astrocyte processes ensheath these synapses. With the global control r = 0 (write
phase) or r = 1 (read phase), key k_t, query q_t and value v_t:

    (1)  f_t = x_t                                input layer
    (2)  h_t = phi((1 - r) k_t + r q_t)           hidden layer
    (3)  l_t = (1 - r) v_t + r [(H * P) h_t + x_t]   last layer, skip connection
    (4)  H  <- H + (1 - r) l_t h_t^T              Hebbian plasticity
    (5)  g  <- g + (1 - r) h_t                    presynaptic plasticity, neuron to astrocyte
    (6)  p_t = r g . h_t,  P_ij = 1 / p_t         calcium of the astrocyte process

Names: `hebbian` is H, `presynaptic` is g, `calcium` is p. ASSUME: both learning rates are 1 and
1/sqrt(m) stands in phi, as in the authors' released notebooks; a ratio of the rates is an overall
gain of the output.

`sequential` is the network as written above. `batched` is the same network for all inputs and
nested numbers of neurons at once, in log space: H_a = u_a g_a, and the output is a softmax over
hidden neurons, sum_a softmax_a(ln phi_a(q) + ln g_a) u_a, which no exponential can overflow.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FEATURE_BLOCK = 256  # hidden neurons at a time: bounds the memory and keeps the block in cache

FeatureMap = Callable[[Tensor, Tensor], Tensor]


def step(
    hebbian: Tensor, presynaptic: Tensor, x: Tensor, q: Tensor, k: Tensor, v: Tensor,
    omega: Tensor, feature_map: FeatureMap, r: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """One token through equations (1) to (6).

    hebbian [E, m], presynaptic [m], x [E], q and k [D], v [E], omega [m, D]; r is 0 to write and
    1 to read. Returns hebbian, presynaptic, the last layer [E] and the calcium (a scalar, 0 while
    writing).
    """
    drive = (1 - r) * k + r * q  # [D]
    h = torch.exp(feature_map(omega, drive[None])[0]) / omega.shape[0] ** 0.5  # [m]         (2)
    calcium = r * (presynaptic @ h)  # scalar                                                (6)
    if r == 0:
        last = v  # [E]                                                                      (3)
    else:
        last = (hebbian / calcium) @ h + x  # [E]                                            (3)
    hebbian = hebbian + (1 - r) * torch.outer(last, h)  # [E, m]                             (4)
    presynaptic = presynaptic + (1 - r) * h  # [m]                                           (5)
    return hebbian, presynaptic, last, calcium


def sequential(
    x: Tensor, q: Tensor, k: Tensor, v: Tensor, omega: Tensor, feature_map: FeatureMap
) -> tuple[Tensor, Tensor]:
    """Write all tokens, then read all tokens: the readable reference, one token at a time.

    x, v [T, E], q, k [T, D], omega [m, D]; returns the astrocyte's calcium p [T] and the last layer
    [T, E], skip connection included. NaN where all rates underflow, from norms of about 30 on.
    """
    hebbian = q.new_zeros(v.shape[-1], omega.shape[0])
    presynaptic = q.new_zeros(omega.shape[0])
    for x_t, q_t, k_t, v_t in zip(x, q, k, v):
        hebbian, presynaptic, _, _ = step(
            hebbian, presynaptic, x_t, q_t, k_t, v_t, omega, feature_map, r=0
        )
    calcium, last = [], []
    for x_t, q_t, k_t, v_t in zip(x, q, k, v):
        _, _, l_t, p_t = step(hebbian, presynaptic, x_t, q_t, k_t, v_t, omega, feature_map, r=1)
        calcium.append(p_t)
        last.append(l_t)
    return torch.stack(calcium), torch.stack(last)


def batched(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, omega: Tensor, feature_map: FeatureMap,
    n_features: Sequence[int],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Write all tokens, then read all tokens, for networks of the first m neurons of omega.

    q, k [..., T, D], v [..., T, E], mask [..., T] true where a token is present, omega [..., m, D];
    n_features rises and ends at m at the latest. Returns ln p [n_features, ..., T] and the output
    without skip connection [n_features, ..., T, E]. Masked tokens are not written; what is read at
    them has no meaning. One pass serves all sizes, which therefore share neurons.
    """
    v = v.masked_fill(~mask[..., None], 0)
    running_max = q.new_full(q.shape[:-1], -torch.inf)  # [..., T]
    running_sum = torch.zeros_like(running_max)
    running_output = torch.zeros_like(v)
    log_calcium, output = [], []
    start = 0
    for m in n_features:
        while start < m:
            block = omega[..., start : min(start + FEATURE_BLOCK, m), :]  # [..., B, D]
            log_g, u = _write(k, v, mask, block, feature_map)
            log_rate = feature_map(block, q).add_(log_g[..., None, :])  # [..., T, B]
            new_max = torch.maximum(running_max, log_rate.amax(-1))
            rate = log_rate.sub_(new_max[..., None]).exp_()
            shrink = torch.exp(running_max - new_max)
            running_sum = running_sum * shrink + rate.sum(-1)
            running_output = running_output * shrink[..., None] + rate @ u
            running_max = new_max
            start += block.shape[-2]
        log_calcium.append(running_max + running_sum.log() - math.log(m))
        output.append(running_output / running_sum[..., None])
    return torch.stack(log_calcium), torch.stack(output)


def _write(
    k: Tensor, v: Tensor, mask: Tensor, omega: Tensor, feature_map: FeatureMap
) -> tuple[Tensor, Tensor]:
    """Return ln g [..., m] and u = H / g [..., m, E], the mean value that each neuron stores."""
    log_phi = feature_map(omega, k)  # [..., T, m]
    if not mask.all():
        log_phi = log_phi.masked_fill(~mask[..., None], -torch.inf)
    peak = log_phi.amax(-2, keepdim=True)  # [..., 1, m]
    phi = log_phi.sub_(peak).exp_()
    g = phi.sum(-2)  # [..., m]
    return g.log() + peak.squeeze(-2), (phi.mT @ v) / g[..., None]
