"""Progress of long work: a live line for each stage in a terminal or a notebook, and logged.

A stage is of the context that opened it, not of the process: calls on several threads do not see each
other's. What works on other threads is handed its line by :func:`counted`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from mnndask._text import printable

T = TypeVar("T")
logger = logging.getLogger(__name__)
announcements = logging.getLogger(f"{__name__}.announcements")  # what a run will need and has


class Bar(Protocol):
    """What shows the progress of a stage."""

    def update(self, done: int) -> None:
        """Show that so many are done in all."""

    def close(self, *, finished: bool) -> None:
        """Leave the bar if the stage is finished, else remove it."""


class Line:
    """Progress of one stage; any thread may advance it.

    Parameters
    ----------
    total
        How many there are.
    passes
        How often each is counted.
    bar
        What shows it; None if nothing is shown.
    """

    def __init__(self, total: int, passes: float, bar: Bar | None) -> None:
        self.total, self.passes, self.done, self.bar = total, passes, 0.0, bar
        self.lock = threading.Lock()

    @property
    def shown(self) -> bool:
        """Whether anything shows it, and the stage has not ended."""
        return self.bar is not None

    def advance(self, n: float) -> None:
        """Count that so many are done, once."""
        with self.lock:
            if self.bar is not None:
                self.done = min(self.total, self.done + n / self.passes)
                self.bar.update(int(self.done))

    def close(self, *, finished: bool) -> None:
        """End the stage; what threads still do changes nothing."""
        with self.lock:
            bar, self.bar = self.bar, None
            if bar is not None:
                if finished:
                    bar.update(self.total)
                bar.close(finished=finished)


MakeBar: TypeAlias = Callable[[str, int, str], Bar]  # from a title, a total and a unit
_make_bar: ContextVar[MakeBar | None] = ContextVar("mnndask_progress_bar", default=None)
_line: ContextVar[Line | None] = ContextVar("mnndask_progress_line", default=None)
_in_one: ContextVar[bool] = ContextVar("mnndask_progress_in_one", default=False)


@contextmanager
def drawing(make_bar: MakeBar | None) -> Iterator[None]:
    """Show the stages of the work with bars from this function; None shows nothing."""
    token = _make_bar.set(make_bar)
    try:
        yield
    finally:
        _make_bar.reset(token)


@contextmanager
def stage(title: str, total: int, unit: str = "cells", *, passes: float = 1) -> Iterator[None]:
    """Do a stage of the work; what is counted inside moves its line.

    Parameters
    ----------
    title, unit
        What is done, and to what.
    total, passes
        As of :class:`Line`; without anything to do there is no line.
    """
    if not total or _in_one.get():
        yield
        return
    title, make_bar = printable(title), _make_bar.get()
    line = Line(total, passes, make_bar(title, total, unit) if make_bar else None)
    token, start = _line.set(line), time.perf_counter()
    try:
        yield
        line.close(finished=True)
    finally:
        _line.reset(token)
        line.close(finished=False)  # unless it was
    logger.info("%s: %s %s in %.1f s", title, f"{total:,}", unit, time.perf_counter() - start)


@contextmanager
def in_one_stage(*, wanted: bool = True) -> Iterator[None]:
    """Neither show nor log the stages inside, nor count what they do: they are part of the current one."""
    if not wanted:
        yield
        return
    tokens = _in_one.set(True), _line.set(None)
    try:
        yield
    finally:
        _in_one.reset(tokens[0])
        _line.reset(tokens[1])


def advance(n: float) -> None:
    """Advance the current stage by `n`."""
    line = _line.get()
    if line is not None:
        line.advance(n)


def counted(
    function: Callable[..., T], rows: Callable[..., float] | None = None, weight: float = 1
) -> Callable[..., T]:
    """Return the function; each call of it, on any thread, advances the current stage.

    In other processes nothing is counted: see :func:`mnndask.engine.tasks.watched`.

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
    if line is None or not line.shown or not weight:
        return function
    return _Counted(function, rows or _length, weight, line)


def counted_blocks(blocks: Iterable[slice], line: Line | None) -> Iterator[slice]:
    """Same blocks; a line advances when the next is asked for."""
    for block in blocks:
        yield block
        if line is not None:
            line.advance(_length(block))


def current_line() -> Line | None:
    """Line of the current stage, for threads that are about to start."""
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
