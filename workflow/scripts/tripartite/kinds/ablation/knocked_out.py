"""Transformers whose heads have lost their astrocytes, and measures of what is left of them.

An astrocyte that responds with p'_t instead of the normaliser Z_t multiplies a head's output by the
gain Z_t / p'_t, whatever p' is (Kozachkov, Kastanenka & Krotov 2023, eq. 12, has p = Z). Each
head's direction is kept, but heads of other gains are mixed, layers are added to what came before
them, norms rescale the sum, and the next layers read it: what a transformer makes of that is
measured here.

What the astrocyte's dynamics is good for shows beside constants, which have a unit and no dynamics.
They are fitted to other inputs of the whole model, so that nothing of the tested input is in them;
one of them anew in each layer of the changed model, whose states are others; and one to the very
input, which no astrocyte could know before it has read it.
"""

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, scaled_dot_product_attention

from tripartite.knockouts import lagged, log_best_constant, log_mean
from tripartite.pretrained.transformers import Attention, softmax_attention

Array = np.ndarray


class Queries(NamedTuple):
    """What queries [..., head, token] of a layer find."""

    log_z: Array  # ln Z
    squares: Array  # |o|^2 of the output of softmax attention


@dataclass(frozen=True, kw_only=True)
class Knockout:
    """What an astrocyte responds instead, and what its head does then."""

    # Queries of the input and of calibrating ones, and ln of the best constant [head] for these in
    # the changed model -> ln p', shaped [head, token] or [head]
    log_response: Callable[[Queries, Queries, Array], Array]
    label: str  # in figures
    constant: bool = True  # whether p' is the same for all queries


KNOCKOUTS = {
    "knockout_one": Knockout(
        log_response=lambda own, fitted, inside: np.zeros(len(own.log_z)),
        label="1 (a choice of unit)",
    ),
    "knockout_tokens": Knockout(
        log_response=lambda own, fitted, inside: np.full(
            len(own.log_z), math.log(own.log_z.shape[-1])
        ),
        label="number of tokens",
    ),
    "knockout_mean": Knockout(
        log_response=lambda own, fitted, inside: log_mean(fitted.log_z), label="mean of $Z$"
    ),
    "knockout_median": Knockout(
        log_response=lambda own, fitted, inside: np.median(fitted.log_z, -1), label="median of $Z$"
    ),
    "knockout_best": Knockout(
        log_response=lambda own, fitted, inside: log_best_constant(*fitted), label="best constant"
    ),
    "knockout_best_inside": Knockout(
        log_response=lambda own, fitted, inside: inside,
        label="best constant, fitted in the changed model",
    ),
    "knockout_best_here": Knockout(
        log_response=lambda own, fitted, inside: log_best_constant(*own),
        label="best constant of the input itself",
    ),
    "knockout_lagged": Knockout(
        log_response=lambda own, fitted, inside: lagged(own.log_z, 1),
        label="$Z$ of the token before",
        constant=False,
    ),
}


def queries(q: Tensor, k: Tensor, output: Tensor) -> Queries:
    """Queries of heads that read q, k [..., head, token, d_head] and give the output."""
    return Queries(torch.logsumexp(q @ k.mT, -1).numpy(), output.square().sum(-1).numpy())


def pooled(inputs: list[Queries]) -> Queries:
    """The queries of several inputs side by side, [..., head, all tokens]."""
    return Queries(*(np.concatenate(x, -1) for x in zip(*inputs)))


def constants_inside(
    layers: Sequence[Callable[..., tuple[Tensor, ...]]], states: list[Tensor]
) -> list[Array]:
    """ln of the best constants [head] of each layer, as all layers lose their astrocytes.

    Fitted to inputs with these states [token, d_model] before the first layer: each layer to what
    it reads when those before it are divided by their constants.
    """
    found: list[Array] = []
    for layer, run in enumerate(layers):
        seen: list[Queries] = []
        for x in states:
            run(x, partial(_watched, layer, seen))
        found.append(log_best_constant(*pooled(seen)))
        states = [run(x, partial(_divided, layer, found[-1]))[0] for x in states]
    return found


def _watched(layer: int, seen: list[Queries], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention that leaves its queries in `seen`."""
    output = softmax_attention(layer, q, k, v)
    seen.append(queries(q, k, output))
    return output


def _divided(layer: int, log_constant: Array, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention that is divided by a constant [head] in place of its normaliser."""
    log_gain = torch.logsumexp(q @ k.mT, -1) - torch.from_numpy(log_constant)[:, None]
    return log_gain.exp()[..., None] * softmax_attention(layer, q, k, v)


def without_astrocytes(
    lesioned: Container[int],
    fitted: list[Queries],
    inside: list[Array],
    seen: dict[str, Tensor],
) -> Attention:
    """Softmax attention whose heads in some layers have lost their astrocytes, in every way.

    Outputs [kind, head, token, d_head] of a lesioned layer are those of each of KNOCKOUTS; q, k and
    v may be of one state for all kinds, or have the axis as well. fitted are the queries of the
    calibrating inputs in each layer, inside the ln of their best constants [head] in the changed
    model. Of the last lesioned layer, `seen` is given log_gain [kind,
    head, token], head_error [kind, head], the relative error of each head's output, and
    attended_cosine [kind], that of the outputs of all heads side by side with what they would have
    been: mean over tokens.
    """

    def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if layer not in lesioned:  # softmax attention in one step, which takes less time
            return scaled_dot_product_attention(q, k, v, scale=1.0)
        output = softmax_attention(layer, q, k, v)
        own = queries(q, k, output)
        shape = len(KNOCKOUTS), *own.log_z.shape[-2:]
        log_z, squares = (np.broadcast_to(x, shape) for x in own)
        log_p = np.empty(shape)  # [kind, head, token]
        for place, kind in enumerate(KNOCKOUTS.values()):
            one = Queries(log_z[place], squares[place])
            log_p[place] = kind.log_response(one, fitted[layer], inside[layer]).reshape(
                shape[1], -1
            )
        seen["log_gain"] = torch.from_numpy(log_z - log_p)
        gain = seen["log_gain"].exp()
        size = torch.from_numpy(squares.copy())
        seen["head_error"] = ((gain - 1).square() * size).sum(-1).div(size.sum(-1)).sqrt()
        changed = gain[..., None] * output
        side_by_side = (x.transpose(-3, -2).flatten(-2) for x in (changed, output))
        seen["attended_cosine"] = cosine(*side_by_side).mean(-1)
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
