"""Write the elements of an AnnData store."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, cast

import dask
import dask.array as da
import h5py
import numpy as np
import zarr
from anndata import AnnData, Raw
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import sparse_dataset, write_elem
from scipy import sparse
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from mnndask._library_state import exclusive
from mnndask._progress import counted, stage
from mnndask.engine.block_tasks import compute_each, over_blocks
from mnndask.engine.tasks import threads
from mnndask.engine.waiting import waiting_for_workers
from mnndask.errors import OutputError, this_worker
from mnndask.io.anndata_compat import layer_names, writing_elements
from mnndask.io.begun_matrix import ARRAY, Grid, atomic, begun_or_empty, with_empty_chunks
from mnndask.io.plain_strings import plain
from mnndask.stores.atomic_store import ROOT
from mnndask.stores.local_files import SHARE_IT, is_stored_here
from mnndask.stores.missing_chunks import stored_chunks

Root: TypeAlias = zarr.Group | h5py.Group

NAMES_PER_CHUNK = 65_536
BLOCKS_AT_ONCE = 8  # of a sparse matrix: each takes the time of planning all


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
    store = atomic(root)
    if store.annotated:
        return
    write_elements(adata, root, n_jobs, remote=remote, with_X=with_X)
    store.annotations_are_written()


def write_elements(adata: AnnData, root: Root, n_jobs: int | None, *, remote: bool, with_X: bool) -> None:
    """Write everything but ``X``, or with it. Triggers a compute of lazy elements."""
    with waiting_for_workers(), writing_elements():
        lazy = _write_in_memory(adata, root, remote=remote)
    for slot, key, value in lazy:
        _write_lazy(root[slot], key, value, n_jobs)
    if with_X and adata.X is not None:
        _write_lazy(root, "X", adata.X, n_jobs)
    _write_raw(adata.raw, root, n_jobs)


def _write_in_memory(adata: AnnData, root: Root, *, remote: bool) -> list[tuple[str, str, da.Array]]:
    """Write what is in memory. Return slots, keys and values of lazy elements."""
    adata.strings_to_categoricals()
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)
    tables: Any = zarr.open_group(MemoryStore(), zarr_format=3) if remote else root
    in_file = isinstance(root, h5py.Group)
    chunks, as_written = ({}, plain) if in_file else ({"chunks": (NAMES_PER_CHUNK,)}, _as_it_is)
    # Strings take ten times their size while chunks are encoded.
    with exclusive() as changes:
        changes.enter_context(zarr.config.set({"async.concurrency": 1}))
        for name in ("obs", "var"):
            write_elem(tables, name, as_written(getattr(adata, name)), dataset_kwargs=chunks)
    slots = {name: dict(getattr(adata, name)) for name in ("obsm", "obsp", "varm", "varp", "uns")}
    slots["layers"] = {name: adata.layers[name] for name in layer_names(adata)}
    lazy: list[tuple[str, str, da.Array]] = []
    for slot, values in slots.items():
        lazy += [(slot, key, value) for key, value in values.items() if isinstance(value, da.Array)]
        eager = {key: value for key, value in values.items() if not isinstance(value, da.Array)}
        write_elem(tables, slot, as_written(eager))
    if remote:
        sync(_copy(tables.store, cast("zarr.Group", root).store))
    return lazy


def _as_it_is(value: Any) -> Any:
    return value


def _write_raw(raw: Raw | None, root: Root, n_jobs: int | None) -> None:
    """Write ``raw`` as anndata does."""
    if raw is None:
        if isinstance(root, zarr.Group):  # readers of files in other languages may not know empty elements
            with writing_elements():
                write_elem(root, "raw", None)
        return
    group = root.require_group("raw")
    group.attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
    _write_lazy(group, "X", raw.X, n_jobs)
    with writing_elements():
        write_elem(group, "var", plain(raw.var) if isinstance(root, h5py.Group) else raw.var)
        write_elem(group, "varm", dict(raw.varm))


def _write_lazy(group: Any, key: str, X: Any, n_jobs: int | None) -> None:
    """Write a matrix as anndata does. A lazy one is computed while other threads may write."""
    format_ = getattr(getattr(X, "_meta", None), "format", None)
    if isinstance(X, da.Array) and is_dense(X) and X.size:
        with writing_elements():
            stored = da.store(X, _new_array(group, key, X), compute=False)
        dask.compute(stored, scheduler="threads", **threads(n_jobs))
    elif isinstance(X, da.Array) and format_ in {"csr", "csc"}:
        _write_sparse(group, key, X, n_jobs)
    else:
        with writing_elements():
            write_elem(group, key, X)


def _new_array(group: Any, key: str, X: da.Array) -> Any:
    if isinstance(group, h5py.Group):
        array: Any = group.create_dataset(key, shape=X.shape, dtype=X.dtype)
    else:
        array = with_empty_chunks(group.require_array(key, shape=X.shape, dtype=X.dtype))
    array.attrs.update(ARRAY)
    return array


def _write_sparse(group: Any, key: str, X: da.Array, n_jobs: int | None) -> None:
    """Write a lazy sparse matrix, a few chunks of rows (CSC: of columns) at a time."""
    for i, block in enumerate(_sparse_blocks(X, n_jobs)):
        with writing_elements():
            if i:
                sparse_dataset(group[key]).append(block)
                continue
            block.indptr, block.indices = block.indptr.astype(np.int64), block.indices.astype(np.int64)
            write_elem(group, key, block)


def _sparse_blocks(X: da.Array, n_jobs: int | None) -> Iterator[Any]:
    """Compute a lazy sparse matrix block by block, of whole rows (CSC: of columns)."""
    is_csc = X._meta.format == "csc"
    if is_csc or X.numblocks[1] > 1:
        for start, stop in itertools.pairwise(np.cumsum((0, *X.chunks[is_csc]))):
            with exclusive():
                part = X[:, start:stop] if is_csc else X[start:stop]
            yield part.compute(**threads(n_jobs))
        return
    for first in range(0, X.numblocks[0], BLOCKS_AT_ONCE):
        numbers = range(first, min(first + BLOCKS_AT_ONCE, X.numblocks[0]))
        with exclusive():
            tasks = over_blocks("write-layer", sparse.csr_matrix, X, {i: () for i in numbers})
        yield sparse.vstack(compute_each([tasks], n_jobs, 0)[0], format="csr")


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


def write_matrix(X: Any, root: zarr.Group, n_jobs: int | None, grid: Grid) -> None:
    """Write a matrix as ``X``; see :func:`write_matrices`."""
    if X is not None:
        write_matrices({"X": X}, root, n_jobs, grid)


def write_matrices(matrices: Mapping[str, Any], root: zarr.Group, n_jobs: int | None, grid: Grid) -> None:
    """Write matrices of the same cells, by path in the store. Triggers a compute of lazy ones.

    Dense matrices are written chunk by chunk, without the chunks that a stopped run has written, which are
    read back first: each task writes the same rows of all, as many as the grid has of the first. Sparse
    matrices are written by anndata.
    """
    if not all(is_dense(X) and 0 not in X.shape for X in matrices.values()):
        for name, X in matrices.items():
            _write_lazy(root, name, X, n_jobs)
        return
    arrays, gone = begun_or_empty(matrices, root, n_jobs, grid)
    write_blocks(arrays, list(matrices.values()), stored_chunks(arrays[0])[0], gone, n_jobs)


def write_blocks(
    arrays: Sequence[Any], matrices: Sequence[Any], rows: int, gone: Sequence[bool], n_jobs: int | None
) -> None:
    """Write matrices of the same cells in blocks of `rows` rows, to the arrays of a store or file.

    Each task writes the same rows of all; only blocks that are `gone` are computed.
    """
    n = arrays[0].shape[0]
    todo = {i: (start,) for i, start in enumerate(range(0, n, rows)) if gone[i]}
    n_cells = sum(min(rows, n - start) for (start,) in todo.values())
    with stage("writing", n_cells):
        put = counted(partial(_put_each, arrays), rows=_n_rows)
        # Tasks are not fused, so that progress displays show the stage of each.
        with exclusive() as changes:
            changes.enter_context(dask.config.set({"optimization.fuse.active": False}))
            chunked = [da.asarray(X).rechunk((rows, -1)) for X in matrices]
            blocks = chunked[0] if len(chunked) == 1 else _in_tuples(chunked)
            tasks = over_blocks("write", put, blocks, todo)
        compute_each([tasks], n_jobs, n_cells)


def _in_tuples(matrices: Sequence[da.Array]) -> da.Array:
    """Return an array whose blocks are tuples of blocks of matrices, in one graph.

    Of several graphs, each would be optimised alone, and tasks on which several matrices depend run for each.
    """
    first, name = matrices[0], f"mnn-embedding-{uuid.uuid4().hex}"  # embeddings are what is beside genes
    meta = np.empty((0, 0), first.dtype)
    out: da.Array = da.map_blocks(
        _tuple, *matrices, name=name, dtype=first.dtype, meta=meta, chunks=first.chunks
    )
    return out


def _tuple(*blocks: Any) -> tuple[Any, ...]:
    return blocks


def _n_rows(block: Any, _: int) -> int:
    return len(block[0] if isinstance(block, tuple) else block)


def _put_each(arrays: Sequence[Any], block: Any, start: int) -> None:
    """Write the same rows of each matrix: a block, or a tuple of blocks."""
    for array, own in zip(arrays, block if isinstance(block, tuple) else (block,), strict=True):
        _put(array, start, own)


def _put(array: Any, start: int, block: Any) -> None:
    worker = this_worker()
    if worker is not None and not is_stored_here(array):  # zarr would create folders of the worker's own
        what = f"The unfinished output is gone, or {worker} does not see it."
        raise OutputError(what, SHARE_IT)
    array[start : start + len(block)] = block
