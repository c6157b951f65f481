"""Feature maps phi of the hidden layer: hidden neurons, and the firing rate of each.

A hidden neuron a has input weights w_a and a bias b_a; its drive is u_a = w_a . x + b_a, where x is
a key in the write phase and a query in the read phase. A map consists of a function that makes
neurons from standard normal weights omega_a, and of an activation phi_a of u_a and |x|^2. The
factor 1/sqrt(m) of phi_a is applied by the network, so that the first neurons of a large network
are those of a smaller one. Six of the maps are those of the notebooks released with Kozachkov et
al. (PNAS 2023), function get_phi.

Activations return ln|phi| and the sign of phi (None where phi is never negative): nothing
overflows, and a neuron that does not fire has ln|phi| = -inf.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 16  # neurons drawn at a time, about; this bounds the memory of large networks

Activation = Callable[[Tensor, Tensor, int, float], tuple[Tensor, Tensor | None]]


# Neurons: from omega [m, D] standard normal, phase [m] uniform on 0 to 2 pi, and the parameter
# a [D] or [1], to weights [m, D] and bias [m].


def plain(omega: Tensor, phase: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Weights omega, no bias."""
    return omega, torch.zeros_like(phase)


def random_phase(omega: Tensor, phase: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Weights omega, and a random phase as bias."""
    return omega, phase


def mirrored(omega: Tensor, phase: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of weights omega and -omega: hyperbolic features (Choromanski et al. 2021)."""
    pairs = torch.stack([omega[::2], -omega[::2]], dim=1).flatten(0, 1)  # m is even
    return pairs, torch.zeros_like(phase)


def orthogonal_rows(omega: Tensor, phase: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Weights in blocks of D orthogonal rows, each row with its norm in omega.

    The directions come from Gram-Schmidt (QR with a positive diagonal, hence Haar-distributed);
    they are independent of the norms, because a rotation changes no norm. m is a multiple of D.
    """
    blocks = omega.unflatten(0, (-1, omega.shape[1]))  # [block, D, D]
    basis, triangle = torch.linalg.qr(blocks.mT)
    basis = basis * triangle.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    return basis.mT.flatten(0, 1) * omega.norm(dim=1, keepdim=True), torch.zeros_like(phase)


def generalized(omega: Tensor, phase: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Weights sqrt(1 - 4a_i) omega_i in direction i, bias sum_i a_i omega_i^2 + ln(1 - 4a_i) / 4.

    One a for all directions gives FAVOR++ (Likhosherstov et al. 2022). One a for each direction of
    a suitable basis gives normal hidden weights with another covariance; the bias keeps the
    estimate unbiased.
    """
    bias = (a * omega.square() + torch.log(1 - 4 * a) / 4).sum(1)
    return torch.sqrt(1 - 4 * a) * omega, bias


# Activations: from drive u [..., T, m], square = |x|^2 [..., T, 1], m of the whole network and a
# threshold to ln|phi| and the sign of phi, both [..., T, m].


def exponential(u: Tensor, square: Tensor, m: int, threshold: float) -> tuple[Tensor, None]:
    """phi = exp(u - |x|^2 / 2), E phi(q).phi(k) = exp(q.k): softmax (Choromanski et al. 2021)."""
    return u - square / 2, None


def truncated_exponential(
    u: Tensor, square: Tensor, m: int, threshold: float
) -> tuple[Tensor, None]:
    """phi = exp(-|x|^2 / 2) min(exp(u), threshold): a firing rate that saturates."""
    return u.clamp_max(math.log(threshold)) - square / 2, None


def cosine(u: Tensor, square: Tensor, m: int, threshold: float) -> tuple[Tensor, Tensor]:
    """phi = sqrt(2) exp(|x|^2 / 2) cos u: a softmax kernel with signs (Rahimi & Recht 2007)."""
    wave = torch.cos(u)
    return wave.abs().log() + (square + math.log(2)) / 2, wave.sign()


def positive_cosine(u: Tensor, square: Tensor, m: int, threshold: float) -> tuple[Tensor, None]:
    """phi = sqrt(2 / pi) exp(|x|^2 / 2) max(0, cos u)."""
    return torch.cos(u).clamp_min(0).log() + (square + math.log(2 / math.pi)) / 2, None


def clipped_sine(u: Tensor, square: Tensor, m: int, threshold: float) -> tuple[Tensor, Tensor]:
    """phi = sqrt(2) exp(|x|^2 / 2) sin u, u clipped to -pi/2 and pi/2 (dima_sin, as released)."""
    wave = torch.sin(u.clamp(-math.pi / 2, math.pi / 2))
    return wave.abs().log() + (square + math.log(2)) / 2, wave.sign()


def linear(u: Tensor, square: Tensor, m: int, threshold: float) -> tuple[Tensor, Tensor]:
    """phi = sqrt(m) (1 + u - |x|^2 / 2 - ln(m) / 2), as released: it cancels the 1/sqrt(m)."""
    h = 1 + u - square / 2 - math.log(m) / 2
    return h.abs().log() + math.log(m) / 2, h.sign()


def elu_plus_one(u: Tensor, square: Tensor, m: int, threshold: float) -> tuple[Tensor, None]:
    """phi = elu(u) + 1, of linear transformers (Katharopoulos et al. 2020), on random weights."""
    return torch.where(u < 0, u, torch.log1p(u.clamp_min(0))), None


def relu(u: Tensor, square: Tensor, m: int, threshold: float) -> tuple[Tensor, None]:
    """phi = max(0, u): the arc-cosine kernel of degree 1 (Cho & Saul 2009)."""
    return u.clamp_min(0).log(), None


class FeatureMap(NamedTuple):
    """Neurons and activation of a map, and its settings beside the number of neurons."""

    neurons: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    activation: Activation


FEATURE_MAPS = {
    "performer": FeatureMap(plain, exponential),
    "orthogonal": FeatureMap(orthogonal_rows, exponential),
    "hyperbolic": FeatureMap(mirrored, exponential),
    "generalized_positive": FeatureMap(generalized, exponential),
    "fitted_normal": FeatureMap(generalized, exponential),
    "truncated_performer": FeatureMap(plain, truncated_exponential),
    "cosine": FeatureMap(random_phase, cosine),
    "positive_cosine": FeatureMap(random_phase, positive_cosine),
    "clipped_sine": FeatureMap(random_phase, clipped_sine),
    "linear": FeatureMap(plain, linear),
    "elu_plus_one": FeatureMap(plain, elu_plus_one),
    "relu": FeatureMap(plain, relu),
}


def draw_neurons(
    feature_map: str,
    weights: np.random.Generator,
    phases: np.random.Generator,
    m: int,
    d_head: int,
    a: float | Tensor = 0.0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weights [n, D] and bias [n] of m neurons in order, about CHUNK at a time, in float64.

    weights, phases: random numbers; a, a number or [D]: parameter of generalized positive features.
    The first neurons do not depend on m: whole orthogonal blocks and mirrored pairs are drawn.
    """
    whole = 2 * d_head
    size = math.ceil(CHUNK / whole) * whole
    a = torch.as_tensor(a, dtype=torch.float64).expand(d_head)
    for start in range(0, m, size):
        n = min(size, m - start)
        drawn = math.ceil(n / whole) * whole
        omega = torch.from_numpy(weights.standard_normal((drawn, d_head)))
        phase = torch.from_numpy(phases.uniform(0, 2 * math.pi, drawn))
        made, bias = FEATURE_MAPS[feature_map].neurons(omega, phase, a)
        yield made[:n], bias[:n]


def optimal_a(mean_square: float, d_head: int) -> float:
    """a <= 0 of least variance of generalized positive features at |q + k|^2 = mean_square.

    a = (1 - 1 / rho) / 8 with rho = (sqrt((2s + D)^2 + 8Ds) - 2s - D) / 4s at s = mean_square
    (Likhosherstov et al., NeurIPS 2022, Theorem 4).
    """
    s, d = mean_square, d_head
    if s == 0:
        return 0.0  # the limit, where rho is 1
    # equal to rho as above, without its difference of nearly equal numbers
    rho = 2 * d / (math.sqrt((2 * s + d) ** 2 + 8 * d * s) + 2 * s + d)
    return (1 - 1 / rho) / 8
