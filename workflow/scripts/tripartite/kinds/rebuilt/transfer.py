"""Attention transfer: hidden weights of all heads of a transformer, trained to its attention.

Each head is trained by itself, on queries, keys and values of the exact model, so that the features
of its hidden neurons make its softmax attention (learning.py): the first step of LoLCATs (Zhang et
al., ICLR 2025), after Hedgehog (Zhang et al., ICLR 2024).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tripartite.attention import softmax_attention
from tripartite.learning import Example, train

Reading = tuple[Tensor, Tensor, Tensor]
LEARNING_RATE, PATIENCE = 0.1, 5  # as the kind `learned` has them, where they were chosen


def example(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Example:
    """One input as the heads of a layer see it: q, k and v [head, T, D], and their attention."""
    present = torch.ones(q.shape[1], dtype=torch.bool)
    log_normalizer, output = softmax_attention(q.double(), k.double(), v.double(), present, causal)
    read = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool)
    read = (read.tril() if causal else read).expand(len(q), -1, -1)
    weights = torch.exp(q.double() @ k.double().mT - log_normalizer[..., None])
    weights = weights.masked_fill(~read, 0)
    return Example(q, k, v, weights.to(v.dtype), output.to(v.dtype), read)


def trained(
    training: Sequence[Reading],
    validation: Sequence[Reading],
    causal: bool,
    m: int,
    random: Callable[..., np.random.Generator],
    max_steps: int,
) -> tuple[Tensor, str]:
    """Weights [2, layer, head, m / 2, D] of hidden layers with m features, and a note if one fails.

    training and validation are q, k and v [layer, head, T, D] of inputs. Weights of queries come
    first, then those of keys. random gives random numbers by names, of which the start and the
    queries of each step are drawn, the same queries in all layers. Weights are NaN, with a note, if
    the training of a head diverges.
    """
    n_layers, n_heads, _, d = training[0][0].shape
    of_layers, notes = [], []
    for layer in range(n_layers):  # all at once take more memory, and no less time
        seen, unseen = (
            [example(q[layer], k[layer], v[layer], causal) for q, k, v in group]
            for group in (training, validation)
        )
        starts = [random(layer, head).standard_normal((m // 2, d)) for head in range(n_heads)]
        found = train(
            seen,
            unseen,
            torch.from_numpy(np.stack(starts)),
            random("queries"),
            loss="weights",
            max_steps=max_steps,
            learning_rate=LEARNING_RATE,
            patience=PATIENCE,
            dtype=training[0][0].dtype,
        )
        of_layers.append(torch.stack([found.query_weights, found.key_weights]))
        said = [(head, note) for head, note in enumerate(found.note) if note]
        notes += [f"layer {layer}, head {head}: {note}" for head, note in said]
    return torch.stack(of_layers, 1), notes[0] if notes else ""
