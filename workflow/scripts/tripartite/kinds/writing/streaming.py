"""A transformer that writes token by token: the streaming form of its attention.

Each token passes all layers once. In a layer its key and value are written into what the heads keep
of the past, then its query reads it. A network of neurons and astrocytes keeps synapses H and
presynaptic sums g (rebuilding.Synapses), whose size does not depend on the length of the text;
softmax attention keeps all keys and values, equal attention a mean of values.

Several texts are written side by side, a row each. All rows are at the same place of their text, so
that a prompt that is longer goes on while others are continued.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from tripartite.pretrained.extraction import Transformer
from tripartite.rebuilding import Rebuilt, Synapses

# Attention of a layer, written and read token by token: q, k, v [row, head, 1, D or E] of a token,
# which is written, to the outputs [row, head, 1, E] that its query reads.
Stream = Callable[[Tensor, Tensor, Tensor], Tensor]
Part = tuple[list[Stream], slice]  # the streams of all layers, and the rows that they serve


def network_stream(rebuilt: Rebuilt, synapses: Synapses) -> Stream:
    """A layer of H rebuilt heads, for rows of texts; of H rows heads, whose rows are neighbours."""

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x[..., 0, :].transpose(0, 1) for x in (q, k, v))  # [head, row, D or E]
        synapses.write(rebuilt.keys(k).flatten(0, 1), v.flatten(0, 1))
        output = synapses.read(rebuilt.queries(q).flatten(0, 1))
        return output.unflatten(0, v.shape[:2]).transpose(0, 1)[..., None, :]

    return step


def softmax_stream() -> Stream:
    """Softmax attention: keys and values of all tokens are kept."""
    cache: list[Tensor] = []

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        cache[:] = [torch.cat(pair, -2) for pair in zip(cache, (k, v))] or [k, v]
        keys, values = cache
        return torch.softmax(q @ keys.mT, -1) @ values

    return step


def equal_stream() -> Stream:
    """Equal attention to all tokens so far: the mean of their values and their number are kept."""
    past: list[Tensor] = []

    def step(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mean, n = past or (torch.zeros_like(v), torch.zeros((), dtype=v.dtype))
        past[:] = [mean + (v - mean) / (n + 1), n + 1]
        return past[0]

    return step


def no_stream() -> Stream:
    """No attention: nothing is kept."""
    return lambda q, k, v: torch.zeros_like(v)


REFERENCES = {"softmax": softmax_stream, "equal": equal_stream, "none": no_stream}


def kept(reference: str, d_head: int, n_tokens: int) -> int:
    """Numbers that a head with a reference attention keeps of n_tokens tokens."""
    return {"softmax": 2 * d_head * n_tokens, "equal": d_head + 1, "none": 0}[reference]


@torch.inference_mode()
def read_token(
    transformer: Transformer, parts: Iterable[Part], ids: list[int], place: int
) -> Tensor:
    """The states [row, d_model] that leave the model for one token of each row, at this place."""
    assert transformer.embed is not None

    def attention(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = torch.empty_like(v)
        for streams, rows in parts:
            output[rows] = streams[i](q[rows], k[rows], v[rows])
        return output

    x = transformer.embed(ids)[:, None]  # [row, 1, d_model]
    for i, layer in enumerate(transformer.layers):
        x = layer(x, partial(attention, i), first=place)[0]
    return transformer.final(x[:, 0])


def continued(
    transformer: Transformer,
    parts: list[Part],
    prompts: Sequence[Sequence[int]],
    n_tokens: int,
    choose: Callable[[list[int], list[int], Tensor], Tensor],
    shown: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> list[list[int]]:
    """n_tokens tokens after the prompt of each row, whose own tokens are read one by one as well.

    choose(rows, which, logits) gives the next token of each of these rows, out of the logits
    [row, token] of the vocabulary; which: whether it is the first that is chosen, 0, and so on.
    shown passes the places on, with progress.
    """
    assert transformer.token_logits is not None
    texts = [list(prompt) for prompt in prompts]
    last = max(map(len, prompts)) + n_tokens - 1
    for place in shown(range(last)):
        # a text that is complete reads its last token again, of which nothing comes
        ids = [text[min(place, len(text) - 1)] for text in texts]
        states = read_token(transformer, parts, ids, place)
        due = [
            row
            for row, (text, prompt) in enumerate(zip(texts, prompts))
            if len(text) == place + 1 < len(prompt) + n_tokens
        ]
        if due:
            which = [place + 1 - len(prompts[row]) for row in due]
            for row, token in zip(due, choose(due, which, transformer.token_logits(states[due]))):
                texts[row].append(int(token))
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts)]


def chosen_tokens(logits: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [row] drawn from softmax(logits / temperature); at temperature 0 the likeliest.

    logits [row, token]; temperature, uniform [row]. The inverse of the cumulative distribution, in
    the order of the vocabulary, of numbers uniform on 0 to 1: two networks that find the same
    tokens likely choose the same.
    """
    scaled = logits.double() / temperature.where(temperature > 0, 1)[:, None]
    below = torch.softmax(scaled, -1).cumsum(-1)
    total = below[:, -1:].contiguous()
    places = torch.searchsorted(below, uniform.double()[:, None] * total, right=True)
    places = places.minimum(torch.searchsorted(below, total))  # the last token that can be
    return places[:, 0].where(temperature > 0, logits.argmax(-1))
