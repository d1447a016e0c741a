"""Stored chunks that two neighbouring blocks of a sparse matrix need are decoded once.

Blocks have as many rows as a chunk of the output, and stored chunks as many values as another program chose,
so that blocks begin and end within one. Tasks of a process pass it on, even while it is being decoded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from operator import itemgetter
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 2**25  # that a process keeps
LARGEST = 2**23  # bytes of a chunk that is kept

Values = NDArray[Any]


@dataclass(frozen=True)
class _Chunk:
    first: int  # range of its values in the array
    last: int
    values: Future[Values | None]  # None if reading them failed

    def part(self, array: Any, start: int, stop: int) -> tuple[int, Values]:
        """Return where its part of a range begins, and its values, once they have been read."""
        start, stop = max(start, self.first), min(stop, self.last)
        values = self.values.result()
        return start, array[start:stop] if values is None else values[start - self.first : stop - self.first]


class SharedChunks:
    """Chunks of stored arrays that a block has used only a part of, until another block takes them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, _Chunk] = OrderedDict()
        self._lock = Lock()

    def read(
        self,
        array: Any,
        start: int,
        stop: int,
        key_of: Callable[[int], Hashable | None],
        check: Callable[[int, int], None],
    ) -> Values:
        """Return values of a one-dimensional array. Chunks at the ends of the range are passed on.

        Parameters
        ----------
        array
            Array of an open zarr store or HDF5 file.
        start, stop
            Range of the values.
        key_of
            Returns what tells a chunk, by its number, from all others and from itself in another version;
            None if nothing does.
        check
            Called with a range that was read, before others get any of it. Its errors are raised.
        """
        own, others = self._taken(array, _cut(array, start, stop), key_of)
        low = min([start, *(chunk.first for chunk in own)])
        high = max([stop, *(chunk.last for chunk in own)])
        for chunk in others:
            low, high = (chunk.last, high) if chunk.first < start else (low, chunk.first)
        values = _read_for_all(array, low, high, own, check)
        inside = max(start, low)
        parts = [(inside, values[inside - low : stop - low])]
        parts += [chunk.part(array, start, stop) for chunk in others]
        parts.sort(key=itemgetter(0))
        return (
            values[inside - low : stop - low] if not others else np.concatenate([part for _, part in parts])
        )

    def _taken(
        self, array: Any, numbers: list[int], key_of: Callable[[int], Hashable | None]
    ) -> tuple[list[_Chunk], list[_Chunk]]:
        """Return chunks that the caller has to read for others, and those that others read or have read."""
        keys = {number: key for number in numbers if (key := key_of(number)) is not None}
        n_bytes = _chunk_bytes(array)
        own, others = [], []
        with self._lock:
            for number, key in keys.items():
                if key in self._kept:
                    others.append(self._kept.pop(key))
                    continue
                first = number * array.chunks[0]
                chunk = _Chunk(first, min(first + array.chunks[0], array.shape[0]), Future())
                self._kept[key] = chunk
                own.append(chunk)
            while len(self._kept) * n_bytes > MOST_BYTES:
                self._kept.popitem(last=False)
        return own, others


def _chunk_bytes(array: Any) -> int:
    return int(array.chunks[0]) * int(array.dtype.itemsize) if array.chunks else 0


def _cut(array: Any, start: int, stop: int) -> list[int]:
    """Return the numbers of the small chunks at the ends of a range that are not whole in it."""
    if not 0 < _chunk_bytes(array) <= LARGEST or stop <= start:
        return []
    n_each = array.chunks[0]
    if start // n_each == (stop - 1) // n_each:  # one chunk
        return []
    return [at // n_each for at in (start, stop) if at % n_each and at < array.shape[0]]


def _read_for_all(
    array: Any, low: int, high: int, chunks: list[_Chunk], check: Callable[[int, int], None]
) -> Values:
    """Read a range, check it, and give others the chunks in it."""
    try:
        values = np.asarray(array[low:high])
        check(low, high)
        for chunk in chunks:
            chunk.values.set_result(values[chunk.first - low : chunk.last - low].copy())
        return values
    finally:
        for chunk in chunks:
            if not chunk.values.done():  # who waits for it reads it, and meets the error itself
                chunk.values.set_result(None)


SHARED = SharedChunks()
