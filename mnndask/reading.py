"""Reading matrices of stores block by block; what cannot be read is named."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import zarr
from anndata.io import sparse_dataset
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray
from scipy import sparse

from mnndask.budget import CHUNK_BYTES
from mnndask.errors import InputReadError
from mnndask.lazy import rows_per_chunk
from mnndask.location import innermost
from mnndask.stored_chunks import check_chunks, chunk_key, stored_chunks
from mnndask.stores.hdf5 import check_filters, lacks_filter, missing_filter, open_hdf5, path_of_file
from mnndask.stores.read_errors import WRITE_AGAIN, reading, unreadable
from mnndask.stores.whole_store import LostChunkError, checked

COLUMNS_PER_CHUNK = 1000  # of a matrix stored by columns
BYTES_PER_ROW = 100  # that come of a row, besides what is stored of it
BLOCKS_PER_WORKER = 4  # at least, where blocks are joined


@dataclass(frozen=True)
class BlockReader:
    """Reads blocks of one matrix of a store.

    Parameters
    ----------
    source
        The zarr array (dense) or its three arrays (sparse); or the path of an HDF5 file, which tasks open.
    name
        Name of the matrix in its store.
    label
        How messages call the input.
    format
        ``"dense"``, ``"csr"`` or ``"csc"``.
    shape
        Shape of the matrix.
    """

    source: Any
    name: str
    label: str
    format: str
    shape: tuple[int, ...]

    def __call__(self, block_info: Any = None) -> Any:
        """Read the block at which dask is."""
        region = [slice(start, stop) for start, stop in block_info[None]["array-location"]]
        where = f"{self.name}, {_described(region, self.format)},"
        with reading(self.label, where), self._opened() as stored:
            return self._read(stored, region)

    def stored_bytes(self, ends: NDArray[np.integer]) -> NDArray[np.integer]:
        """Bytes of values and indices of sparse rows up to some; reads where the rows begin."""
        with reading(self.label, self.name), self._opened() as stored:
            whole = slice(0, self.shape[0])
            indptr = self._part(stored["indptr"], [slice(0, self.shape[0] + 1)], [whole, whole])
            per_value = sum(stored[part].dtype.itemsize for part in ("data", "indices"))
        return np.asarray((indptr[ends] - indptr[0]) * per_value)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        if not isinstance(self.source, Path):
            yield self.source
            return
        with open_hdf5(self.source) as file:
            yield file[self.name]

    def _read(self, stored: Any, region: list[slice]) -> Any:
        if self.format == "dense":
            return self._part(stored, region, region)
        major = region[self.format == "csc"]
        indptr = self._part(stored["indptr"], [slice(major.start, major.stop + 1)], region)
        if len(indptr) != major.stop - major.start + 1 or (indptr[1:] < indptr[:-1]).any():
            what = "indptr does not ascend"
            raise ValueError(what)
        inside = [slice(int(indptr[0]), int(indptr[-1]))]
        data, indices = (self._part(stored[part], inside, region) for part in ("data", "indices"))
        kind = sparse.csc_matrix if self.format == "csc" else sparse.csr_matrix
        block = kind((data, indices, indptr - indptr[0]), shape=[r.stop - r.start for r in region])
        block.check_format(full_check=True)  # what lies outside the matrix would be written outside of memory
        return block

    def _part(self, array: Any, part: list[slice], region: list[slice]) -> NDArray[Any]:
        """Part of a stored array; where that fails, names the chunk."""
        try:
            return np.asarray(array[tuple(part)])
        except MemoryError:
            raise
        except Exception as error:
            where = _described(region, self.format)
            if isinstance(array, h5py.Dataset) and (name := missing_filter(array)):  # of another machine
                raise lacks_filter(self.label, array, name) from error
            chunk, cause = _culprit(array, part) or (array.name.lstrip("/") or "its data", error)
            cause = innermost(cause)
            if isinstance(cause, LostChunkError):
                what = f"{self.label} lacks the chunk {cause} (of {where})."
                raise InputReadError(what, WRITE_AGAIN) from error
            raise unreadable(self.label, f"{chunk} (of {where}) cannot be read", cause) from error


def _described(region: list[slice], format_: str) -> str:
    axis, unit = (1, "genes") if format_ == "csc" else (0, "rows")
    return f"{unit} {region[axis].start} to {region[axis].stop - 1}"


def _culprit(array: Any, part: list[slice]) -> tuple[str, BaseException] | None:
    """First chunk of a part of a zarr array that cannot be read, and why."""
    if not isinstance(array, zarr.Array):
        return None
    sizes = stored_chunks(array)
    grid = [range(p.start // n, -(-p.stop // n)) for p, n in zip(part, sizes, strict=True)]
    for at in itertools.product(*grid):
        try:
            array[tuple(slice(i * n, (i + 1) * n) for i, n in zip(at, sizes, strict=True))]
        except Exception as error:
            return chunk_key(array, at), error
    return None


def lazy_matrix(
    stored: Any,
    label: str | None = None,
    *,
    chunks: Any = None,
    name: str | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    first: int = 0,
) -> da.Array:
    """Matrix of an open store as a dask array of whole rows, each block of moderate size when dense.

    Nothing is read but the list of its chunks.

    Parameters
    ----------
    stored
        Array or sparse group of an open zarr store or HDF5 file.
    label
        How messages call the input; by default, its path.
    chunks
        Chunks of dask, where not those.
    name
        Name in the graph, where another array is replaced.
    chunk_bytes
        Size of a moderate block.
    first
        Rows that come before it in what is to be stacked: blocks of sparse rows are cut so that those of the
        stack are all of one size, as they are when it is written.

    Raises
    ------
    InputError
        If chunks are missing which the store does not say are empty.
    """
    is_sparse = isinstance(stored, zarr.Group | h5py.Group)
    label = label or path_of(stored)
    slot = stored.name.strip("/") or "its data"
    with reading(label, slot):
        matrix: Any = sparse_dataset(stored, should_cache_indptr=False) if is_sparse else stored
        format_, shape = (matrix.format if is_sparse else "dense"), tuple(int(n) for n in matrix.shape)
        dtype = np.dtype(matrix.dtype)
        check_filters(stored, label)
        empty = check_chunks(stored, label)
        # Workers may be elsewhere.
        file = path_of_file(stored, label) if hasattr(stored, "file") else None
        own = file or checked(stored, frozenset(empty))
        if isinstance(own, zarr.Group):  # opened once, rather than for each block
            own = {part: own[part] for part in ("data", "indices", "indptr")}
    block_shape = _block_shape(stored, format_, shape, dtype, chunk_bytes)
    kinds = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}
    return _lazy(
        BlockReader(own, slot, label, format_, shape),
        chunks or _blocks(shape, block_shape, first if format_ == "csr" else 0),
        dtype,
        np.empty((0,) * len(shape), dtype) if format_ == "dense" else kinds[format_]((0, 0), dtype=dtype),
        name,
    )


def _lazy(reader: BlockReader, chunks: Any, dtype: np.dtype, meta: Any, name: str | None = None) -> da.Array:
    name = name or f"mnn-read-{uuid.uuid4().hex}"
    out: da.Array = da.map_blocks(reader, name=name, chunks=chunks, dtype=dtype, meta=meta)
    return out


def reblocked(X: da.Array, rows: tuple[int, ...]) -> da.Array:
    """Same matrix in blocks of other numbers of rows, if it is a store's by rows; else as it is."""
    reader = _reader_of(X)
    if reader is None:
        return X
    return _lazy(reader, (rows, X.chunks[1]), X.dtype, X._meta)


def in_large_blocks(X: da.Array, n_bytes: int, n_workers: int) -> da.Array:
    """Same matrix in larger blocks, of up to that size as they are stored, where :func:`reblocked` can.

    It is for passes that keep little of a block. Blocks that are of moderate size when dense are small; as
    they straddle the chunks that are stored, many of these are decoded twice. Reads where the rows begin.
    """
    reader = _reader_of(X)
    if reader is None:
        return X
    ends = np.cumsum(X.chunks[0])
    held = reader.stored_bytes(ends) + ends * BYTES_PER_ROW
    most = min(n_bytes, held[-1] // (BLOCKS_PER_WORKER * n_workers))
    sizes: list[int] = []
    before = first = 0
    for n, upto in zip(X.chunks[0], held, strict=True):
        if sizes and upto - first <= most:
            sizes[-1] += n
        else:
            sizes.append(n)
            first = before
        before = upto
    return X if len(sizes) == X.numblocks[0] else reblocked(X, tuple(sizes))


def _reader_of(X: da.Array) -> BlockReader | None:
    """What reads an array's sparse rows, if nothing else is done with them."""
    layer = X.dask.layers.get(X.name) if isinstance(X.dask, HighLevelGraph) else None
    for argument, _ in getattr(layer, "indices", ()):
        if isinstance(argument, BlockReader) and argument.format == "csr":
            return argument
    return None


def _blocks(shape: tuple[int, ...], block: tuple[int, ...], first: int) -> tuple[tuple[int, ...], ...]:
    """Sizes of blocks, the first of them as much shorter as those before it leave over."""
    lead = min(-first % block[0], shape[0])
    sizes = da.core.normalize_chunks(block, (shape[0] - lead, *shape[1:]))
    rows = (lead, *sizes[0]) if lead else sizes[0]
    return tuple(n for n in rows if n or len(rows) == 1), *sizes[1:]


def path_of(stored: Any) -> str:
    """Path of the file or store that an array or group is in."""
    if hasattr(stored, "file"):
        return str(stored.file.filename)
    store = stored.store
    return str(getattr(store, "root", None) or getattr(store, "path", None) or store)


def _block_shape(
    stored: Any, format_: str, shape: tuple[int, ...], dtype: np.dtype, chunk_bytes: int
) -> tuple[int, ...]:
    if format_ == "csc":
        return shape[0], max(1, min(COLUMNS_PER_CHUNK, shape[1]))
    most = rows_per_chunk(int(np.prod(shape[1:])), dtype.itemsize, chunk_bytes)
    # Whole shards of the file, or else chunks, so that none is read twice.
    unit = 1
    if format_ == "dense" and stored.chunks:
        shards = getattr(stored, "shards", None)
        unit = shards[0] if shards and shards[0] <= most else stored.chunks[0]
    return max(1, most // unit) * unit, *shape[1:]
