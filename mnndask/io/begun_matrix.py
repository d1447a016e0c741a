"""Matrices of an output: new ones, and what a stopped run began to write and can be read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from mnndask._blocks import rows_per_chunk
from mnndask._progress import counted, stage
from mnndask.core.parameters import check_bits, is_whole
from mnndask.engine.block_tasks import compute_each, over_arguments
from mnndask.errors import InputError, warn
from mnndask.stores.atomic_store import AtomicStore
from mnndask.stores.contents import filled_keys
from mnndask.stores.disk_space import COMPRESSOR
from mnndask.stores.location import innermost, is_denied, is_remote
from mnndask.stores.missing_chunks import chunk_key, keys_in, missing_chunks, stored_chunks

ARRAY: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}
CHUNKS_PER_SHARD = 8  # on object stores, where readers of a few cells fetch one chunk

Chunks = tuple[int, int | None]  # rows of a chunk, and of a shard of several, if there are shards


def atomic(root: zarr.Group) -> AtomicStore:
    """Return the store of an output that is being written."""
    store = root.store
    assert isinstance(store, AtomicStore)
    return store


def chunks_of(array: zarr.Array[Any]) -> Chunks:
    """Return how many rows an array has in a chunk, and in a shard."""
    return array.chunks[0], None if array.shards is None else array.shards[0]


def begun_matrix(X: Any, root: zarr.Group, name: str, chunks: Chunks | None = None) -> zarr.Array[Any] | None:
    """Return the matrix that a stopped run began to write; remove what cannot be continued.

    That is what has another shape or type than `X`, or other chunks than those that are given.
    """
    store = atomic(root)
    if not keys_in(store, name):
        return None
    try:
        array = root[name]
        if isinstance(array, zarr.Array) and _is_for(array, X, chunks):
            store.expect(f"{name}/zarr.json")
            return array
    except Exception as error:
        if _is_access(error):
            raise
    sync(store.delete_dir(name))
    return None


def _is_for(array: zarr.Array[Any], X: Any, chunks: Chunks | None) -> bool:
    return (array.shape, array.dtype) == (X.shape, X.dtype) and chunks in (None, chunks_of(array))


def missing_or_damaged(array: zarr.Array[Any], n_jobs: int | None) -> list[bool]:
    """Which stored chunks, of whole rows, are missing or cannot be read back. The latter are removed."""
    store = array.store
    assert isinstance(store, AtomicStore)
    stored = ~missing_chunks(array).ravel()
    gone = missing_chunks(array, filled_keys(store.stored)).ravel()
    gone[~gone] = _damaged(array, np.flatnonzero(~gone), n_jobs)
    damaged = np.flatnonzero(gone & stored)
    if gone.any():
        store.begin()
    for i in damaged:
        sync(store.delete(chunk_key(array, (int(i), 0))))  # zarr reads a shard before it writes to it
    if damaged.size:
        what = (
            f"{damaged.size} of the {stored.sum()} chunks of {array.path} that a stopped run has left are "
            "damaged, as after a loss of power."
        )
        warn(what, "They are written again.")
    return gone.tolist()


def _damaged(array: zarr.Array[Any], chunks: NDArray[np.integer], n_jobs: int | None) -> list[bool]:
    """Whether each of some stored chunks cannot be read back."""
    if not chunks.size:
        return []
    rows = stored_chunks(array)[0]
    n_cells = chunks.size * rows
    with stage("checking what is written", n_cells):
        check = counted(partial(_is_damaged, array), rows=lambda _, rows: rows)
        tasks = over_arguments("check", check, [(int(i) * rows, rows) for i in chunks])
        return compute_each([tasks], n_jobs, n_cells)[0]


def _is_damaged(array: zarr.Array[Any], start: int, rows: int) -> bool:
    try:
        array[start : start + rows]  # raises if a chunk is short or does not match its checksum
    except Exception as error:
        if _is_access(error):
            raise
        return True
    return False


def _is_access(error: BaseException) -> bool:
    """Whether an error says nothing about the data, which could not be reached or held in memory."""
    error = innermost(error)
    return isinstance(error, MemoryError) or is_denied(error) or is_remote(error)


@dataclass(frozen=True)
class Grid:
    """How a new matrix is divided.

    Parameters
    ----------
    chunk_bytes
        Bytes that a task writes.
    in_shards
        Whether chunks are grouped into shards, one object each.
    chunk_genes
        Genes of a chunk, so that one gene can be read alone; the chunks that a task writes are then a shard.
        None for all.
    """

    chunk_bytes: int
    in_shards: bool = False
    chunk_genes: int | None = None

    def __post_init__(self) -> None:
        n = self.chunk_genes
        check_bits("chunk_genes", n)
        if n is not None and (not is_whole(n) or n < 1):
            what = f"chunk_genes is {n!r}."
            raise InputError(what, "Give a positive number of genes, such as 200, or None for all.")

    def chunks(self, X: Any) -> Chunks:
        """Return how many rows a chunk has, and a shard of several, if there are shards."""
        rows = max(1, min(rows_per_chunk(X.shape[1], X.dtype.itemsize, self.chunk_bytes), X.shape[0]))
        of_chunk = -(-rows // CHUNKS_PER_SHARD) if self.in_shards else rows
        in_shards = self.in_shards or self.chunk_genes is not None
        return of_chunk, -(-rows // of_chunk) * of_chunk if in_shards else None

    def genes(self, X: Any) -> int:
        """Return how many columns a chunk has."""
        return int(min(self.chunk_genes or X.shape[1], X.shape[1]))


def begun_or_empty(
    matrices: Mapping[str, Any], root: zarr.Group, n_jobs: int | None, grid: Grid
) -> tuple[list[zarr.Array[Any]], list[bool]]:
    """Return the arrays to write to, in chunks of the same rows, and which rows of chunks are yet to be."""
    begun: dict[str, zarr.Array[Any] | None] = {}
    chunks: Chunks | None = None
    for name, X in matrices.items():
        begun[name] = array = begun_matrix(X, root, name, chunks)
        if chunks is None:
            chunks = grid.chunks(X) if array is None else chunks_of(array)
    arrays, gone = [], np.zeros(0, bool)
    for name, array in begun.items():
        assert chunks is not None
        made = _empty_matrix(matrices[name], root, name, chunks, grid) if array is None else array
        arrays.append(with_empty_chunks(made))
        missing = missing_or_damaged(arrays[-1], n_jobs) if array is not None else True
        gone = gone | missing if gone.size else np.full(-(-made.shape[0] // stored_chunks(made)[0]), missing)
    return arrays, gone.tolist()


def _empty_matrix(X: Any, root: zarr.Group, name: str, chunks: Chunks, grid: Grid) -> zarr.Array[Any]:
    of_chunk, of_shard = chunks
    genes = grid.genes(X)
    return root.create_array(
        name,
        shape=X.shape,
        dtype=X.dtype,
        chunks=(of_chunk, genes),
        shards=None if of_shard is None else (of_shard, -(-X.shape[1] // genes) * genes),
        compressors=COMPRESSOR,
        attributes=ARRAY,
    )


def with_empty_chunks(array: Any) -> Any:
    """Return an array that writes chunks of zeros, too: omitted ones would look like lost ones."""
    config: Any = {"write_empty_chunks": True}
    return zarr.Array(zarr.AsyncArray(array.metadata, array.store_path, config))
