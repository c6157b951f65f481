"""Numbers that say something about a written text."""

import math
import re
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise

import torch

from tripartite.pretrained.extraction import Transformer
from tripartite.pretrained.tokenizers import BYTE_LETTERS, bytes_of
from tripartite.pretrained.transformers import causal_attention

MEASURES = ("bits_per_character", "distinct_pairs", "known_words")
SPACE = BYTE_LETTERS[ord(" ")]
SIGNS = ".,;:!?'\"()[]-–—“”‘’"
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@torch.inference_mode()
def bits_per_character(
    transformer: Transformer, prompt: Sequence[int], written: Sequence[int]
) -> float:
    """-log2 p of the written tokens by the transformer itself, over their bytes; NaN of none."""
    if not written:
        return math.nan
    assert transformer.embed is not None and transformer.token_logits is not None
    ids = [*prompt, *written]
    x = transformer.embed(ids[:-1])
    for i, layer in enumerate(transformer.layers):
        x = layer(x, partial(causal_attention, i))[0]
    logits = transformer.token_logits(transformer.final(x[len(prompt) - 1 :])).double()
    log_p = logits.log_softmax(-1).gather(-1, torch.tensor([*written])[:, None])
    n_bytes = len(bytes_of(transformer.tokens[i] for i in written))
    return -float(log_p.sum()) / math.log(2) / n_bytes


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, such as don't."""
    return WORD.findall(text.lower())


def distinct_pairs(text: str) -> float:
    """Share of the pairs of neighbouring words that are distinct; 0 without a pair."""
    pairs = [*pairwise(words_of(text))]
    return len({*pairs}) / max(1, len(pairs))


def whole_words(tokens: Iterable[str]) -> set[str]:
    """The words of a vocabulary, in small letters: its tokens of a space and letters."""
    return {name[1:].lower() for name in tokens if name[0] == SPACE and WORD.fullmatch(name[1:])}


def known_words(text: str, known: set[str]) -> float:
    """Share of the pieces between white space that are known words; 0 of an empty text.

    Signs at the ends of a piece, and capitals, do not count.
    """
    pieces = [piece.lower().strip(SIGNS) for piece in text.split()]
    return sum(piece in known for piece in pieces) / max(1, len(pieces))
