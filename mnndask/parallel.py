"""Threads: row blocks of in-memory work, and one BLAS thread inside each of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import joblib
from threadpoolctl import ThreadpoolController

T = TypeVar("T")

BLOCK_BYTES = 64 * 2**20  # temporaries of one block of rows
FEWEST_ROWS = 64


def effective_n_jobs(n_jobs: int | None) -> int:
    """Number of threads that `n_jobs` asks for: all processors for None, counted from the end if negative."""
    return int(joblib.effective_n_jobs(-1 if n_jobs is None else n_jobs))


def block_rows(columns: int, itemsize: int) -> int:
    """Rows of a block whose temporaries have `columns` columns in all."""
    return max(FEWEST_ROWS, BLOCK_BYTES // max(1, columns * itemsize))


def row_blocks(n_rows: int, rows: int) -> list[slice]:
    """Cut ``range(n_rows)`` into slices of at most `rows`."""
    return [slice(start, min(start + rows, n_rows)) for start in range(0, n_rows, rows)]


def map_blocks(function: Callable[[slice], T], blocks: list[slice], n_jobs: int | None) -> list[T]:
    """Call `function` on every block, on threads, each with one BLAS thread; results in order."""
    with single_threaded_blas():
        n_threads = min(effective_n_jobs(n_jobs), len(blocks))
        if n_threads <= 1:
            return [function(block) for block in blocks]
        with ThreadPoolExecutor(n_threads) as pool:
            return list(pool.map(function, blocks))


_lock = threading.Lock()
_held: dict[str, Any] = {"users": 0, "limit": None}


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Keep BLAS to one thread while any caller is inside.

    The limit is the process's, so concurrent tasks share it: the first sets it and the last lifts it. (Each
    restoring what it found would leave one thread for good when they overlap.)
    """
    with _lock:
        if _held["users"] == 0:
            _held["limit"] = _controller().limit(limits=1, user_api="blas")
        _held["users"] += 1
    try:
        yield
    finally:
        with _lock:
            _held["users"] -= 1
            if _held["users"] == 0:
                _held["limit"].restore_original_limits()
