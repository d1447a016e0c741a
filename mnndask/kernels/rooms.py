"""Room for temporaries that blocks of cells use one after the other: new memory has to be cleared first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mnndask.kernels.distances import Floats

_of_thread = threading.local()


@contextmanager
def rooms() -> Iterator[None]:
    """Within it, this thread uses the same memory for temporaries of one name."""
    before, _of_thread.held = getattr(_of_thread, "held", None), {}
    try:
        yield
    finally:
        _of_thread.held = before


def room(name: str, shape: tuple[int, int], dtype: np.dtype) -> Floats:
    """Uninitialised matrix; within :func:`rooms`, it shares memory with the last one of that name."""
    held: dict[str, Floats] | None = getattr(_of_thread, "held", None)
    if held is None:
        return np.empty(shape, dtype)
    size = shape[0] * shape[1]
    if name not in held or held[name].size < size or held[name].dtype != dtype:
        held[name] = np.empty(size, dtype)
    return held[name][:size].reshape(shape)


def products(name: str, A: Floats, B: Floats) -> Floats:
    """Inner products of rows of two matrices, in a room of that name."""
    out = room(name, (len(A), len(B)), A.dtype)
    np.matmul(A, B.T, out=out)
    return out
