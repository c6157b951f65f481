"""What networks are trained to do: characters of books, associative recall, classes of series.

A task is plain data and one function that draws a batch. Every number that a network is compared
with is computed on the very targets on which the network is tested, or is published.
"""

import math
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tripartite.contracts import UserError
from tripartite.kinds.trained import books, series
from tripartite.streams import stream

Batch = tuple[Tensor, Tensor]  # inputs and targets

IGNORED = -100  # a target that nobody asks for, as in torch's cross_entropy
SCORED = {"validation": 4096, "test": 16384}  # characters of books, about
ROWS = {"validation": 64, "test": 256}  # of associative recall
N_KEYS = 32  # of associative recall at least, and as many values
ORDERS = (0, 1, 3, 5)  # numbers of letters before, which predict the next one
# Loss of 1.88 nats on the characters of Shakespeare after 3 minutes on a processor, by 4 layers of
# width 128 with a context of 64 (README of nanoGPT, github.com/karpathy/nanoGPT).
NANOGPT = 1.88 / math.log(2)


class Task(NamedTuple):
    """One task, with its title in figures.

    Inputs [n, T] are numbers of symbols (int64), or real numbers (float32) where n_symbols is 0.
    Targets (int64) are [n, T], IGNORED where nothing is asked, or [n], one for each sequence.
    draw(rng, n) gives a batch of training data; validation and test are fixed. causal: a token may
    read only what came before. baselines: scores by name, in the unit of the task. letters are the
    characters in the order of their numbers, training_text what was trained on, both empty for
    tasks without a text.
    """

    title: str
    n_symbols: int
    n_outputs: int
    n_tokens: int
    causal: bool
    draw: Callable[[np.random.Generator, int], Batch]
    validation: Batch
    test: Batch
    unit: str
    baselines: dict[str, float]
    letters: str = ""
    training_text: str = ""


def open_task(task: str, archives: dict[str, zipfile.ZipFile], context: int) -> Task:
    """The task of this name: books, recall or series.

    archives are its wheels by package, context the tokens of an input (series have their own).
    UserError if a wheel is not what it should be, or if the context does not fit.
    """
    return TASKS[task](archives, context)


def prompts(task: Task, texts: list[str]) -> list[list[int]]:
    """The numbers of the letters of each prompt; UserError for one that the task cannot read."""
    numbers = []
    for text in texts:
        if not text:
            raise UserError("prompts: got an empty prompt, wanted at least one letter")
        try:
            numbers.append(books.numbers(text, task.letters).tolist())
        except UserError as error:
            raise UserError(f"prompts: {text!r}: {error}") from None
    return numbers


def open_books(archives: dict[str, zipfile.ZipFile], context: int) -> Task:
    """The next character of the King James Bible, of books that were not trained on.

    Windows of the training text are drawn anywhere. Windows that test lie at even distances in the
    held-out books; their second half is asked, so that every character asked has at least context
    / 2 characters before it. Baselines read the same characters.
    """
    text = books.read(_wheel(archives, books.WHEEL))
    training, validation, test = (books.numbers(part, text.letters) for part in text[:3])
    if context > len(validation) // 2:
        raise UserError(
            f"context: got {context}, wanted at most {len(validation) // 2}, half of the "
            f"{len(validation)} characters of the books that validate"
        )

    def draw(rng: np.random.Generator, n: int) -> Batch:
        return _windows(training, rng.integers(len(training) - context, size=n), context)

    def held_out(part: np.ndarray, n_scored: int) -> tuple[Batch, np.ndarray]:
        unasked = context // 2
        n = -(-n_scored // (context - unasked))
        starts = np.linspace(0, len(part) - context - 1, n).round().astype(np.int64)
        inputs, targets = _windows(part, starts, context)
        targets[:, :unasked] = IGNORED
        return (inputs, targets), (starts[:, None] + np.arange(unasked, context) + 1).ravel()

    (validating, _), (testing, asked) = (
        held_out(part, n) for part, n in zip((validation, test), SCORED.values())
    )
    bits = books.n_gram_bits(training, test, asked, max(ORDERS) + 1, len(text.letters)).mean(1)
    baselines = {
        **{f"{k} letter{'s' * (k != 1)} before": float(bits[k]) for k in ORDERS},
        "bz2 of the test text": books.packed_bits(text.test),
        "nanoGPT on Shakespeare": NANOGPT,
    }
    return Task(
        title="King James Bible",
        n_symbols=len(text.letters),
        n_outputs=len(text.letters),
        n_tokens=context,
        causal=True,
        draw=draw,
        validation=validating,
        test=testing,
        unit="bits per character",
        baselines=baselines,
        letters=text.letters,
        training_text=text.training,
    )


def _windows(text: np.ndarray, starts: np.ndarray, context: int) -> Batch:
    """Characters from each start on, and the ones that follow them."""
    places = starts[:, None] + np.arange(context + 1)
    window = torch.from_numpy(text[places])
    return window[:, :-1].contiguous(), window[:, 1:].contiguous()


def open_recall(archives: dict[str, zipfile.ZipFile], context: int) -> Task:
    """Multi-query associative recall (Arora et al., Zoology, ICLR 2024, section 3).

    A row has P pairs of a key and a value, then all its keys in another order; at each of these
    its value is asked. With P = 3, keys a to d and values w to z:

        inputs   a y  c w  d z | d  a  c
        targets  . .  . .  . . | z  y  w

    P = context / 3, rounded down. No key and no value comes twice among the pairs of a row. What
    validates and tests is the same in all studies.
    """
    n_pairs = context // 3
    if n_pairs < 2:
        raise UserError(f"context: got {context}, wanted at least 6, two pairs and their keys")
    n_keys = max(N_KEYS, n_pairs)

    def draw(rng: np.random.Generator, n: int) -> Batch:
        keys, values = (
            rng.permuted(np.tile(np.arange(n_keys), (n, 1)), axis=1)[:, :n_pairs] for _ in range(2)
        )
        values += n_keys
        asked = rng.permuted(np.tile(np.arange(n_pairs), (n, 1)), axis=1)
        pairs = np.stack([keys, values], -1).reshape(n, -1)
        inputs = np.concatenate([pairs, np.take_along_axis(keys, asked, 1)], 1)
        targets = np.full_like(inputs, IGNORED)
        targets[:, 2 * n_pairs :] = np.take_along_axis(values, asked, 1)
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    return Task(
        title=f"recall of {n_pairs} pairs",
        n_symbols=2 * n_keys,
        n_outputs=2 * n_keys,
        n_tokens=3 * n_pairs,
        causal=True,
        draw=draw,
        validation=draw(stream(0, "recall", "validation"), ROWS["validation"]),
        test=draw(stream(0, "recall", "test"), ROWS["test"]),
        unit="accuracy",
        baselines={"any value": 1 / n_keys, "a value of the row": 1 / n_pairs},
    )


def open_series(archives: dict[str, zipfile.ZipFile], context: int) -> Task:
    """The class of a series of MNIST-1D, each number a token that may read all others.

    The test part is the published one; the last series of the training part validate.
    """
    x, y, n_training = series.read(_wheel(archives, series.WHEEL))
    n_fitted = n_training - series.N_VALIDATION
    inputs, targets = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)

    def draw(rng: np.random.Generator, n: int) -> Batch:
        drawn = torch.from_numpy(rng.integers(n_fitted, size=n))
        return inputs[drawn], targets[drawn]

    nearest = series.nearest_neighbour(x[:n_fitted], y[:n_fitted], x[n_training:], y[n_training:])
    return Task(
        title="MNIST-1D",
        n_symbols=0,
        n_outputs=series.N_CLASSES,
        n_tokens=x.shape[1],
        causal=False,
        draw=draw,
        validation=(inputs[n_fitted:n_training], targets[n_fitted:n_training]),
        test=(inputs[n_training:], targets[n_training:]),
        unit="accuracy",
        baselines={
            "any class": 1 / series.N_CLASSES,
            "nearest series": nearest,
            **{f"{name} (published)": score for name, score in series.PUBLISHED.items()},
        },
    )


def _wheel(archives: dict[str, zipfile.ZipFile], package: str) -> zipfile.ZipFile:
    if package not in archives:
        raise UserError(f"the wheel of {package} is missing; wanted it among the raw files")
    return archives[package]


TASKS = {"books": open_books, "recall": open_recall, "series": open_series}
