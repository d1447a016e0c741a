"""Where the matrices of a fit live: in memory, or in a run store that goes when its last user does."""

from __future__ import annotations

import os
import tempfile
import threading
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mnndask.errors import ScratchError
from mnndask.kernels.distances import Matrix
from mnndask.location import Location, first_line, is_remote, unreachable
from mnndask.stores.whole_store import LostChunkError, WholeStore

COLUMNS = 2048  # of one stored chunk: genes that are worked on at once


class InMemory:
    """Matrices as NumPy arrays."""

    tile: int | None = None

    def matrix(
        self, name: str, shape: tuple[int, int], dtype: np.dtype, columns: int | None = None
    ) -> Matrix:
        """Room for a matrix."""
        return np.empty(shape, dtype)


class _Folder:
    """A folder that goes once no write to it is under way; threads of a failed fit may be in the midst."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.n_writers, self.gone = 0, False
        self.changed = threading.Condition()

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self.changed:
            if self.gone:
                raise _lost(self.location)
            self.n_writers += 1
        try:
            yield
        except Exception as error:
            if not isinstance(error, OSError) and not is_remote(error):
                raise
            said = getattr(error, "strerror", None) or first_line(error)
            what = f"The scratch folder {self.location} cannot be written: {said}."
            raise ScratchError(what, "Free some space there, or name another folder: scratch=...") from error
        finally:
            with self.changed:
                self.n_writers -= 1
                self.changed.notify_all()

    def remove(self) -> None:
        with self.changed:
            self.gone = True
            self.changed.wait_for(lambda: self.n_writers == 0)
        self.location.remove()


def _lost(place: Location) -> ScratchError:
    what = f"{place} in the scratch folder is gone."
    return ScratchError(what, "Fit again, and leave that folder as it is for as long as results are used.")


class RunStore:
    """Matrices in zarr arrays below a temporary folder, of which only blocks are in memory.

    The folder goes with the last object that refers to it, on failure, and when the process exits; not with
    copies of it in other processes.

    Parameters
    ----------
    scratch
        Folder to make it in, local or a URL; None for the system's.
    tile
        Cells to have in memory at once.
    """

    def __init__(self, scratch: str | os.PathLike[str] | Location | None, tile: int | None) -> None:
        self.tile: int | None = tile
        folder = Location.of(tempfile.gettempdir() if scratch is None else scratch)
        try:
            self.location = _made_in(folder)
        except OSError as error:
            what = f"No folder can be made in the scratch folder: {error}."
            raise ScratchError(what, "Name one that can be written: scratch=...") from error
        self.folder = _Folder(self.location)
        self.remove = weakref.finalize(self, self.folder.remove)

    @classmethod
    def at(cls, location: Location, tile: int | None = None) -> RunStore:
        """A store that another process made, and removes."""
        out = cls.__new__(cls)
        out.__setstate__({"tile": tile, "location": location})
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {"tile": self.tile, "location": self.location}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.tile, self.location = state["tile"], state["location"]
        self.folder = _Folder(self.location)

    def matrix(
        self, name: str, shape: tuple[int, int], dtype: np.dtype, columns: int = COLUMNS
    ) -> StoredMatrix:
        """Room for a matrix; `tile` rows of some columns are stored together."""
        chunks = (max(1, min(self.tile or 1, shape[0])), max(1, min(columns, shape[1])))
        place = self.location.child(name)
        with self.folder.writing():
            array = zarr.create_array(
                place.store(),
                shape=shape,
                dtype=dtype,
                chunks=chunks,
                compressors=None,
                zarr_format=3,
                config={"write_empty_chunks": True},  # so that a chunk that is not there is a lost one
            )
            return StoredMatrix.of(array, self, place)


def _made_in(folder: Location) -> Location:
    """A new folder in another."""
    if folder.is_url:
        return folder.child(f"mnndask-{uuid.uuid4().hex}")
    # Results outlive changes of the working directory, and workers may be elsewhere.
    return Location.of(Path(tempfile.mkdtemp(prefix="mnndask-", dir=folder.path)).absolute())


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix on disk; slices and rows of it are NumPy arrays.

    Parameters
    ----------
    array
        The stored values, to write to.
    whole
        The same to read, where a lost chunk is an error: it would be taken for zeros.
    keeper
        Keeps the folder for as long as the matrix is in use.
    place
        Where it is.
    """

    array: zarr.Array[Any]
    whole: zarr.Array[Any]
    keeper: RunStore
    place: Location

    @classmethod
    def of(cls, array: zarr.Array[Any], keeper: RunStore, place: Location) -> StoredMatrix:
        """Open stored values once more, to read."""
        store = WholeStore(array.store, frozenset(), frozenset())
        return cls(array, zarr.open_array(store, mode="r", zarr_format=3), keeper, place)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return np.dtype(self.array.dtype)

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def __getitem__(self, key: slice | np.ndarray | tuple[slice, slice]) -> np.ndarray:
        """A slice of rows, or of both rows and columns, or rows by their numbers in any order."""
        if isinstance(key, np.ndarray):
            return self._rows(key)
        try:
            return np.asarray(self.whole[key])
        except LostChunkError as error:
            raise _lost(self.place.child(str(error))) from error
        except Exception as error:
            if not is_remote(error):
                raise
            place = f"the scratch folder {self.keeper.location}"
            raise unreachable(place, error) from error

    def __setitem__(self, key: Any, values: np.ndarray) -> None:
        with self.keeper.folder.writing():
            self.array[key] = values

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        """Read one chunk of rows after the other: zarr would read many at once."""
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        chunk = rows // self.array.chunks[0]
        for own in (np.flatnonzero(chunk == c) for c in np.unique(chunk)):
            first, stop = int(rows[own].min()), int(rows[own].max()) + 1
            out[own] = self[first:stop][rows[own] - first]
        return out
