"""Kernels of feature maps, E phi(q).phi(k): what infinitely many hidden neurons compute.

A map with the kernel kappa = exp(q.k) has no bias. With any other kernel the attention weights tend
to kappa / sum kappa, which more neurons do not improve. Kernels are returned as ln|kappa| and sign,
because factors such as exp(|x|^2 / 2) leave the range of numbers in pretrained heads.

The saturating rates f(u) = min(exp u, threshold) and elu(u) + 1 are log-concave with a kink. Their
kernel E f(u) f(v), u = omega.q and v = omega.k, is a sum of bivariate normal probabilities, which
cancel at norms above about 7. So it is integrated numerically: over u by Gauss-Legendre quadrature
between the kinks, with the mean of f(v) given u in closed form. All terms are positive: about seven
digits are correct, and three where q and k are within a few degrees of parallel.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.special import log_ndtr

N_SERIES = 64  # terms of the positive cosine; the rest is below 1e-7 of the kernel, at q = k
N_NODES = 20  # of the quadrature, per piece
REACH = 6.5  # of the quadrature around the mode, where integrands fall like exp(-z^2 / 2) or faster
MIN_SD = 1e-12  # of omega.k given omega.q, where the two are parallel

Kernel = Callable[[Tensor, Tensor, int, float], tuple[Tensor, Tensor | None]]


def limit_kernel(
    feature_map: str, q: Tensor, k: Tensor, m: int = 1, threshold: float = math.inf
) -> tuple[Tensor, Tensor | None] | None:
    """ln|kappa| [..., T, N] and sign (None where never negative) for q [..., T, D], k [..., N, D].

    m is the number of neurons, which only the kernel of the linear map depends on. Returns None for
    maps without a closed form (clipped_sine). q and k are float64.
    """
    kernel = KERNELS.get(feature_map)
    return None if kernel is None else kernel(q, k, m, threshold)


def limit_read(
    log_kernel: Tensor, sign: Tensor | None, log_gain: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """ln|p| [..., T], sign of p and output [..., T, E] of a network of infinitely many neurons.

    log_kernel and sign [..., T, N] as from limit_kernel, log_gain [..., N] the ln of the
    presynaptic gains, v [..., N, E]. As in a finite network, the output is 0 where p is 0.
    """
    log_weight = log_kernel + log_gain[..., None, :]
    peak = log_weight.amax(-1, keepdim=True)
    peak = peak.masked_fill(peak == -torch.inf, 0)
    weight = torch.exp(log_weight - peak)
    weight = weight if sign is None else weight * sign
    total = weight.sum(-1, keepdim=True)
    output = (weight @ v) / total.masked_fill(total == 0, torch.inf)
    return (peak + total.abs().log())[..., 0], total.sign()[..., 0], output


def _squares(q: Tensor, k: Tensor) -> Tensor:
    """|q|^2 + |k|^2 of all pairs [..., T, N]."""
    return q.square().sum(-1)[..., :, None] + k.square().sum(-1)[..., None, :]


def softmax(q: Tensor, k: Tensor, m: int, threshold: float) -> tuple[Tensor, None]:
    """exp(q.k), of all unbiased maps (Choromanski et al. 2021, Lemma 1; Rahimi & Recht 2007)."""
    return q @ k.mT, None


def positive_cosine(q: Tensor, k: Tensor, m: int, threshold: float) -> tuple[Tensor, None]:
    """A constant background and Gaussians, from the Fourier series of max(0, cos u).

    (2 / pi) exp((|q|^2 + |k|^2) / 2) (1 / pi^2 + exp(-s / 2) / 8 + sum_n (2 / (pi (4n^2 - 1)))^2
    exp(-2 n^2 s) / 2), with s = |q - k|^2.
    """
    squares = _squares(q, k)
    distance = (squares - 2 * q @ k.mT).clamp_min(0)
    series = torch.exp(-distance / 2) / 8 + 1 / math.pi**2
    for n in range(1, N_SERIES + 1):
        weight = (2 / (math.pi * (4 * n**2 - 1))) ** 2 / 2
        series += weight * torch.exp(-2 * n**2 * distance)
    return squares / 2 + math.log(2 / math.pi) + series.log(), None


def linear(q: Tensor, k: Tensor, m: int, threshold: float) -> tuple[Tensor, Tensor]:
    """m (c_q c_k + q.k), c_x = 1 - |x|^2 / 2 - ln(m) / 2: it may have either sign."""
    c_q, c_k = (1 - x.square().sum(-1) / 2 - math.log(m) / 2 for x in (q, k))
    kernel = c_q[..., :, None] * c_k[..., None, :] + q @ k.mT
    return kernel.abs().log() + math.log(m), kernel.sign()


def relu(q: Tensor, k: Tensor, m: int, threshold: float) -> tuple[Tensor, None]:
    """Arc-cosine kernel of degree 1, |q||k| (sin t + (pi - t) cos t) / 2 pi (Cho & Saul 2009)."""
    norms, cosine = _norms_and_cosine(q, k)
    angle = torch.acos(cosine)
    shape = (torch.sin(angle) + (math.pi - angle) * cosine).clamp_min(0)
    return torch.log(norms * shape / (2 * math.pi)), None


def truncated(q: Tensor, k: Tensor, m: int, threshold: float) -> tuple[Tensor, None]:
    """exp(-(|q|^2 + |k|^2) / 2) E f(omega.q) f(omega.k), f(u) = min(exp u, threshold)."""
    if threshold == math.inf:
        return softmax(q, k, m, threshold)
    top = math.log(threshold)

    def log_mean(mean: Tensor, sd: Tensor) -> Tensor:
        below = mean + sd.square() / 2 + log_ndtr((top - mean) / sd - sd)
        return torch.logaddexp(below, top + log_ndtr((mean - top) / sd))

    return _log_product(q, k, lambda u: u.clamp_max(top), log_mean, top) - _squares(q, k) / 2, None


def elu_plus_one(q: Tensor, k: Tensor, m: int, threshold: float) -> tuple[Tensor, None]:
    """E (elu(omega.q) + 1)(elu(omega.k) + 1)."""

    def log_rate(u: Tensor) -> Tensor:
        return torch.where(u < 0, u, torch.log1p(u.clamp_min(0)))

    def log_mean(mean: Tensor, sd: Tensor) -> Tensor:
        below = mean + sd.square() / 2 + log_ndtr(-mean / sd - sd)
        t = (mean / sd).clamp_min(-1e3)  # below, the part of u > 0 vanishes
        log_share = log_ndtr(t)
        hazard = torch.exp(-t.square() / 2 - math.log(2 * math.pi) / 2 - log_share)
        return torch.logaddexp(below, log_share + (1 + mean + sd * hazard).clamp_min(1e-300).log())

    return _log_product(q, k, log_rate, log_mean, 0.0), None


def _norms_and_cosine(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """|q||k| and the cosine between them, 0 where one is 0, of all pairs [..., T, N]."""
    norms = q.norm(dim=-1)[..., :, None] * k.norm(dim=-1)[..., None, :]
    return norms, ((q @ k.mT) / norms).nan_to_num(nan=0.0).clamp(-1, 1)


def _log_product(
    q: Tensor, k: Tensor, log_rate: Callable, log_mean: Callable, bend: float
) -> Tensor:
    """ln E f(omega.q) f(omega.k) [..., T, N], for omega standard normal and f log-concave.

    log_rate(u) is ln f(u), of slope between 0 and 1, with a kink at u = bend; log_mean(mean, sd) is
    ln E f of a normal variable. With z = omega.q / |q|, the mean of omega.k given z is slope * z.
    """
    norm = q.norm(dim=-1)[..., :, None]
    cosine = _norms_and_cosine(q, k)[1]
    length = k.norm(dim=-1)[..., None, :]
    slope = length * cosine
    sd = (length * torch.sqrt((1 - cosine) * (1 + cosine))).clamp_min(MIN_SD)

    def log_integrand(z: Tensor) -> Tensor:
        return log_rate(norm * z) + log_mean(slope * z, sd) - z.square() / 2

    low, high = slope.clamp_max(0), norm + slope.clamp_min(0)  # the mode is between them
    for _ in range(9):
        mode = (low + high) / 2
        rises = log_integrand(mode + 1e-4) > log_integrand(mode - 1e-4)
        low, high = torch.where(rises, mode, low), torch.where(rises, high, mode)
    peak = log_integrand(mode)
    first, last = mode - REACH, mode + REACH
    bends = [(bend / x).nan_to_num(nan=0.0).clamp(first, last) for x in (norm, slope)]
    edges = [first, torch.minimum(*bends), torch.maximum(*bends), last]
    nodes, weights = np.polynomial.legendre.leggauss(N_NODES)
    total = torch.zeros_like(peak)
    for left, right in itertools.pairwise(edges):
        middle, half = (left + right) / 2, (right - left) / 2
        for node, weight in zip(nodes.tolist(), weights.tolist()):
            total += weight * half * torch.exp(log_integrand(middle + node * half) - peak)
    return peak + total.log() - math.log(2 * math.pi) / 2


KERNELS: dict[str, Kernel] = {
    "performer": softmax,
    "orthogonal": softmax,
    "hyperbolic": softmax,
    "generalized_positive": softmax,
    "fitted_normal": softmax,
    "cosine": softmax,
    "truncated_performer": truncated,
    "positive_cosine": positive_cosine,
    "linear": linear,
    "elu_plus_one": elu_plus_one,
    "relu": relu,
}
