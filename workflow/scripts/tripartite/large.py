"""Arrays that a job does not hold: computed, kept on disk, checked and written in blocks.

A stage that makes large arrays fills what `room` gives it (job.room), head by head, and returns it
as part of its dataset; job.save writes it in blocks. job.load leaves large arrays in their file.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

LARGE_BYTES = 1 << 27  # an array with more is not held
BLOCK_BYTES = 1 << 22  # of a large array that are held at a time, if a head is not larger

Room = Callable[[tuple[int, ...], Any], Any]  # of shape and dtype, such as np.empty


def blocks(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple]:
    """Indices that cut an array, in C order, into blocks of at most BLOCK_BYTES."""
    n_bytes, n_axes = math.prod(shape) * itemsize, 0
    while n_bytes > BLOCK_BYTES and n_axes < len(shape):
        n_bytes //= shape[n_axes]
        n_axes += 1
    if not n_axes:
        yield ()
        return
    rows = max(1, BLOCK_BYTES // max(1, n_bytes))
    for index in np.ndindex(shape[: n_axes - 1]):
        for start in range(0, shape[n_axes - 1], rows):
            yield *index, slice(start, start + rows)


def chunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the parts of a large array that are compressed by themselves: the last two axes.

    Of queries, keys and values it is one head that reads one input.
    """
    return (1,) * len(shape[:-2]) + shape[-2:]


def filled(room: Room, shape: tuple[int, ...], dtype: Any, value: Any) -> Any:
    """An array that has the same value everywhere."""
    array = room(shape, dtype)
    for index in blocks(shape, np.dtype(dtype).itemsize):
        array[index] = value
    return array


def search(
    values: Any, mask: np.ndarray, wrong: Callable[[np.ndarray], np.ndarray]
) -> tuple[tuple[int, ...], int]:
    """The first place at a token where `wrong` is true, and their number; (), 0 without one.

    values [input, layer, head, token, d], anything that gives a part of itself for an index; mask
    [input, token].
    """
    token = np.broadcast_to(mask[:, None, None, :, None], values.shape)
    first, count, begin = None, 0, 0
    for index in blocks(values.shape, values.dtype.itemsize):
        bad = wrong(np.asarray(values[index])) & token[index]
        if bad.any():
            first = begin + int(bad.argmax()) if first is None else first
            count += int(bad.sum())
        begin += bad.size
    if first is None:
        return (), 0
    return tuple(map(int, np.unravel_index(first, values.shape))), count
