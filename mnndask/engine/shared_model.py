"""Fitted values that other processes load from a run store by path, instead of with every task."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from mnndask.core.arrays import Points, Selected, Stacked
from mnndask.core.components import Components
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.known_factors import KnownFactors
from mnndask.core.low_rank import LowRank
from mnndask.core.model import CorrectionModel
from mnndask.core.step import MergeStep
from mnndask.core.support import BatchSupport
from mnndask.engine.chunk_corrector import ChunkCorrector
from mnndask.engine.chunk_support import ChunkSupport
from mnndask.errors import ScratchError, this_worker
from mnndask.stores.location import Location
from mnndask.stores.object_tree import read_tree, write_tree
from mnndask.stores.scratch import ScratchStore
from mnndask.stores.whole_store import MissingChunkError

KINDS = {
    kind.__name__: kind
    for kind in (
        ChunkCorrector,
        Components,
        CorrectionModel,
        GeneSpaces,
        LowRank,
        MergeStep,
        Points,
        Selected,
        Stacked,
        KnownFactors,
        BatchSupport,
        ChunkSupport,
    )
}

T = TypeVar("T")
MOST_LOADED = 2  # loaded values that a process keeps


class SharedModel(Generic[T]):
    """A value that is pickled as a path; it is stored there when it is first pickled.

    Threads of this process use the value itself. Another process loads it on first use, so that tasks can
    always be run again, even after a worker is lost.

    Parameters
    ----------
    value
        Dataclasses, arrays and numbers; see :func:`mnndask.stores.object_tree.write_tree`.
    scratch
        Folder for the run store; None for the system's.
    """

    def __init__(self, value: T, scratch: Location | None) -> None:
        self.value, self.scratch = value, scratch
        self.store: ScratchStore | None = None
        self.lock = threading.Lock()

    def get(self) -> T:
        """Return the value."""
        return self.value

    def __reduce__(self) -> tuple[Callable[[Location], SharedModelPath[T]], tuple[Location]]:
        with self.lock:
            if self.store is None:
                store = ScratchStore(self.scratch, None)
                write_tree(self.value, store.location, KINDS)
                self.store = store
                # Tasks elsewhere may outlive this object, e.g. those of a persisted result.
                _kept.append(store)
                _own[store.location] = self
        return SharedModelPath, (self.store.location,)


class SharedModelPath(Generic[T]):
    """A :class:`SharedModel` after unpickling: the path of its value, in this process or another."""

    def __init__(self, location: Location) -> None:
        self.location = location

    def get(self) -> T:
        """Return the value, which each process loads once."""
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
            return read_tree(self.location, KINDS)  # type: ignore[no-any-return]
        except (FileNotFoundError, KeyError, MissingChunkError) as error:
            worker = this_worker()
            what = f"The fitted model was not found at {self.location}{(worker and f' by {worker}') or ''}."
            remedy = (
                "Fit again if the process that fitted it has ended; if this is another machine, name a "
                "folder that all machines can reach: scratch=..."
            )
            raise ScratchError(what, remedy) from error


_lock = threading.Lock()
_kept: list[ScratchStore] = []
_own: weakref.WeakValueDictionary[Location, SharedModel] = weakref.WeakValueDictionary()  # type: ignore[type-arg]
_loaded: OrderedDict[Location, Any] = OrderedDict()
