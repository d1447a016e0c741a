"""The dask wiring: how rows are chunked, gathered for a fit, and corrected chunk by chunk."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask.budget import CHUNK_BYTES
from mnndask.chunk_corrector import ChunkCorrector
from mnndask.kernels.neighbors import Rows
from mnndask.parallel import single_threaded_blas
from mnndask.progress import counted
from mnndask.reduce import compute_lists, tasks_of
from mnndask.shared import Shared, Stored
from mnndask.spaces import Block

Correctors: TypeAlias = Shared[list[ChunkCorrector]] | Stored[list[ChunkCorrector]]


def rows_per_chunk(n_genes: int, itemsize: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Rows of a chunk of moderate size."""
    return max(1, chunk_bytes // max(1, n_genes * itemsize))


def gather(arrays: Sequence[da.Array], rows: Sequence[Rows | None], n_jobs: int | None) -> list[Block]:
    """Read the given rows (None for all) of several arrays, in one pass over the chunks that hold them.

    Triggers one compute. Sparse chunks stay sparse. Each row is counted once.
    """
    parts, n_rows = [], 0
    counting = counted(_read, rows=_n_read)
    for X, wanted in zip(arrays, rows, strict=True):
        starts = np.cumsum((0, *X.chunks[0]))
        tasks = []
        read = tasks_of("gather")
        for block, start, stop in zip(X.to_delayed().ravel(), starts[:-1], starts[1:], strict=True):
            if wanted is None:
                tasks.append(read(counting, block, None))
            elif len(own := wanted[(wanted >= start) & (wanted < stop)]):
                tasks.append(read(counting, block, own - start))
        parts.append(tasks)
        n_rows += X.shape[0] if wanted is None else len(wanted)
    return [
        blocks[0] if len(blocks) == 1 else stack_cells(blocks)
        for blocks in compute_lists(parts, n_jobs, n_rows)
    ]


def _read(block: Any, rows: Rows | None) -> Block:
    X = plain(block)
    return X if rows is None else X[rows]


def _n_read(block: Any, rows: Rows | None) -> int:
    return int(block.shape[0]) if rows is None else len(rows)


def plain(block: Any) -> Block:
    """Give a chunk as a NumPy array or a CSR matrix, whatever array it is."""
    return block.tocsr() if hasattr(block, "tocsr") else np.asarray(block)  # SciPy's or pydata's sparse


def correct_lazily(X: da.Array, shared: Correctors, source: int, batch: int | None) -> da.Array:
    """Corrected array of one source, nothing of which is read before it is computed.

    Parameters
    ----------
    shared
        Correctors of all sources.
    batch
        The one batch that it is, for whoever watches.
    """
    dtype = shared.get()[source].model.spaces.dtype
    name = f"mnn-correct{'' if batch is None else f'-batch{batch}'}-{uuid.uuid4().hex}"
    chunk = partial(_of_chunk, "correct", shared, source)
    out: da.Array = da.map_blocks(chunk, X, name=name, dtype=dtype, meta=np.empty((0, 0), dtype))
    return out


def angles_lazily(X: da.Array, shared: Correctors, source: int) -> da.Array:
    """Angles of the corrections of all rows, nothing of which is read before they are computed."""
    name = f"mnn-angle-{uuid.uuid4().hex}"
    chunk = partial(_of_chunk, "angles", shared, source)
    out: da.Array = da.map_blocks(chunk, X, name=name, dtype=np.float64, meta=np.empty(0), drop_axis=1)
    return out


def _of_chunk(
    method: str, shared: Correctors, source: int, block: Any, block_info: dict[int, Any]
) -> NDArray[Any]:
    """Call a method of a corrector; no closure, so that results can be pickled."""
    first = block_info[0]["array-location"][0][0]
    with single_threaded_blas():
        out: NDArray[Any] = getattr(shared.get()[source], method)(plain(block), first)
    return out


def whole_rows(X: da.Array) -> da.Array:
    """Join chunks along genes, so that each chunk holds whole cells."""
    if X.numblocks[1] <= 1:
        return X
    out: da.Array = da.blockwise(
        _join_columns,
        "ik",
        X,
        "ij",
        new_axes={"k": X.shape[1]},
        concatenate=False,
        dtype=X.dtype,
        meta=X._meta,
    )
    return out


def _join_columns(blocks: list[Any]) -> Any:
    if sparse.issparse(blocks[0]):
        return sparse.hstack(blocks, format="csr")
    return np.concatenate(blocks, axis=1)


def stack_cells(matrices: list[Any]) -> Any:
    """Stack matrices along cells; sparse if any is, as CSR."""
    lazy = any(isinstance(X, da.Array) for X in matrices)
    if any(sparse.issparse(getattr(X, "_meta", X)) for X in matrices):
        matrices = [_csr(X) for X in matrices]
        if not lazy:
            return sparse.vstack(matrices, format="csr")
    if not lazy:
        return np.concatenate(matrices)
    return da.concatenate([da.asarray(X, asarray=False) for X in matrices])


def _csr(X: Any) -> Any:
    if isinstance(X, da.Array):
        meta = sparse.csr_matrix((0, 0), dtype=X.dtype)
        return da.map_blocks(sparse.csr_matrix, X, dtype=X.dtype, meta=meta)
    return sparse.csr_matrix(X)


def in_row_chunks(X: Block, rows: int) -> da.Array:
    """Matrix in memory in the form of those that are not, `rows` at a time."""
    out: da.Array = da.from_array(X, chunks=(rows, X.shape[1]), name=False, asarray=False)
    return out


def as_lazy(values: NDArray[Any]) -> da.Array:
    """Computed values in the form of those that are not."""
    out: da.Array = da.from_array(values, chunks=-1)
    return out
