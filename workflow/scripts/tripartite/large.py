"""Arrays that a job does not hold: computed, kept on disk, checked and written in blocks.

A stage that makes large arrays fills what `room` gives it (job.room), head by head, and returns it
as part of its dataset; job.save writes it in blocks. job.load leaves large arrays in their file.
"""

import math
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

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


class OnDisk(BackendArray):
    """An array in a file without a name, which ends with the array or with the process.

    Parts are read and written by ints and slices, also by several threads.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, folder: Path) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder)
        weakref.finalize(self, self._file.close)
        n_bytes = math.prod(self.shape) * self.dtype.itemsize
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, not a crash later
            os.posix_fallocate(self._file.fileno(), 0, n_bytes)
        else:
            self._file.truncate(n_bytes)

    def _mapped(self, mode: Any) -> np.memmap:
        return np.memmap(self._file, self.dtype, mode, shape=self.shape)

    def __setitem__(self, index: tuple, values: Any) -> None:
        self._mapped("r+")[index] = values

    def __getitem__(self, key: Any) -> np.ndarray:
        if not isinstance(key, indexing.ExplicitIndexer):
            return self._read(key)
        basic = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(key, self.shape, basic, self._read)

    def _read(self, key: tuple) -> np.ndarray:
        return np.array(self._mapped("r")[key])  # a mapping that stays would count as memory
