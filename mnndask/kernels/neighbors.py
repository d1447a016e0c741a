"""Mutual nearest neighbours (definition, step 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask.kernels.distances import Points, squared_distances

Rows = NDArray[np.intp]


def nearest(queries: Points, others: Points, k: int, tie: NDArray[np.float64]) -> tuple[Rows, Rows]:
    """Find the `k` nearest of `others` for each query.

    Squared distances within the query's `tie` of the k-th smallest count as tied with it, and ties go to the
    lower index.

    Returns
    -------
    Query rows and other rows of the neighbour relation, ordered by query, then by other.
    """
    n_others = len(others)
    if k >= n_others:
        rows, cols = np.indices((len(queries), n_others)).reshape(2, -1)
        return rows, cols
    squared = squared_distances(queries, others)
    kth = np.partition(squared, k - 1, axis=1)[:, k - 1, None]
    margin = tie.astype(squared.dtype)[:, None]
    chosen = squared < kth - margin
    tied = np.abs(squared - kth) <= margin
    free = k - chosen.sum(axis=1, keepdims=True)
    crowded = np.flatnonzero(tied.sum(axis=1) > free[:, 0])  # only here does the order decide
    tied[crowded] &= np.cumsum(tied[crowded], axis=1) <= free[crowded]
    rows, cols = np.nonzero(chosen | tied)
    return rows, cols


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
