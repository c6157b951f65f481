"""What the heads of a trained network read when a part of them is knocked out, weights unchanged.

A head's output is a sum over what its synapses H hold, divided by the response p of its astrocyte.
Another response p' changes the output by the gain p / p', whatever attends. A constant p' has a
unit, so it is the best one (tripartite.knockouts), fitted on validation data, layer by layer in the
network whose earlier layers are changed already. The one fitted for each token is what an astrocyte
could respond that has a course in time but does not listen.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tripartite.kinds.trained.arms import Read
from tripartite.knockouts import log_best_constant

Change = Callable[[int, Read], Tensor]  # of layer and read to the output [B, H, T, E] instead


class Knockout(NamedTuple):
    """What a figure calls a knock-out, and what it changes.

    change(validate, causal) makes the change of a trained network, whose validation data
    validate(change) runs through it.
    """

    label: str
    change: Callable[[Callable[[Change], object], bool], Change]


def divided(read: Read, log_p: Tensor) -> Tensor:
    """The output [B, H, T, E] divided by exp(log_p), of a shape like [B, H, T], instead of p."""
    return (read.log_p - log_p).exp()[..., None] * read.output


def fitted(validate: Callable[[Change], object], per_token: bool) -> Change:
    """Division by the constant of each head, or of each head and token, that is best there."""
    constants: dict[int, Tensor] = {}

    def fit(layer: int, read: Read) -> Tensor:
        squares = read.output.square().sum(-1)
        by_head = [x.movedim(0, -1) for x in (read.log_p, squares)]  # [H, T, B]
        if not per_token:
            by_head = [x.flatten(1) for x in by_head]
        best = log_best_constant(*(x.double().cpu().numpy() for x in by_head))
        log_c = torch.as_tensor(best).to(read.log_p)  # [H] or [H, T]
        constants[layer] = log_c if per_token else log_c[:, None]
        return divided(read, constants[layer])

    validate(fit)
    return lambda layer, read: divided(read, constants[layer])


def token_before(layer: int, read: Read) -> Tensor:
    """Division by p of the token before; the first token keeps its own."""
    return divided(read, torch.cat([read.log_p[..., :1], read.log_p[..., :-1]], -1))


def synapses_emptied(layer: int, read: Read) -> Tensor:
    """H = 0: nothing is read, and what a token knows of others is lost."""
    return torch.zeros_like(read.output)


def equal_attention(causal: bool) -> Change:
    """The mean of the values of all tokens, or of those up to the own one."""

    def change(layer: int, read: Read) -> Tensor:
        if not causal:
            return read.v.mean(-2, keepdim=True).expand_as(read.output)
        count = torch.arange(1, read.v.shape[-2] + 1).to(read.v)
        return read.v.cumsum(-2) / count[:, None]

    return change


KNOCKOUTS = {
    "best_constant": Knockout(
        "best constant for $p$", lambda validate, causal: fitted(validate, False)
    ),
    "best_course": Knockout("best course of $p$", lambda validate, causal: fitted(validate, True)),
    "token_before": Knockout("$p$ of the token before", lambda validate, causal: token_before),
    "equal_attention": Knockout(
        "equal attention", lambda validate, causal: equal_attention(causal)
    ),
    "synapses_emptied": Knockout("empty synapses", lambda validate, causal: synapses_emptied),
}
