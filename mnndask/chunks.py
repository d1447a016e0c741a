"""Row chunks of moderate size: what a memory limit means for lazy input."""

from __future__ import annotations

import dask.array as da
from scipy import sparse

from mnndask.budget import Budget, at_least, in_words
from mnndask.errors import InputError
from mnndask.lazy import whole_rows

TINY_BYTES = 2**20  # of a chunk; many of these are joined
MANY_CHUNKS = 256
STORED_SHARE = 0.1  # of the values of a sparse matrix, taken to be stored


def moderate(X: da.Array, label: str, budget: Budget, itemsize: int, n_near: int = 0) -> da.Array:
    """Array in chunks of whole rows, split or joined so that workers can hold what becomes of them.

    Parameters
    ----------
    X
        Shape ``(n_cells, n_genes)``, in any chunks. Those along genes are joined.
    label
        How messages call it.
    budget
        Memory allowed.
    itemsize
        Bytes of a value of the precision to compute in.
    n_near
        Genes that a fit uses for distances; 0 where nothing is fitted.

    Raises
    ------
    InputError
        If the budget does not suffice for a row, or for a chunk that has to be in memory to be split.
    """
    least_for_fit = budget.least_for_fit(n_near, itemsize)
    row_bytes = X.shape[1] * max(itemsize, X.dtype.itemsize)
    if row_bytes > budget.chunk_bytes:
        least = max(budget.least_for_chunk(row_bytes), least_for_fit)
        what = f"memory_limit of {in_words(budget.limit)} is too small for one cell of {label}."
        raise InputError(what, f"Give at least {at_least(least)}, or fewer threads (n_jobs).")
    most = budget.chunk_bytes // row_bytes
    sizes = X.chunks[0]
    largest = max(sizes)
    if largest > most:
        needed = _bytes_to_split(X, largest)
        if needed > budget.per_worker:
            what = (
                f"memory_limit of {in_words(budget.limit)} is too small for a chunk of {label}: "
                f"{largest:,} cells x {X.shape[1]:,} genes, about {in_words(needed)}."
            )
            least = max(2 * budget.n_workers * needed, least_for_fit)
            remedy = (
                f"Store it by rows (CSR, or chunks of {most:,} cells), or rechunk it: "
                f"X = X.rechunk(({most}, -1)); or give at least {at_least(least)}."
            )
            raise InputError(what, remedy)
        X = whole_rows(X)
        return _rechunked(X, tuple(part for size in sizes for part in _split(size, most)))
    X = whole_rows(X)
    if len(sizes) > MANY_CHUNKS and sum(sizes) * row_bytes < TINY_BYTES * len(sizes):
        return _rechunked(X, most)
    return X


def _bytes_to_split(X: da.Array, rows: int) -> int:
    """Memory of a chunk of whole rows that has to be there to be split: as read, and decoded or joined."""
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
    """Cut a chunk into as few about equal parts as may be."""
    n = -(-size // most)
    return [size // n + (i < size % n) for i in range(n)]
