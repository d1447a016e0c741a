"""Buffers that one block of cells after the other uses: the system would clear new memory each time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mnndask._typing import Floats

_of_thread = threading.local()


@contextmanager
def reuse_buffers() -> Iterator[None]:
    """Within this context, the thread uses the same memory for all temporaries of one name."""
    before, _of_thread.buffers = getattr(_of_thread, "buffers", None), {}
    try:
        yield
    finally:
        _of_thread.buffers = before


def buffer(name: str, shape: tuple[int, int], dtype: np.dtype) -> Floats:
    """Uninitialised matrix; within :func:`reuse_buffers`, it shares memory with the last one of that name."""
    buffers: dict[str, Floats] | None = getattr(_of_thread, "buffers", None)
    if buffers is None:
        return np.empty(shape, dtype)
    size = shape[0] * shape[1]
    if name not in buffers or buffers[name].size < size or buffers[name].dtype != dtype:
        buffers[name] = np.empty(size, dtype)
    return buffers[name][:size].reshape(shape)


def products(name: str, A: Floats, B: Floats, out: Floats | None = None) -> Floats:
    """Inner products of the rows of two matrices, in a buffer of that name unless `out` is given."""
    if out is None:
        out = buffer(name, (len(A), len(B)), A.dtype)
    np.matmul(A, B.T, out=out)
    return out
