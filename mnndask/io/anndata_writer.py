"""Write the elements of an AnnData store."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr
from anndata import AnnData, Raw
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import sparse_dataset, write_elem
from numpy.typing import NDArray
from scipy import sparse
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from mnndask._blocks import rows_per_chunk
from mnndask._library_state import exclusive
from mnndask._progress import counted, stage
from mnndask.engine.tasks import compute, named_tasks, threads
from mnndask.engine.waiting import waiting_for_workers
from mnndask.errors import OutputError, this_worker, warn
from mnndask.io.anndata_compat import layer_names, writing_elements
from mnndask.stores.atomic_store import ROOT, AtomicStore
from mnndask.stores.contents import filled_keys
from mnndask.stores.disk_space import COMPRESSOR
from mnndask.stores.local_files import SHARE_IT, is_stored_here
from mnndask.stores.location import innermost, is_denied, is_remote
from mnndask.stores.missing_chunks import chunk_key, keys_in, missing_chunks, stored_chunks

NAMES_PER_CHUNK = 65_536
ARRAY: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}
CHUNKS_PER_SHARD = 8  # on object stores, where readers of a few cells fetch one chunk


def write_annotations(
    adata: AnnData,
    root: zarr.Group,
    n_jobs: int | None = None,
    *,
    remote: bool = False,
    with_X: bool = False,
) -> None:
    """Write everything but ``X``, as ``AnnData.write_zarr`` does, unless the resumed run has written it.

    Triggers a compute of lazy elements. If `remote`, tables are written to memory and uploaded together. With
    `with_X`, ``X`` is written, too: the corrected values are elsewhere.
    """
    store = _atomic(root)
    if store.annotated:
        return
    with waiting_for_workers(), writing_elements():
        lazy = _write_in_memory(adata, root, remote=remote)
    for slot, key, value in lazy:
        group = root[slot]
        assert isinstance(group, zarr.Group)
        _write_lazy(group, key, value, n_jobs)
    if with_X and adata.X is not None:
        _write_lazy(root, "X", adata.X, n_jobs)
    _write_raw(adata.raw, root, n_jobs)
    store.annotations_are_written()


def _write_in_memory(adata: AnnData, root: zarr.Group, *, remote: bool) -> list[tuple[str, str, da.Array]]:
    """Write what is in memory. Return slots, keys and values of lazy elements."""
    adata.strings_to_categoricals()
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)
    tables = zarr.open_group(MemoryStore(), zarr_format=3) if remote else root
    # Strings take ten times their size while chunks are encoded.
    with exclusive() as changes:
        changes.enter_context(zarr.config.set({"async.concurrency": 1}))
        for name in ("obs", "var"):
            write_elem(tables, name, getattr(adata, name), dataset_kwargs={"chunks": (NAMES_PER_CHUNK,)})
    slots = {name: dict(getattr(adata, name)) for name in ("obsm", "obsp", "varm", "varp", "uns")}
    slots["layers"] = {name: adata.layers[name] for name in layer_names(adata)}
    lazy: list[tuple[str, str, da.Array]] = []
    for slot, values in slots.items():
        lazy += [(slot, key, value) for key, value in values.items() if isinstance(value, da.Array)]
        eager = {key: value for key, value in values.items() if not isinstance(value, da.Array)}
        write_elem(tables, slot, eager)
    if remote:
        sync(_copy(tables.store, root.store))
    return lazy


def _write_raw(raw: Raw | None, root: zarr.Group, n_jobs: int | None) -> None:
    """Write ``raw`` as anndata does."""
    if raw is None:
        with writing_elements():
            write_elem(root, "raw", None)
        return
    group = root.require_group("raw")
    group.attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
    _write_lazy(group, "X", raw.X, n_jobs)
    with writing_elements():
        write_elem(group, "var", raw.var)
        write_elem(group, "varm", dict(raw.varm))


def _write_lazy(group: zarr.Group, key: str, X: Any, n_jobs: int | None) -> None:
    """Write a matrix as anndata does. A lazy one is computed while other threads may write."""
    format_ = getattr(getattr(X, "_meta", None), "format", None)
    if isinstance(X, da.Array) and is_dense(X) and X.size:
        with writing_elements():
            array = group.require_array(key, shape=X.shape, dtype=X.dtype)
            array.attrs.update(ARRAY)
            stored = da.store(X, _with_empty_chunks(array), compute=False)
        dask.compute(stored, scheduler="threads", **threads(n_jobs))
    elif isinstance(X, da.Array) and format_ in {"csr", "csc"}:
        _write_sparse(group, key, X, n_jobs)
    else:
        with writing_elements():
            write_elem(group, key, X)


def _write_sparse(group: zarr.Group, key: str, X: da.Array, n_jobs: int | None) -> None:
    """Write a lazy sparse matrix, one chunk of rows (CSC: of columns) at a time."""
    is_csc = X._meta.format == "csc"
    ends = np.cumsum((0, *X.chunks[is_csc]))
    for start, stop in itertools.pairwise(ends):
        with exclusive():
            part = X[:, start:stop] if is_csc else X[start:stop]
        block = part.compute(**threads(n_jobs))
        with writing_elements():
            if start:
                sparse_dataset(group[key]).append(block)
                continue
            block.indptr, block.indices = block.indptr.astype(np.int64), block.indices.astype(np.int64)
            write_elem(group, key, block)


def is_dense(X: Any) -> bool:
    """Whether a matrix is dense, be it in memory, lazy, or in an open file."""
    meta = getattr(X, "_meta", X)
    return not sparse.issparse(meta) and not isinstance(meta, CSRDataset | CSCDataset)


async def _copy(source: Store, target: Store) -> None:
    """Copy all values but the root metadata, concurrently."""

    async def one(key: str) -> None:
        value = await source.get(key, default_buffer_prototype())
        assert value is not None
        await target.set(key, value)

    await asyncio.gather(*[one(key) async for key in source.list() if key != ROOT])


def write_matrix(
    X: Any, root: zarr.Group, n_jobs: int | None, chunk_bytes: int, *, remote: bool = False, name: str = "X"
) -> None:
    """Write a matrix as ``X``, or as `name`. Triggers a compute if it is lazy.

    A dense matrix is written chunk by chunk, without the chunks that a stopped run has written, which are
    read back first. If `remote`, chunks are grouped into shards, one object each. A sparse matrix is written
    by anndata.
    """
    if X is None:
        return
    if not is_dense(X) or 0 in X.shape:
        _write_lazy(root, name, X, n_jobs)
        return
    begun = _begun_matrix(X, root, name)
    array = _empty_matrix(X, root, name, chunk_bytes, sharded=remote) if begun is None else begun
    array = _with_empty_chunks(array)
    rows = stored_chunks(array)[0]
    starts = range(0, X.shape[0], rows)
    sizes = [min(rows, X.shape[0] - start) for start in starts]
    gone = [True] * len(starts) if begun is None else _missing_or_damaged(array, n_jobs)
    # Tasks are not fused, so that progress displays show the stage of each.
    with exclusive() as changes:
        changes.enter_context(dask.config.set({"optimization.fuse.active": False}))
        blocks = da.asarray(X).rechunk((rows, -1)).to_delayed().ravel()
    n_cells = sum(size for size, is_gone in zip(sizes, gone, strict=True) if is_gone)
    with stage("writing", n_cells):
        write, put = named_tasks("write"), counted(_put, rows=lambda _, __, block: len(block))
        tasks = [
            write(put, array, start, block)
            for start, block, is_gone in zip(starts, blocks, gone, strict=True)
            if is_gone
        ]
        compute(tasks, n_jobs, n_cells)


def _atomic(root: zarr.Group) -> AtomicStore:
    store = root.store
    assert isinstance(store, AtomicStore)
    return store


def _begun_matrix(X: Any, root: zarr.Group, name: str) -> zarr.Array[Any] | None:
    """Return the matrix that a stopped run began to write; remove what cannot be continued."""
    store = _atomic(root)
    if not keys_in(store, name):
        return None
    try:
        array = root[name]
        if isinstance(array, zarr.Array) and (array.shape, array.dtype) == (X.shape, X.dtype):
            store.expect(f"{name}/zarr.json")
            return array
    except Exception as error:
        if _is_access(error):
            raise
    sync(store.delete_dir(name))
    return None


def _missing_or_damaged(array: zarr.Array[Any], n_jobs: int | None) -> list[bool]:
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
        read, check = named_tasks("check"), counted(_is_damaged, rows=lambda _, __, rows: rows)
        return compute([read(check, array, int(i) * rows, rows) for i in chunks], n_jobs, n_cells)


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


def _empty_matrix(X: Any, root: zarr.Group, name: str, chunk_bytes: int, *, sharded: bool) -> zarr.Array[Any]:
    n_cells, n_genes = X.shape
    rows = max(1, min(rows_per_chunk(n_genes, X.dtype.itemsize, chunk_bytes), n_cells))
    chunk_rows = -(-rows // CHUNKS_PER_SHARD) if sharded else rows
    rows = -(-rows // chunk_rows) * chunk_rows
    return root.create_array(
        name,
        shape=X.shape,
        dtype=X.dtype,
        chunks=(chunk_rows, n_genes),
        shards=(rows, n_genes) if sharded else None,
        compressors=COMPRESSOR,
        attributes=ARRAY,
    )


def _with_empty_chunks(array: Any) -> Any:
    """Return an array that writes chunks of zeros, too: omitted ones would look like lost ones."""
    config: Any = {"write_empty_chunks": True}
    return zarr.Array(zarr.AsyncArray(array.metadata, array.store_path, config))


def _put(array: zarr.Array[Any], start: int, block: Any) -> None:
    worker = this_worker()
    if worker is not None and not is_stored_here(array):  # zarr would create folders of the worker's own
        what = f"The unfinished output is gone, or {worker} does not see it."
        raise OutputError(what, SHARE_IT)
    array[start : start + len(block)] = block
