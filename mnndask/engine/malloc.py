"""Settings of glibc's allocator: when freed memory returns to the system."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # constants of malloc.h
LARGE = 2**23  # bytes
SHARE_OF_HEAP = 16  # heaps keep at most about this part of the memory limit


def return_large_blocks() -> None:
    """Return large blocks to the system when they are freed. Process-wide, hence for the command only.

    By default glibc comes to keep blocks of up to 32 MiB, such as chunks, on heaps that fragment: memory then
    grows with the length of the run. Smaller blocks, such as stored chunks, are better kept, because the
    system clears each page that is returned before it is allocated again. For the same reason a heap keeps
    twice as much at its end, as it does by default.
    """
    _call("mallopt", MMAP_THRESHOLD, LARGE)
    _call("mallopt", TRIM_THRESHOLD, 2 * LARGE)  # setting the other one resets this to 128 kB


def limit_heaps(limit: int) -> None:
    """Have threads share heaps if memory is scarce. Process-wide, for threads that have yet to allocate any.

    By default glibc gives each thread a heap of its own, up to eight for each processor. What they keep of
    freed memory would take most of a limit of 150 MB.
    """
    _call("mallopt", ARENA_MAX, max(1, min(limit // (SHARE_OF_HEAP * 2 * LARGE), 2**16)))


def return_freed() -> None:
    """Return all free memory to the system, small blocks included."""
    gc.collect()
    _call("malloc_trim", 0)


def _call(name: str, *args: Any) -> None:
    try:
        getattr(ctypes.CDLL(None), name)(*args)
    except (AttributeError, OSError, TypeError):  # another C library
        return
