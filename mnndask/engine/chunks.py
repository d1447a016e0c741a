"""Row chunks of moderate size, as a memory limit requires for lazy input."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from scipy import sparse

from mnndask._typing import Block
from mnndask.engine.memory_budget import Budget, at_least, in_words
from mnndask.errors import InputError


def dense_or_csr(block: Any) -> Block:
    """Convert a chunk of any array type to a NumPy array or a CSR matrix."""
    return block.tocsr() if hasattr(block, "tocsr") else np.asarray(block)  # SciPy or pydata sparse


def whole_rows(X: da.Array) -> da.Array:
    """Join chunks along genes, so that each chunk consists of whole cells."""
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
    """Stack matrices along cells. The result is CSR if any of them is sparse."""
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
    """Wrap a matrix in memory in a dask array with chunks of `rows` rows."""
    out: da.Array = da.from_array(X, chunks=(rows, X.shape[1]), name=False, asarray=False)
    return out


TINY_BYTES = 2**20  # chunks below this mean size are joined if there are more than MANY_CHUNKS
MANY_CHUNKS = 256
STORED_SHARE = 0.1  # assumed share of a sparse matrix's values that are stored


def moderate(X: da.Array, label: str, budget: Budget, itemsize: int, n_near: int = 0) -> da.Array:
    """Split or join chunks into whole rows, so that workers have memory for them and their results.

    Parameters
    ----------
    X
        Shape ``(n_cells, n_genes)``, in any chunks. Chunks along genes are joined.
    label
        Its name in messages.
    budget
        Memory allowed.
    itemsize
        Bytes per value in the precision to compute in.
    n_near
        Number of genes that a fit uses for distances; 0 if nothing is fitted.

    Raises
    ------
    InputError
        If the budget is too small for one row, or for a chunk that must be read whole to be split.
    """
    least_for_fit = budget.least_for_fit(n_near, itemsize)
    row_bytes = X.shape[1] * max(itemsize, X.dtype.itemsize)
    if row_bytes > budget.chunk_bytes:
        least = max(budget.least_for_chunk(row_bytes), least_for_fit)
        what = f"{budget.in_words} is too small for one cell of {label}."
        raise InputError(what, f"Give at least {at_least(least)}, or fewer threads (n_jobs).")
    most = budget.chunk_bytes // row_bytes
    sizes = X.chunks[0]
    largest = max(sizes)
    if largest > most:
        needed = _bytes_to_split(X, largest)
        if needed > budget.per_worker:
            what = (
                f"{budget.in_words} is too small for a chunk of {label}: "
                f"{largest:,} cells x {X.shape[1]:,} genes, about {in_words(needed)}."
            )
            least = max(2 * budget.n_workers * needed, least_for_fit)
            remedy = (
                f"Store it by rows (CSR, or chunks of {most:,} cells), or rechunk it: "
                f"X = X.rechunk(({most}, -1)); or give at least {at_least(least)}."
            )
            raise InputError(what, remedy)
        X = whole_rows(X)
        return _rechunked(X, tuple(n for size in sizes for n in _split(size, most)))
    X = whole_rows(X)
    if len(sizes) > MANY_CHUNKS and sum(sizes) * row_bytes < TINY_BYTES * len(sizes):
        return _rechunked(X, most)
    return X


def _bytes_to_split(X: da.Array, rows: int) -> int:
    """Return the memory needed to split a chunk of whole rows: as read, and decoded or joined."""
    per_value = X.dtype.itemsize
    copies = 2 if X.numblocks[1] == 1 else 3
    if sparse.issparse(X._meta):
        per_value = STORED_SHARE * (X.dtype.itemsize + 4)
        copies = 2 if X.numblocks[1] > 1 or X._meta.format == "csc" else 1
    return int(rows * X.shape[1] * copies * per_value)


def _rechunked(X: da.Array, rows: int | tuple[int, ...]) -> da.Array:
    out: da.Array = X.rechunk({0: rows})
    return out


def _split(size: int, most: int) -> list[int]:
    """Split a chunk size into as few nearly equal sizes as possible."""
    n = -(-size // most)
    return [size // n + (i < size % n) for i in range(n)]
