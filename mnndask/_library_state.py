"""State of the process that library code changes for a while: warning filters, configurations.

pandas, anndata, scikit-learn, dask and numba change the filters of warnings and restore them. A block with
another configuration of zarr, dask or pandas does the same. On several threads at once, this is not safe:
blocks that overlap restore what the other has set, for good. So only one thread at a time runs such code.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

PATIENCE_SECONDS = 60.0  # for other threads: they might wait for this one
OF_WARNINGS = ("filters", "showwarning", "_showwarnmsg_impl")  # what `warnings.catch_warnings` changes


class _Turn:
    """The right to run such code; a thread may take it several times over."""

    def __init__(self) -> None:
        self.lock, self.guard = threading.RLock(), threading.Lock()
        self.inside = 0
        self.crossed = False  # whether a thread that waited too long has entered without the lock
        self.changes: list[ExitStack] = []
        self.before: dict[str, Any] = {}

    def enter(self, *, alone: bool) -> ExitStack:
        with self.guard:
            if not self.inside:
                self.before = _state_of_warnings()
            self.crossed |= not alone
            self.inside += 1
            self.changes.append(ExitStack())
            return self.changes[-1]

    def leave(self, changes: ExitStack, *, interrupted: bool) -> None:
        """Undo the changes; those of threads that crossed together, in reverse, when the last one leaves."""
        with self.guard:
            self.inside -= 1
            if not self.crossed:
                self.changes.remove(changes)
                changes.close()
            if not self.inside and (self.crossed or interrupted):  # libraries may have been stopped anywhere
                self.undo()

    def undo(self) -> None:
        """Undo all changes."""
        for changes in reversed(self.changes):
            with suppress(Exception):
                changes.close()
        self.changes.clear()
        _restore(self.before)
        self.crossed = False


_turn = _Turn()


@contextmanager
def exclusive(patience: float | None = None) -> Iterator[ExitStack]:
    """Run library code that may change state of the process; no other thread does meanwhile.

    Enter contexts that change such state on the stack: a fork by another thread undoes them in the child.
    Avoid heavy work, and work that waits for threads which may need this, too: after `patience` seconds they
    do without it.
    """
    turn, interrupted = _turn, False
    alone = turn.lock.acquire(timeout=PATIENCE_SECONDS if patience is None else patience)
    try:
        changes = turn.enter(alone=alone)
        try:
            yield changes
        except BaseException as error:
            interrupted = not isinstance(error, Exception)
            raise
        finally:
            turn.leave(changes, interrupted=interrupted)
    finally:
        if alone:
            turn.lock.release()


@contextmanager
def ignoring(*warned: tuple[str, type[Warning]]) -> Iterator[None]:
    """Ignore warnings by library code, by regular expressions for the start of their text, and types."""
    with exclusive() as changes:
        changes.enter_context(warnings.catch_warnings())
        for text, category in warned:
            warnings.filterwarnings("ignore", text, category)
        yield


def _state_of_warnings() -> dict[str, Any]:
    return {name: getattr(warnings, name) for name in OF_WARNINGS if hasattr(warnings, name)}


def _restore(before: dict[str, Any]) -> None:
    for name, value in before.items():
        setattr(warnings, name, value)
    with warnings.catch_warnings():  # which also tells the interpreter that filters have changed
        pass


def _after_fork() -> None:
    """Undo, in a child, what other threads of the parent were doing: they are not there to do it."""
    global _turn
    if _turn.lock.acquire(blocking=False):  # free, or this thread's own
        _turn.lock.release()
        _turn.guard = threading.Lock()
        return
    _turn.undo()
    _turn = _Turn()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
