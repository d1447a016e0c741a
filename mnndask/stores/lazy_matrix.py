"""Stored matrices as dask arrays, read block by block. Errors name what cannot be read."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import zarr
from anndata.io import sparse_dataset
from dask.highlevelgraph import HighLevelGraph
from dask.utils import key_split
from scipy import sparse

from mnndask._blocks import CHUNK_BYTES, rows_per_chunk
from mnndask.stores.block_reader import BlockReader
from mnndask.stores.chunk_versions import ChunkVersions
from mnndask.stores.declared_sizes import check_chunk_sizes
from mnndask.stores.file_versions import version_of_open
from mnndask.stores.hdf5 import check_filters, path_of_file
from mnndask.stores.local_files import file_of, root_of
from mnndask.stores.missing_chunks import check_chunks, chunk_files
from mnndask.stores.read_errors import reading
from mnndask.stores.whole_store import opened_strictly

COLUMNS_PER_CHUNK = 1000  # of a CSC matrix
BYTES_PER_ROW = 100  # of results computed from a row, in addition to its stored values
BLOCKS_PER_WORKER = 4  # minimum when blocks are merged


def lazy_matrix(
    stored: Any,
    label: str | None = None,
    *,
    chunks: Any = None,
    name: str | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    first: int = 0,
) -> da.Array:
    """Return a stored matrix as a dask array whose chunks are whole rows (CSC: whole columns).

    Only the list of stored chunks is read.

    Parameters
    ----------
    stored
        Array or sparse group of an open zarr store or HDF5 file.
    label
        Name of the input in messages; its path by default.
    chunks
        Chunks of the dask array, instead of the default ones.
    name
        Name of the graph layer, to replace another array.
    chunk_bytes
        Target size in bytes of a chunk when dense.
    first
        Number of rows stacked before this matrix: chunks of CSR rows are aligned so that all chunks of the
        stack have the size that they have when it is written.

    Raises
    ------
    InputError
        If chunks are missing and the store does not record that they are empty.
    """
    is_sparse = isinstance(stored, zarr.Group | h5py.Group)
    label = label or path_of(stored)
    slot = stored.name.strip("/") or "its data"
    with reading(label, slot):
        matrix: Any = sparse_dataset(stored, should_cache_indptr=False) if is_sparse else stored
        format_, shape = (matrix.format if is_sparse else "dense"), tuple(int(n) for n in matrix.shape)
        dtype = np.dtype(matrix.dtype)
        check_filters(stored, label)
        check_chunk_sizes(stored, label)
        source, opened = _source(stored, label)
    block_shape = _block_shape(stored, format_, shape, dtype, chunk_bytes)
    kinds = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}
    return _lazy(
        BlockReader(source, slot, label, format_, shape, opened),
        chunks or _blocks(shape, block_shape, first if format_ == "csr" else 0),
        dtype,
        np.empty((0,) * len(shape), dtype) if format_ == "dense" else kinds[format_]((0, 0), dtype=dtype),
        name,
    )


def _source(stored: Any, label: str) -> tuple[Any, Any]:
    """Return what tasks read from, and the versions of its files. Checks that no chunk is missing."""
    if hasattr(stored, "file"):
        # An absolute path, as workers may have another working directory.
        path = path_of_file(stored, label)
        check_chunks(stored, label)
        return path, version_of_open(stored.file, path)
    files = chunk_files(stored)
    source = opened_strictly(stored, frozenset(check_chunks(stored, label, files)))
    if isinstance(source, zarr.Array):
        return source, {source.path: ChunkVersions.of(source, files)}
    parts = {part: source[part] for part in ("data", "indices", "indptr")}  # opened once, not for each block
    return parts, {array.path: ChunkVersions.of(array, files) for array in parts.values()}


def _lazy(reader: BlockReader, chunks: Any, dtype: np.dtype, meta: Any, name: str | None = None) -> da.Array:
    name = name or f"mnn-read-{uuid.uuid4().hex}"
    out: da.Array = da.map_blocks(reader, name=name, chunks=chunks, dtype=dtype, meta=meta)
    return out


def each_row(
    X: da.Array, function: Callable[[Any, int], Any], n_columns: int, dtype: np.dtype, stage: str
) -> da.Array:
    """Return an array of what a function makes of each row of a matrix, in the tasks that read it.

    Parameters
    ----------
    X
        Array chunked along rows, or that :func:`lazy_matrix` returned.
    function
        Called with blocks of whole rows, dense or CSR, and the number of their first row. What it returns for
        a row may not depend on the block.
    n_columns, dtype
        Of what it returns. Sparse blocks stay so.
    stage
        Name of the tasks on the dashboard, without ``mnn-``.
    """
    name, chunks = f"mnn-{stage}-{uuid.uuid4().hex}", (X.chunks[0], (n_columns,))
    is_sparse = sparse.issparse(X._meta)
    meta = sparse.csr_matrix((0, 0), dtype=dtype) if is_sparse else np.empty((0, 0), dtype)
    reader = _reader(X.dask.layers.get(X.name)) if isinstance(X.dask, HighLevelGraph) else None
    if reader is not None and reader.then is None and reader.format != "csc" and X.numblocks[1] == 1:
        return _lazy(replace(reader, then=function), chunks, dtype, meta, name)
    on_block = partial(_on_block, function)
    out: da.Array = da.map_blocks(on_block, X, name=name, chunks=chunks, dtype=dtype, meta=meta)
    return out


def _on_block(function: Callable[[Any, int], Any], block: Any, block_info: Any = None) -> Any:
    block = block.tocsr() if hasattr(block, "tocsr") else np.asarray(block)
    return function(block, block_info[0]["array-location"][0][0])


def reblocked(X: da.Array, rows: tuple[int, ...]) -> da.Array:
    """Return an array read directly from CSR rows in blocks of `rows` rows; any other array unchanged."""
    reader = _reader_of(X)
    if reader is None:
        return X
    name = f"{key_split(X.name)}-{uuid.uuid4().hex}"
    return _lazy(reader, (rows, X.chunks[1]), X.dtype, X._meta, name)


def in_large_blocks(X: da.Array, n_bytes: int, n_workers: int) -> da.Array:
    """Return an array in larger blocks, of up to `n_bytes` as stored, if :func:`reblocked` applies to it.

    For passes that keep little of each block. Blocks of moderate size when dense are small as stored, and
    straddle stored chunks, many of which would be decoded twice. Reads the row pointers.
    """
    reader = _reader_of(X)
    if reader is None:
        return X
    ends = np.cumsum(X.chunks[0])
    bytes_at_ends = reader.stored_bytes(ends) + ends * BYTES_PER_ROW
    max_bytes = min(n_bytes, bytes_at_ends[-1] // (BLOCKS_PER_WORKER * n_workers))
    sizes: list[int] = []
    start = first = 0
    for n, end in zip(X.chunks[0], bytes_at_ends, strict=True):
        if sizes and end - first <= max_bytes:
            sizes[-1] += n
        else:
            sizes.append(n)
            first = start
        start = end
    return X if len(sizes) == X.numblocks[0] else reblocked(X, tuple(sizes))


def check_stored(X: da.Array) -> None:
    """Check that the parts of the stored sparse matrices that an array is computed from agree.

    Reads their pointers. The indices are checked with each block.

    Raises
    ------
    InputReadError
        If they disagree, or cannot be read.
    """
    for layer in X.dask.layers.values() if isinstance(X.dask, HighLevelGraph) else ():
        if (reader := _reader(layer)) is not None:
            reader.check()


def _reader_of(X: da.Array) -> BlockReader | None:
    """Return the reader of an array that is read directly from CSR rows; None for any other array."""
    reader = _reader(X.dask.layers.get(X.name)) if isinstance(X.dask, HighLevelGraph) else None
    return reader if reader is not None and reader.format == "csr" else None


def _reader(layer: Any) -> BlockReader | None:
    """Return the reader of a layer of a graph that reads a stored matrix; None for any other layer."""
    arguments = (argument for argument, _ in getattr(layer, "indices", ()))
    return next((argument for argument in arguments if isinstance(argument, BlockReader)), None)


def files_read(X: da.Array) -> Iterator[tuple[str, Path, Path]]:
    """Yield label and path of each input on this machine that an array reads, and a file that shows it."""
    layers = X.dask.layers.values() if isinstance(X.dask, HighLevelGraph) else ()
    for argument, _ in itertools.chain.from_iterable(getattr(layer, "indices", ()) for layer in layers):
        if isinstance(argument, BlockReader) and (root := root_of(argument.source)) is not None:
            yield argument.label, root, file_of(root)


def _blocks(shape: tuple[int, ...], block: tuple[int, ...], first: int) -> tuple[tuple[int, ...], ...]:
    """Block sizes; the first block completes the last block of the `first` rows stacked before."""
    lead = min(-first % block[0], shape[0])
    sizes = da.core.normalize_chunks(block, (shape[0] - lead, *shape[1:]))
    rows = (lead, *sizes[0]) if lead else sizes[0]
    return tuple(n for n in rows if n or len(rows) == 1), *sizes[1:]


def path_of(stored: Any) -> str:
    """Path of the file or store that contains an array or group."""
    if hasattr(stored, "file"):
        return str(stored.file.filename)
    store = stored.store
    return str(getattr(store, "root", None) or getattr(store, "path", None) or store)


def _block_shape(
    stored: Any, format_: str, shape: tuple[int, ...], dtype: np.dtype, chunk_bytes: int
) -> tuple[int, ...]:
    if format_ == "csc":
        return shape[0], max(1, min(COLUMNS_PER_CHUNK, shape[1]))
    max_rows = rows_per_chunk(int(np.prod(shape[1:])), dtype.itemsize, chunk_bytes)
    # Whole shards, or else whole chunks, so that none is read twice.
    unit = 1
    if format_ == "dense" and stored.chunks:
        shards = getattr(stored, "shards", None)
        unit = shards[0] if shards and shards[0] <= max_rows else stored.chunks[0]
    return max(1, max_rows // unit) * unit, *shape[1:]
