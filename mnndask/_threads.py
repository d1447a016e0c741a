"""Threads: row blocks of in-memory work, and one BLAS thread inside each of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, TypeVar

import joblib
from threadpoolctl import ThreadpoolController

from mnndask._blocks import FEWEST_ROWS, row_blocks
from mnndask._resources import usable_processors

T = TypeVar("T")


def effective_n_jobs(n_jobs: int | None) -> int:
    """Number of threads that `n_jobs` asks for: all processors for None, counted from the end if negative.

    Only processors that this process may use count. It reads files of the system: ask once a call.
    """
    n = -1 if n_jobs is None else n_jobs
    asked = int(joblib.effective_n_jobs(n))  # knows LOKY_MAX_CPU_COUNT and joblib's settings
    return asked if n > 0 else max(1, min(asked, usable_processors() + 1 + n))


def shared_blocks(n_rows: int, n_threads: int, most: int | None = None) -> list[slice]:
    """Cut ``range(n_rows)`` so that each thread has some, unless they are few; slices of at most `most`."""
    share = max(FEWEST_ROWS, -(-n_rows // n_threads))
    return row_blocks(n_rows, share if most is None else min(share, most))


def map_blocks(function: Callable[[slice], T], blocks: list[slice], n_threads: int) -> list[T]:
    """Call `function` on every block, on threads, each with one BLAS thread; results in order.

    If one fails, or this thread is interrupted, blocks that are under way are waited for. A function that
    calls this again works on its own thread; it must not wait for another thread that does.
    """
    with single_threaded_blas():
        if min(n_threads, len(blocks)) <= 1 or getattr(_in_pool, "value", False):
            return [function(block) for block in blocks]
        futures = [_pool(n_threads).submit(_on_thread, function, block) for block in blocks]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            wait(futures)


_in_pool = threading.local()


def _on_thread(function: Callable[[slice], T], block: slice) -> T:
    _in_pool.value = True  # what it calls works on this thread
    with _own_blas_limit():
        return function(block)


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    """Threads that wait for work: to start them takes longer than the work of a small call."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="mnndask")


class _BlasLimit:
    """Limits BLAS to one thread, process-wide, while at least one caller is active.

    OpenBLAS's limit is the process's. Were each task to restore what it found, tasks that overlap would leave
    one thread for good; and threadpoolctl lets only the thread that set a limit change it. So a thread of its
    own sets it for the first caller, and lifts it after the last.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.callers = 0
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="mnndask-blas")
        self.limiter: Any = None

    def enter(self) -> None:
        with self.lock:
            self.callers += 1
            try:
                if self.callers == 1:
                    self._run(self._set)
            except BaseException:  # an interrupt while the thread sets the limit
                self.callers -= 1
                if self.callers == 0:
                    self._run(self._lift)
                raise

    def leave(self) -> None:
        with self.lock:
            self.callers -= 1
            if self.callers == 0:
                self._run(self._lift)

    def _run(self, function: Callable[[], None]) -> None:
        try:
            future = self.thread.submit(function)
        except RuntimeError:  # the interpreter is ending, and starts no work on threads any more
            return
        future.result()

    def _set(self) -> None:
        self.limiter = _controller().limit(limits=1, user_api="blas")

    def _lift(self) -> None:
        if self.limiter is not None:
            self.limiter.restore_original_limits()
            self.limiter = None


_blas_limit = _BlasLimit()


def _after_fork() -> None:
    """Threads do not outlive a fork: begin anew."""
    global _blas_limit
    if _blas_limit.limiter is not None:  # the parent was at work
        _blas_limit.limiter.restore_original_limits()
    _blas_limit = _BlasLimit()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@cache
def _is_each_threads_own() -> bool:
    """Whether the limit is each thread's own, as where BLAS runs on OpenMP, and not the process's."""
    libraries = _controller().select(user_api="blas").info()
    return any(library.get("threading_layer") != "pthreads" for library in libraries)


def _own_blas_limit() -> Any:
    """Limit of this thread alone, where BLAS has such."""
    return _controller().limit(limits=1, user_api="blas") if _is_each_threads_own() else nullcontext()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit BLAS to one thread while any caller is inside."""
    limit = _blas_limit
    limit.enter()
    try:
        with _own_blas_limit():
            yield
    finally:
        limit.leave()
