"""Progress of long work: a live line for each stage in a terminal or a notebook, and logged.

A stage is of the context that opened it, not of the process: calls on several threads do not see each
other's. What works on other threads is handed its line by :func:`counted`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from mnndask.cluster import active_client

T = TypeVar("T")

logger = logging.getLogger(__name__)

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {rate_noinv_fmt} [{elapsed}<{remaining}]"  # fits 80 columns
COLUMNS, ROWS = 80, 24  # of a terminal that does not say
POLL_SECONDS = 0.2  # between looks at what a cluster has finished
ERASE_TO_END = "\x1b[K"  # a terminal shows ^C behind the line


class Line:
    """Progress of one stage; any thread may advance it.

    Parameters
    ----------
    title, unit
        What is done, and to what.
    total
        How many there are.
    passes
        How often each is counted.
    shown
        Whether there is a line to see.
    """

    def __init__(self, title: str, total: int, unit: str, passes: float, *, shown: bool) -> None:
        self.total, self.passes, self.done = total, passes, 0.0
        self.lock = threading.Lock()
        self.bar = _bar(title, total, unit) if shown else None

    def advance(self, n: float) -> None:
        """Tell that so many are done, once."""
        with self.lock:
            if self.bar is not None:
                self.done = min(self.total, self.done + n / self.passes)
                self.bar.update(int(self.done) - self.bar.n)

    def close(self, *, finished: bool) -> None:
        """Leave the line if the stage is finished, else remove it; what threads still do changes nothing."""
        with self.lock:
            bar, self.bar = self.bar, None
            if bar is None:
                return
            if finished:
                bar.update(self.total - bar.n)
            bar.leave = finished
            bar.close()
            if not finished and sys.stderr.isatty():
                sys.stderr.write(ERASE_TO_END)
                sys.stderr.flush()


_shown: ContextVar[bool] = ContextVar("mnndask_progress_shown", default=False)
_line: ContextVar[Line | None] = ContextVar("mnndask_progress_line", default=None)


@contextmanager
def showing(asked: bool | None) -> Iterator[None]:
    """Show stages, or do not; None shows them where someone may be looking: in a terminal or a notebook."""
    token = _shown.set(_is_watched() if asked is None else bool(asked))
    try:
        yield
    finally:
        _shown.reset(token)


@contextmanager
def told() -> Iterator[None]:
    """Where no terminal shows live lines, say each stage that is done in a line of its own on stderr."""
    if sys.stderr is None or sys.stderr.isatty():
        yield
        return
    handler, level = logging.StreamHandler(), logger.level
    handler.setFormatter(logging.Formatter("mnndask: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _is_watched() -> bool:
    return "ipykernel.zmqshell" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())


@contextmanager
def stage(title: str, total: int, unit: str = "cells", *, passes: float = 1) -> Iterator[None]:
    """Do a stage of the work; what is counted inside moves its line.

    Parameters
    ----------
    title, total, unit, passes
        As of :class:`Line`; without anything to do there is no line.
    """
    if not total:
        yield
        return
    line = Line(title, total, unit, passes, shown=_shown.get())
    token, start = _line.set(line), time.perf_counter()
    try:
        yield
        line.close(finished=True)
    finally:
        _line.reset(token)
        line.close(finished=False)  # unless it was
    logger.info("%s: %s %s in %.1f s", title, f"{total:,}", unit, time.perf_counter() - start)


def advance(n: float) -> None:
    """Tell the stage at hand that so many are done."""
    line = _line.get()
    if line is not None:
        line.advance(n)


def counted(
    function: Callable[..., T], rows: Callable[..., float] | None = None, weight: float = 1
) -> Callable[..., T]:
    """Same function; the stage at hand advances with each call of it, on whatever thread.

    In other processes nothing is counted: see :func:`watched`.

    Parameters
    ----------
    function
        Anything.
    rows
        How many a call does, from its arguments. By default the first is a slice of them.
    weight
        What each counts.
    """
    line = _line.get()
    if line is None or line.bar is None or not weight:
        return function
    return _Counted(function, rows or _length, weight, line)


def counted_blocks(blocks: Iterable[slice], line: Line | None) -> Iterator[slice]:
    """Same blocks; a line advances when the next is asked for."""
    for block in blocks:
        yield block
        if line is not None:
            line.advance(_length(block))


def current_line() -> Line | None:
    """Line of the stage at hand, for threads that are about to start."""
    return _line.get()


class _Counted(Generic[T]):
    def __init__(
        self, function: Callable[..., T], rows: Callable[..., float], weight: float, line: Line
    ) -> None:
        self.function, self.rows, self.weight, self.line = function, rows, weight, line

    def __call__(self, *args: Any) -> T:
        out = self.function(*args)
        self.line.advance(self.weight * self.rows(*args))
        return out

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Leave the line here: it is no use to other processes."""
        return _itself, (self.function,)


def _itself(function: T) -> T:
    return function


def _length(block: slice, *_: Any) -> int:
    return int(block.stop - block.start)


@contextmanager
def watched(tasks: Sequence[Any], n: float) -> Iterator[None]:
    """While a cluster computes dask tasks, advance the stage at hand with those that it has finished.

    Parameters
    ----------
    tasks
        Of about the same size each.
    n
        How many they do together.
    """
    client, line = active_client(), _line.get()
    if client is None or line is None or line.bar is None or not tasks:
        yield
        return
    ended = threading.Event()
    keys = {task.key for task in tasks}
    thread = threading.Thread(target=_follow, args=(client, keys, n / len(keys), line, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(client: Any, keys: set[Any], each: float, line: Line, ended: threading.Event) -> None:
    """Look at what the scheduler tells its client anyway."""
    while not ended.wait(POLL_SECONDS):
        states = {key: client.futures.get(key) for key in keys}
        finished = {key for key, state in states.items() if state is not None and state.status == "finished"}
        keys = keys - finished
        if finished:
            line.advance(each * len(finished))


def aside() -> AbstractContextManager[Any]:
    """While something else is written to the terminal, take live lines out of its way."""
    tqdm = sys.modules.get("tqdm.std")  # without it, there are none
    return nullcontext() if tqdm is None else tqdm.tqdm.external_write_mode(file=sys.stderr)


def _bar(title: str, total: int, unit: str) -> Any:
    # It chooses between terminal and notebook; without widgets it would warn, and draw in text all the same.
    tqdm = import_module("tqdm.auto" if find_spec("ipywidgets") else "tqdm").tqdm

    # Each update may be seen: there is one for a block of cells, not for a cell.
    return _narrower(tqdm)(
        desc=title,
        total=total,
        unit=f" {unit}",
        unit_scale=True,
        bar_format=FORMAT,
        **({"ncols": COLUMNS, "nrows": ROWS} if _has_no_width() else {"dynamic_ncols": True}),
        miniters=1,
    )


@cache
def _narrower(tqdm: type[Any]) -> type[Any]:
    """Bars that leave room for ^C, which would make them wrap, and stay."""

    class Bar(tqdm):
        @property
        def format_dict(self) -> Any:
            out = super().format_dict
            if isinstance(out["ncols"], int):
                out["ncols"] -= len("^C")
            return out

    return Bar


def _has_no_width() -> bool:
    """Whether stderr is a terminal that nobody told its size, in which tqdm would write nothing."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except (OSError, ValueError):
        return False
