"""Read blocks of one stored matrix, and say which chunk was missing, damaged or replaced."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from scipy import sparse

from mnndask.errors import InputReadError, RemoteError
from mnndask.stores.file_versions import changed_error, version_of_path
from mnndask.stores.hdf5 import missing_filter, missing_filter_error, open_hdf5
from mnndask.stores.local_files import naming_worker
from mnndask.stores.location import innermost, is_remote
from mnndask.stores.missing_chunks import chunk_key, stored_chunks
from mnndask.stores.read_errors import WRITE_AGAIN, reading, unreadable
from mnndask.stores.shared_chunks import SHARED
from mnndask.stores.sparse_pointers import check_indices, check_pointers
from mnndask.stores.whole_store import MissingChunkError


@dataclass(frozen=True)
class BlockReader:
    """Reads blocks of one stored matrix.

    Parameters
    ----------
    source
        The zarr array (dense), the three zarr arrays (sparse), or the path of an HDF5 file that tasks open.
    name
        Name of the matrix in its store.
    label
        Name of the input in messages.
    format
        ``"dense"``, ``"csr"`` or ``"csc"``.
    shape
        Shape of the matrix.
    opened
        Version of the HDF5 file when it was opened, or of the chunks of each zarr array by its path.
    then
        Called with each block of whole rows, and the number of its first row; returns what stands for it.
    """

    source: Any
    name: str
    label: str
    format: str
    shape: tuple[int, ...]
    opened: Any
    then: Callable[[Any, int], Any] | None = None

    def __call__(self, block_info: Any = None) -> Any:
        """Read the block at the location that dask passes in `block_info`."""
        region = [slice(start, stop) for start, stop in block_info[None]["array-location"]]
        if self.then is not None:  # whose results may have other columns
            region[1] = slice(0, self.shape[1])
        where = f"{self.name}, {_describe(region, self.format)},"
        with naming_worker(self.label, self.source), reading(self.label, where), self._opened() as stored:
            block = self._read(stored, region)
        return block if self.then is None else self.then(block, region[0].start)

    def stored_bytes(self, ends: NDArray[np.integer]) -> NDArray[np.integer]:
        """Bytes of the values and indices of the sparse rows before each of `ends`; reads the pointers."""
        with reading(self.label, self.name), self._opened() as stored:
            indptr = self._pointers(stored, [slice(0, n) for n in self.shape])
            per_value = sum(stored[part].dtype.itemsize for part in ("data", "indices"))
        return np.asarray(indptr[ends] * per_value)

    def check(self) -> None:
        """Check that pointers, values and shape of a sparse matrix agree; reads the pointers."""
        if self.format == "dense":
            return
        with reading(self.label, self.name), self._opened() as stored:
            self._pointers(stored, [slice(0, n) for n in self.shape])

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        if not isinstance(self.source, Path):
            yield self.source
            return
        try:
            with open_hdf5(self.source) as file:
                yield file[self.name]
        except Exception:  # possibly because it is another file
            self._check_file()
            raise
        self._check_file()

    def _check_file(self) -> None:
        if version_of_path(self.source) not in {self.opened, 0}:  # it stays open if it is removed
            raise changed_error(self.label)

    def _read(self, stored: Any, region: list[slice]) -> Any:
        if self.format == "dense":
            return self._read_slices(stored, region, region)
        indptr = self._pointers(stored, region)
        inside = slice(int(indptr[0]), int(indptr[-1]))
        data, indices = (self._read_values(stored[part], inside, region) for part in ("data", "indices"))
        check_indices(indices, self.shape[self.format == "csr"])
        kind = sparse.csc_matrix if self.format == "csc" else sparse.csr_matrix
        block = kind((data, indices, indptr - indptr[0]), shape=[r.stop - r.start for r in region])
        block.check_format(full_check=True)  # indices out of bounds would corrupt memory
        return block

    def _pointers(self, stored: Any, region: list[slice]) -> NDArray[np.integer]:
        """Read and check the pointers of a block of a sparse matrix."""
        at = int(self.format == "csc")
        first, last = region[at].start, region[at].stop
        indptr = self._read_slices(stored["indptr"], [slice(first, last + 1)], region)
        check_pointers(indptr, first, last, (self.shape[at], stored["data"].shape[0]))
        return indptr

    def _read_slices(self, array: Any, slices: list[slice], region: list[slice]) -> NDArray[Any]:
        """Read slices of a stored array. Errors name the chunk that was replaced or cannot be read."""
        try:
            out = np.asarray(array[tuple(slices)])
        except MemoryError:
            raise
        except Exception as error:
            if isinstance(innermost(error), RemoteError):  # each of its chunks would be asked for again
                raise innermost(error) from error
            if not is_remote(innermost(error)):  # it may be damaged, or be another by now
                self._check_unchanged(array, slices, removed=False)
            where = _describe(region, self.format)
            if isinstance(array, h5py.Dataset) and (name := missing_filter(array)):  # on this worker
                raise missing_filter_error(self.label, array, name) from error
            chunk, cause = first_unreadable(array, slices) or (array.name.lstrip("/") or "its data", error)
            cause = innermost(cause)
            if isinstance(cause, MissingChunkError):
                what = f"{self.label} lacks the chunk {cause} (of {where})."
                raise InputReadError(what, WRITE_AGAIN) from error
            raise unreadable(self.label, f"{chunk} (of {where}) cannot be read", cause) from error
        self._check_unchanged(array, slices)
        return out

    def _read_values(self, array: Any, inside: slice, region: list[slice]) -> NDArray[Any]:
        """Read values or indices of a block of a sparse matrix. Blocks beside it share chunks."""

        def read(start: int, stop: int) -> NDArray[Any]:
            out = self._read_slices(array, [slice(start, stop)], region)
            if isinstance(array, h5py.Dataset):  # of which others may get a part before it is closed
                self._check_file()
            return out

        return SHARED.read(array, inside.start, inside.stop, partial(self._chunk_key, array), read)

    def _chunk_key(self, array: Any, number: int) -> Hashable | None:
        """Return a key of one chunk of a sparse part in the version that was opened; None if unknown."""
        if isinstance(array, h5py.Dataset):
            place, version = str(self.source), self.opened
        else:
            n_stored = number * array.chunks[0] // stored_chunks(array)[0]  # which may be a shard
            place, version = str(array.store_path), self.opened[array.path].version_of(n_stored)
        return (place, array.name, number, version) if version else None

    def _check_unchanged(self, array: Any, slices: list[slice], *, removed: bool = True) -> None:
        """Check, after chunks were read, that these are the ones that were opened."""
        if isinstance(array, zarr.Array):
            self.opened[array.path].check(array, slices, self.label, removed=removed)


def _describe(region: list[slice], format_: str) -> str:
    axis, unit = (1, "genes") if format_ == "csc" else (0, "rows")
    return f"{unit} {region[axis].start} to {region[axis].stop - 1}"


def first_unreadable(array: Any, slices: list[slice]) -> tuple[str, BaseException] | None:
    """First chunk in slices of a zarr array that cannot be read, and the error."""
    if not isinstance(array, zarr.Array):
        return None
    sizes = stored_chunks(array)
    grid = [range(s.start // n, -(-s.stop // n)) for s, n in zip(slices, sizes, strict=True)]
    for at in itertools.product(*grid):
        try:
            array[tuple(slice(i * n, (i + 1) * n) for i, n in zip(at, sizes, strict=True))]
        except Exception as error:
            return chunk_key(array, at), error
    return None
