"""Transformers whose heads have lost their astrocytes, and measures of what is left of them.

An astrocyte that responds with p'_t instead of the normaliser Z_t multiplies a head's output by the
gain Z_t / p'_t, whatever p' is (Kozachkov, Kastanenka & Krotov 2023, eq. 12, has p = Z). Each
head's direction is kept, but heads of other gains are mixed, layers are added to what came before
them, norms rescale the sum, and the next layers read it: what a transformer makes of that is
measured here.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from tripartite.knockouts import constant, lagged, towards_mean
from tripartite.pretrained.transformers import Attention, softmax_attention


@dataclass(frozen=True, kw_only=True)
class Knockout:
    """What an astrocyte responds instead, and what its head does then."""

    log_response: Callable[[np.ndarray, float], np.ndarray]  # ln Z [T], dose -> ln p' [T]
    label: str  # in figures, at a dose of 1


KNOCKOUTS = {
    "knockout_none": Knockout(log_response=constant, label="divided by 1"),
    "knockout_mean": Knockout(log_response=towards_mean, label="by the mean of $Z$"),
    "knockout_lagged": Knockout(log_response=lagged, label="by $Z$ of the token before"),
}


def without_astrocytes(kind: str, layers: Container[int], seen: dict[str, Tensor]) -> Attention:
    """Softmax attention whose heads in some layers have lost their astrocytes.

    kind is one of KNOCKOUTS. Of the last of these layers, `seen` is given log_gain [head, token]
    and attended_cosine, that of the outputs of all heads side by side with what they would have
    been: mean over tokens.
    """

    def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = softmax_attention(layer, q, k, v)
        if layer not in layers:
            return output
        log_z = torch.logsumexp(q @ k.mT, -1).numpy()  # [head, token]
        with np.errstate(divide="ignore"):
            log_p = np.stack([KNOCKOUTS[kind].log_response(row, 1.0) for row in log_z])
        seen["log_gain"] = torch.from_numpy(log_z - log_p)
        changed = seen["log_gain"].exp()[..., None] * output
        side_by_side = (x.movedim(0, -2).flatten(-2) for x in (changed, output))
        seen["attended_cosine"] = cosine(*side_by_side).mean()
        return changed

    return attention


def of_layers(hidden: Tensor, n_layers: int) -> Tensor:
    """The states [layer, token, d_model] that leave each layer, the last as the model's output."""
    return torch.cat([hidden[1:n_layers], hidden[-1:]])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine [...] of vectors [..., D]."""
    return cosine_similarity(a, b, dim=-1)


def chance(states: Tensor) -> Tensor:
    """Mean cosine [layer] of states [layer, token, d_model] of two tokens of one input."""
    unit = normalize(states, dim=-1)
    n = unit.shape[1]
    return (unit.sum(1).square().sum(-1) - n) / (n * (n - 1))
