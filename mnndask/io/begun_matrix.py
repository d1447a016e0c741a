"""A matrix that a stopped run began to write: which of its chunks are there, and can be read back."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from mnndask._progress import counted, stage
from mnndask.engine.block_tasks import compute_each, over_arguments
from mnndask.errors import warn
from mnndask.stores.atomic_store import AtomicStore
from mnndask.stores.contents import filled_keys
from mnndask.stores.location import innermost, is_denied, is_remote
from mnndask.stores.missing_chunks import chunk_key, keys_in, missing_chunks, stored_chunks

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
