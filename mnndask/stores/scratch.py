"""Matrices of a fit in a scratch folder, which is removed after its last use."""

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

from mnndask._blocks import GENES_PER_BLOCK
from mnndask.errors import MNNError, ScratchError, first_line, this_worker
from mnndask.stores.left_behind import removed, removed_if_killed
from mnndask.stores.location import Location, is_remote, unreachable
from mnndask.stores.whole_store import MissingChunkError, WholeStore


class _Folder:
    """A folder that is removed once no write is in progress; threads of a failed fit may still write."""

    def __init__(self, location: Location) -> None:
        self.location, self.process = location, os.getpid()
        self.n_writers, self.gone = 0, False
        self.changed = threading.Condition()

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self.changed:
            if self.gone:
                raise _removed_error(self.location)
            if not self.location.is_url and not self.location.path.is_dir():  # zarr would create it
                raise _removed_error(self.location)
            self.n_writers += 1
        try:
            yield
        except MNNError:
            raise
        except Exception as error:
            remote = is_remote(error)
            if not isinstance(error, OSError) and not remote:
                raise
            cause = getattr(error, "strerror", None) or first_line(error)
            what = f"The scratch folder {self.location} cannot be written: {cause}."
            remedy = "Free some space there, or name another folder: scratch=..."
            raise ScratchError(what, unreachable("It", error).args[1] if remote else remedy) from error
        finally:
            with self.changed:
                self.n_writers -= 1
                self.changed.notify_all()

    def remove(self) -> None:
        if os.getpid() != self.process:  # a fork of the one that made it
            return
        with self.changed:
            self.gone = True
            self.changed.wait_for(lambda: self.n_writers == 0)
        self.location.remove()
        if not self.location.is_url:
            removed(self.location.path)


def _removed_error(place: Location) -> ScratchError:
    what, worker = f"{place} in the scratch folder is gone", this_worker()
    if worker is None:
        return ScratchError(
            f"{what}.", "Fit again, and leave that folder unchanged while results are in use."
        )
    what = f"{what}, or {worker} does not see it."
    return ScratchError(what, "Name a folder that all machines share, or a URL: scratch=... (--scratch).")


class ScratchStore:
    """Matrices in zarr arrays below a temporary folder, of which only tiles are in memory.

    The folder is removed with the last object that refers to it, on failure, or when the process ends, even
    if it is killed; objects at a URL stay then. Copies of the store in other processes do not remove it.

    Parameters
    ----------
    scratch
        Path or URL of the folder in which the temporary folder is created; None for the system's.
    tile
        Number of cells in memory at once.
    """

    def __init__(self, scratch: str | os.PathLike[str] | Location | None, tile: int | None) -> None:
        self.tile: int | None = tile
        folder = scratch_folder(scratch)
        try:
            self.location = _new_folder(folder)
        except OSError as error:
            what = f"No folder can be created in the scratch folder: {error}."
            raise ScratchError(what, "Name one that can be written: scratch=...") from error
        self.folder = _Folder(self.location)
        self.remove = weakref.finalize(self, self.folder.remove)

    @classmethod
    def at(cls, location: Location, tile: int | None = None) -> ScratchStore:
        """Open a store that another process created and removes."""
        out = cls.__new__(cls)
        out.__setstate__({"tile": tile, "location": location})
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {"tile": self.tile, "location": self.location}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.tile, self.location = state["tile"], state["location"]
        self.folder = _Folder(self.location)

    def matrix(
        self, name: str, shape: tuple[int, int], dtype: np.dtype, columns: int = GENES_PER_BLOCK
    ) -> StoredMatrix:
        """Create a matrix on disk, in chunks of `tile` rows and up to `columns` columns.

        Each has a place of its own, whatever others are called.
        """
        chunks = (max(1, min(self.tile or 1, shape[0])), max(1, min(columns, shape[1])))
        place = self.location.child(f"{name}-{uuid.uuid4().hex[:12]}")
        with self.folder.writing():
            array = zarr.create_array(
                place.store(),
                shape=shape,
                dtype=dtype,
                chunks=chunks,
                compressors=None,
                zarr_format=3,
                config={"write_empty_chunks": True},  # so that a missing chunk is a lost one
            )
            return StoredMatrix.of(array, self, place)


def scratch_folder(scratch: str | os.PathLike[str] | Location | None) -> Location:
    """Folder for temporary data: the given one, or the system's."""
    return Location.of(tempfile.gettempdir() if scratch is None else scratch)


def _new_folder(folder: Location) -> Location:
    """Create a new folder inside another."""
    if folder.is_url:
        return folder.child(f"mnndask-{uuid.uuid4().hex}")
    # An absolute path, as the working directory may change, and that of workers may differ.
    new = Path(tempfile.mkdtemp(prefix="mnndask-", dir=folder.path)).absolute()
    removed_if_killed(new)
    return Location.of(new)


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix on disk; indexing returns NumPy arrays.

    Parameters
    ----------
    array
        The stored values, for writing.
    whole
        The same array for reading, where a missing chunk is an error instead of zeros.
    keeper
        Store that keeps the folder while the matrix is in use.
    place
        Location of the matrix.
    """

    array: zarr.Array[Any]
    whole: zarr.Array[Any]
    keeper: ScratchStore
    place: Location

    @classmethod
    def of(cls, array: zarr.Array[Any], keeper: ScratchStore, place: Location) -> StoredMatrix:
        """Return a matrix of stored values, opened a second time for reading."""
        store = WholeStore(array.store, frozenset(), frozenset())
        return cls(array, zarr.open_array(store, mode="r", zarr_format=3), keeper, place)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and columns."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return np.dtype(self.array.dtype)

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def __getitem__(self, key: slice | np.ndarray | tuple[slice, slice]) -> np.ndarray:
        """Return a slice of rows, or of rows and columns, or rows by their numbers in any order."""
        if isinstance(key, np.ndarray):
            return self._rows(key)
        try:
            return np.asarray(self.whole[key])
        except MissingChunkError as error:
            raise _removed_error(self.place.child(str(error))) from error
        except Exception as error:
            if not is_remote(error):
                raise
            place = f"the scratch folder {self.keeper.location}"
            raise unreachable(place, error) from error

    def __setitem__(self, key: Any, values: np.ndarray) -> None:
        with self.keeper.folder.writing():
            self.array[key] = values

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        """Read the chunks of rows one after another; zarr would read many at once."""
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        chunk = rows // self.array.chunks[0]
        for within in (np.flatnonzero(chunk == c) for c in np.unique(chunk)):
            first, stop = int(rows[within].min()), int(rows[within].max()) + 1
            out[within] = self[first:stop][rows[within] - first]
        return out
