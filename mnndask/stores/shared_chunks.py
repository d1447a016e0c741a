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
Read = Callable[[int, int], Values]


@dataclass(frozen=True)
class _Chunk:
    first: int  # range of its values in the array
    last: int
    n_bytes: int
    values: Future[Values | None]  # None if reading them failed

    def part(self, start: int, stop: int, read: Read) -> tuple[int, Values]:
        """Return where its part of a range begins, and its values, once they have been read."""
        start, stop = max(start, self.first), min(stop, self.last)
        if (values := self.values.result()) is None:
            return start, read(start, stop)
        return start, values[start - self.first : stop - self.first]


class SharedChunks:
    """Chunks of stored arrays that a block has used only a part of, until another block takes them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, _Chunk] = OrderedDict()
        self._n_bytes = 0
        self._lock = Lock()

    def read(
        self,
        array: Any,
        start: int,
        stop: int,
        key_of: Callable[[int], Hashable | None],
        read: Read,
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
        read
            Called with a range; returns its values, once it is sure of their version. Its errors are raised.
        """
        own: list[_Chunk] = []
        try:
            others = self._taken(array, _cut(array, start, stop), key_of, own)
            low = min([start, *(chunk.first for chunk in own)])
            high = max([stop, *(chunk.last for chunk in own)])
            for chunk in others:
                low, high = (chunk.last, high) if chunk.first < start else (low, chunk.first)
            values = read(low, high) if low < high else np.empty(0, array.dtype)  # others read all of it
            for chunk in own:
                chunk.values.set_result(values[chunk.first - low : chunk.last - low].copy())
        finally:
            for chunk in own:
                if not chunk.values.done():  # who waits for it reads it, and meets the error itself
                    chunk.values.set_result(None)
        inside = max(start, low)
        parts = [(inside, values[inside - low : stop - low])]
        parts += [chunk.part(start, stop, read) for chunk in others]
        parts.sort(key=itemgetter(0))
        return np.concatenate([part for _, part in parts]) if others else parts[0][1]

    def _taken(
        self, array: Any, numbers: list[int], key_of: Callable[[int], Hashable | None], own: list[_Chunk]
    ) -> list[_Chunk]:
        """Return chunks that others read or have read; add those that the caller has to read to `own`."""
        keys = {number: key for number in numbers if (key := key_of(number)) is not None}
        n_bytes = _chunk_bytes(array)
        others = []
        with self._lock:
            for number, key in keys.items():
                if key in self._kept:
                    others.append(self._kept.pop(key))
                    self._n_bytes -= others[-1].n_bytes
                    continue
                first = number * array.chunks[0]
                own.append(_Chunk(first, min(first + array.chunks[0], array.shape[0]), n_bytes, Future()))
                self._kept[key] = own[-1]
                self._n_bytes += n_bytes
            while self._n_bytes > MOST_BYTES:
                self._n_bytes -= self._kept.popitem(last=False)[1].n_bytes
        return others


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


SHARED = SharedChunks()
