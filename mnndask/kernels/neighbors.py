"""Mutual nearest neighbours (definition, step 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask.kernels.distances import Floats, Points, squared_distances

Rows = NDArray[np.intp]


def nearest(queries: Points, others: Points, k: int, tie: NDArray[np.float64]) -> tuple[Rows, Rows]:
    """Find the `k` nearest of `others` for each query.

    Squared distances within the query's `tie` of the k-th smallest count as tied with it, and ties go to the
    lower index.

    Parameters
    ----------
    queries
        In memory.
    others
        Visited tile by tile; a second time for queries whose ties have to be told apart.
    k
        Number of neighbours.
    tie
        Shape ``(n_queries,)``.

    Returns
    -------
    Query rows and other rows of the neighbour relation, ordered by query, then by other.
    """
    if k >= len(others):
        rows, cols = np.indices((len(queries), len(others))).reshape(2, -1)
        return rows, cols
    values, cols = _smallest(queries, others, k + 1)
    kth = np.partition(values, k - 1, axis=1)[:, k - 1, None]
    margin = tie.astype(values.dtype)[:, None]
    chosen = values <= kth + margin
    crowded = chosen.all(axis=1)  # more than k: only here does the order decide
    chosen[crowded] = False
    rows, at = np.nonzero(chosen)
    cols = cols[rows, at]
    if crowded.any():
        many = np.flatnonzero(crowded)
        free = k - (values < kth - margin).sum(axis=1)[many]
        more_rows, more_cols = _by_index(queries[many], others, kth[many], margin[many], free)
        rows, cols = np.concatenate([rows, many[more_rows]]), np.concatenate([cols, more_cols])
    order = np.lexsort((cols, rows))
    return rows[order], cols[order]


def _smallest(queries: Points, others: Points, n: int) -> tuple[Floats, Rows]:
    """The `n` smallest squared distances of each query, unordered, and whose they are."""
    values = np.empty((len(queries), 0), queries.squared.dtype)
    cols = np.empty((len(queries), 0), np.intp)
    for at, tile in others.tiles():
        squared = squared_distances(queries, tile)
        if len(tile) > n:
            near = np.argpartition(squared, n - 1, axis=1)[:, :n]
            squared = np.take_along_axis(squared, near, axis=1)
        else:
            near = np.broadcast_to(np.arange(len(tile)), squared.shape)
        values, cols = np.hstack([values, squared]), np.hstack([cols, near + at.start])
        if values.shape[1] > n:
            least = np.argpartition(values, n - 1, axis=1)[:, :n]
            values = np.take_along_axis(values, least, axis=1)
            cols = np.take_along_axis(cols, least, axis=1)
    return values, cols


def _by_index(
    queries: Points, others: Points, kth: Floats, margin: Floats, free: NDArray[np.intp]
) -> tuple[Rows, Rows]:
    """All that are clearly nearer than the k-th, and of those tied with it the first `free`."""
    found = []
    for at, tile in others.tiles():
        squared = squared_distances(queries, tile)
        tied = np.abs(squared - kth) <= margin
        seen = np.cumsum(tied, axis=1)
        rows, cols = np.nonzero((squared < kth - margin) | (tied & (seen <= free[:, None])))
        found.append((rows, cols + at.start))
        free = free - np.minimum(seen[:, -1], free)
    return np.concatenate([rows for rows, _ in found]), np.concatenate([cols for _, cols in found])


def mutual(of_new: tuple[Rows, Rows], of_ref: tuple[Rows, Rows], shape: tuple[int, int]) -> tuple[Rows, Rows]:
    """Keep the pairs that both neighbour relations hold.

    Parameters
    ----------
    of_new
        New rows and their nearest reference rows.
    of_ref
        Reference rows and their nearest new rows.
    shape
        Number of new cells, number of reference cells.

    Returns
    -------
    Reference rows and new rows of the pairs, ordered by new row, then by reference row.
    """
    towards = sparse.csr_array((np.ones(len(of_new[0]), bool), of_new), shape=shape)
    back = sparse.csr_array((np.ones(len(of_ref[0]), bool), of_ref), shape=shape[::-1])
    both = (towards * back.T).tocsr()
    both.sort_indices()
    new_rows, ref_rows = both.nonzero()
    return ref_rows.astype(np.intp), new_rows.astype(np.intp)
