"""Transformers whose attention is replaced, layer after layer on the states that are left.

Several parts of a transformer are replaced side by side, each in a copy of its own. A copy is as
the original up to its first replaced layer, so that it runs from there on alone. Layers are run in
order over all copies: the hidden weights of a layer are drawn once for all of them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tripartite.pretrained.transformers import Layer
from tripartite.rebuilding import Attention, in_places, no_attention

ALL, FEASIBLE = "all", "feasible"
EVERY = {"each_layer": ("layer", 0), "first_layers": ("first", 1)}  # name of each, and first number

OfLayer = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # an attention of a layer
# What replaces some heads of a layer, of its number and theirs
Replacement = Callable[[int, Sequence[int]], Attention]


class Passes(NamedTuple):
    """What the copies leave: states[part][batch] [..., T, d_model] after the last layer.

    state_error [part, batch, layer] and head_error [part, batch, layer, head], relative (NaN where
    a head is not replaced).
    """

    states: list[list[Tensor]]
    state_error: np.ndarray
    head_error: np.ndarray


def parts_of(parts: Sequence[str], n_layers: int) -> list[str]:
    """The names of all parts that are replaced, each once: those of a study, written out."""
    found: list[str] = []
    for part in parts:
        kind, first = EVERY.get(part, (part, None))
        every = range(first, n_layers + first) if first is not None else ()
        found += [f"{kind} {i}" for i in every] or [part]
    return list(dict.fromkeys(found))


def replaced(part: str, feasible: np.ndarray) -> np.ndarray:
    """Which heads [layer, head] of a part are replaced; feasible [layer, head]: those of few."""
    kind, _, number = part.partition(" ")
    layers = np.arange(len(feasible))[:, None]
    where = {
        ALL: layers >= 0,
        FEASIBLE: feasible,
        "layer": layers == int(number or -1),
        "first": layers < int(number or 0),
    }[kind]
    return np.broadcast_to(where, feasible.shape)


def original(layers: Sequence[Layer], x: Tensor, exact: OfLayer) -> Tensor:
    """States [layer + 1, ..., T, d_model] of the original: what enters, and what each leaves."""
    states = [x]
    for i, layer in enumerate(layers):
        states.append(layer(states[-1], partial(exact, i))[0])
    return torch.stack(states)


def sizes(layers: Sequence[Layer], hidden: Sequence[Tensor], causal: bool) -> np.ndarray:
    """How much the attention of each layer adds to the states that leave it [batch, layer].

    The relative change of the state of a token if it is taken away; hidden as for run.
    """
    nothing = partial(no_attention, causal=causal)
    changed = [
        torch.stack([layer(x[i], nothing)[0] for i, layer in enumerate(layers)]) for x in hidden
    ]
    return np.stack(
        [[token_error(*pair) for pair in zip(y, x[1:])] for x, y in zip(hidden, changed)]
    )


def run(
    layers: Sequence[Layer],
    hidden: Sequence[Tensor],
    heads: np.ndarray,
    exact: OfLayer,
    replacement: Replacement,
) -> Passes:
    """Run copies of a transformer in which some heads are replaced.

    hidden: states [layer + 1, ..., T, d_model] of the original for each batch; heads [part, layer,
    head]: which are replaced, true or false; exact: the attention of the others.
    """
    n_parts, n_layers, n_heads = heads.shape
    sizes = n_parts, len(hidden), n_layers
    state_error, head_error = np.zeros(sizes), np.full((*sizes, n_heads), np.nan)
    states = [[x[-1] for x in hidden] for _ in range(n_parts)]
    begun = np.zeros(n_parts, dtype=bool)
    for layer, run_layer in enumerate(layers):
        softmax = partial(exact, layer)
        made: dict[tuple[int, ...], Attention] = {}
        for part in range(n_parts):
            chosen = tuple(map(int, np.flatnonzero(heads[part, layer])))
            if chosen and chosen not in made:
                made[chosen] = replacement(layer, chosen)
            if not (begun[part] or chosen):
                continue
            for i, states_there in enumerate(hidden):
                x = states[part][i] if begun[part] else states_there[layer]
                errors: list[Tensor] = []
                attention: Attention = softmax
                if chosen:
                    measured = partial(_measured, softmax, made[chosen], errors)
                    some = None if len(chosen) == n_heads else chosen
                    attention = in_places(softmax, measured, some)
                x = states[part][i] = run_layer(x, attention)[0]
                state_error[part, i, layer] = token_error(x, states_there[layer + 1])
                if chosen:
                    head_error[part, i, layer, list(chosen)] = errors[0].numpy()
            begun[part] |= bool(chosen)
    return Passes(states, state_error, head_error)


def _measured(
    exact: Attention, attend: Attention, errors: list[Tensor], q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    """Outputs of `attend`; the relative error of each head's output is appended to `errors`."""
    output = attend(q, k, v)
    wanted = exact(q, k, v)
    errors.append(relative_errors(output.movedim(-3, 0), wanted.movedim(-3, 0)))
    return output


def token_error(x: Tensor, exact: Tensor) -> float:
    """Relative error |x - exact| / |exact| of the states [..., d_model] of tokens, mean over them.

    Each token counts alike: the norm of all together is that of few tokens with massive activations
    (Sun et al., COLM 2024), beside which errors of others vanish.
    """
    sizes = [y.double().norm(dim=-1) for y in (x - exact, exact)]
    return float((sizes[0] / sizes[1]).mean())


def relative_errors(x: Tensor, exact: Tensor) -> Tensor:
    """|x - exact| / |exact| [n] of x and exact [n, ...] (Frobenius norms); NaN where exact is 0."""
    sizes = [y.double().flatten(1).norm(dim=1) for y in (x - exact, exact)]
    return sizes[0] / sizes[1]
