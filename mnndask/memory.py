"""What glibc does with freed memory."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGE = 2**23  # bytes


def return_large_blocks() -> None:
    """Have large blocks given back when they are freed; a setting of the process, so for the command only.

    By default glibc comes to keep blocks of up to 32 MiB, such as chunks, on heaps that fragment: memory then
    grows with the length of the run. Smaller ones, such as what a stored chunk holds, are better kept: each
    page that is given back has to be cleared when it is had again. For the same reason a heap keeps twice as
    much at its end, as it does by default.
    """
    _call("mallopt", MMAP_THRESHOLD, LARGE)
    _call("mallopt", TRIM_THRESHOLD, 2 * LARGE)  # else 128 kB, once the other is set


def return_freed() -> None:
    """Give back what is free now, of small blocks too."""
    gc.collect()
    _call("malloc_trim", 0)


def _call(name: str, *args: Any) -> None:
    try:
        getattr(ctypes.CDLL(None), name)(*args)
    except (AttributeError, OSError, TypeError):  # another C library
        return
