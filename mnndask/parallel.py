"""Threads: row blocks of in-memory work, and one BLAS thread inside each of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TypeVar

import joblib
from threadpoolctl import ThreadpoolController

T = TypeVar("T")

FEWEST_ROWS = 64


def effective_n_jobs(n_jobs: int | None) -> int:
    """Number of threads that `n_jobs` asks for: all processors for None, counted from the end if negative."""
    return int(joblib.effective_n_jobs(-1 if n_jobs is None else n_jobs))


def block_rows(columns: int, itemsize: int, n_bytes: int) -> int:
    """Rows of a block whose temporaries have `columns` columns in all and take so many bytes."""
    return max(FEWEST_ROWS, n_bytes // max(1, columns * itemsize))


def row_blocks(n_rows: int, rows: int) -> list[slice]:
    """Cut ``range(n_rows)`` into slices of at most `rows`."""
    return [slice(start, min(start + rows, n_rows)) for start in range(0, n_rows, rows)]


def shared_blocks(n_rows: int, n_jobs: int | None, most: int | None = None) -> list[slice]:
    """Cut ``range(n_rows)`` so that each thread has some, unless they are few; slices of at most `most`."""
    share = max(FEWEST_ROWS, -(-n_rows // effective_n_jobs(n_jobs)))
    return row_blocks(n_rows, share if most is None else min(share, most))


def map_blocks(function: Callable[[slice], T], blocks: list[slice], n_jobs: int | None) -> list[T]:
    """Call `function` on every block, on threads, each with one BLAS thread; results in order."""

    def one(block: slice) -> T:
        with single_threaded_blas():
            return function(block)

    n_threads = min(effective_n_jobs(n_jobs), len(blocks))
    with single_threaded_blas():
        if n_threads <= 1:
            return [function(block) for block in blocks]
        with ThreadPoolExecutor(n_threads) as pool:
            return list(pool.map(one, blocks))


class _Keeper:
    """Holds the process's BLAS at one thread while anyone is inside.

    OpenBLAS's limit is the process's. Were each task to restore what it found, tasks that overlap would leave
    one thread for good; and threadpoolctl heeds only the first thread that sets it. So a thread of its own
    sets it for the first task to come in, and lifts it after the last.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.done = threading.Event()
        self.thread: threading.Thread | None = None

    def enter(self) -> None:
        with self.lock:
            if self.users == 0:
                limited, self.done = threading.Event(), threading.Event()
                self.thread = threading.Thread(target=self._hold, args=(limited, self.done), daemon=True)
                self.thread.start()
                limited.wait()
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0 and self.thread is not None:
                self.done.set()
                self.thread.join()

    def _hold(self, limited: threading.Event, done: threading.Event) -> None:
        with _controller().limit(limits=1, user_api="blas"):
            limited.set()
            done.wait()


_keeper = _Keeper()


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@cache
def _is_each_threads_own() -> bool:
    """Whether the limit is each thread's own, as where BLAS runs on OpenMP, and not the process's."""
    libraries = _controller().select(user_api="blas").info()
    return any(library.get("threading_layer") != "pthreads" for library in libraries)


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Keep BLAS to one thread while any caller is inside."""
    _keeper.enter()
    try:
        with _controller().limit(limits=1, user_api="blas") if _is_each_threads_own() else nullcontext():
            yield
    finally:
        _keeper.leave()
