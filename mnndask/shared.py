"""Fitted values that other processes load from a run store by path, rather than be sent with every task."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from mnndask.errors import ScratchError
from mnndask.location import Location
from mnndask.runstore import RunStore
from mnndask.tree import read_tree, write_tree

T = TypeVar("T")

MOST_LOADED = 2  # values that a process keeps of those it loaded


class Shared(Generic[T]):
    """A value that is pickled as the path it was stored at, once, when it is first pickled.

    Threads of this process have the value itself. Another process loads it when it first needs it, so that
    tasks can always be run again, whichever worker held it before.

    Parameters
    ----------
    value
        Dataclasses, arrays, and numbers; see :func:`mnndask.tree.write_tree`.
    scratch
        Folder for the run store; None for the system's.
    """

    def __init__(self, value: T, scratch: Location | None) -> None:
        self.value, self.scratch = value, scratch
        self.store: RunStore | None = None
        self.lock = threading.Lock()

    def get(self) -> T:
        """The value."""
        return self.value

    def __reduce__(self) -> tuple[Callable[[Location], Stored[T]], tuple[Location]]:
        with self.lock:
            if self.store is None:
                store = RunStore(self.scratch, None)
                write_tree(self.value, store.location)
                self.store = store
                # Tasks of others may outlive this object, as those of a persisted result do.
                _kept.append(store)
                _own[store.location] = self
        return Stored, (self.store.location,)


class Stored(Generic[T]):
    """A value of another process, or a copy's way to one of this process, by where it is stored."""

    def __init__(self, location: Location) -> None:
        self.location = location

    def get(self) -> T:
        """The value, loaded once in a process."""
        with _lock:
            own = _own.get(self.location)
            if own is not None:
                return own.get()  # type: ignore[no-any-return]
            if self.location not in _loaded:
                _loaded[self.location] = self._read()
                while len(_loaded) > MOST_LOADED:
                    _loaded.popitem(last=False)
            _loaded.move_to_end(self.location)
            value: T = _loaded[self.location]
            return value

    def _read(self) -> T:
        try:
            return read_tree(self.location)  # type: ignore[no-any-return]
        except FileNotFoundError as error:
            what = f"The fitted model is not at {self.location}."
            remedy = (
                "Fit again if the process that fitted it has ended; if this is another machine, name a "
                "folder that all see: scratch=..."
            )
            raise ScratchError(what, remedy) from error


_lock = threading.Lock()
_kept: list[RunStore] = []
_own: weakref.WeakValueDictionary[Location, Shared] = weakref.WeakValueDictionary()  # type: ignore[type-arg]
_loaded: OrderedDict[Location, Any] = OrderedDict()
