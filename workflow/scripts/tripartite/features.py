"""Feature maps phi of the hidden layer: from a drive x to the log firing rate of m neurons.

Each map is a function `(omega, x) -> log_phi`, with omega [..., m, D] the input-to-hidden weights, drawn
from the standard normal, and x [..., T, D] the drive (a key in the write phase, a query in the read
phase); log_phi is [..., T, m]. The common factor 1/sqrt(m) is left to the network, so that the
first features of a large network are those of a smaller one.
"""

from torch import Tensor


def performer(omega: Tensor, x: Tensor) -> Tensor:
    """ln phi_a(x) = omega_a . x - |x|^2 / 2: positive random features.

    Their mean product is the softmax kernel, E phi(q) . phi(k) = exp(q . k) (Choromanski et al.,
    ICLR 2021, Lemma 1; the map of both figures of Kozachkov et al., PNAS 2023).
    """
    return x @ omega.mT - x.square().sum(-1, keepdim=True) / 2  # [..., T, m]


FEATURE_MAPS = {"performer": performer}
