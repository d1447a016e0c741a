"""Nearest neighbours of a block of cells, and ties between them (definition, step 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask._typing import Floats, Rows
from mnndask.core.arrays import Points, row_dots, rows_in_double
from mnndask.core.distances import squared_distances
from mnndask.core.kernels.buffers import products
from mnndask.core.kernels.nearest import keep_nearest, keep_smallest

OF_PAIRS = 16  # both cells of each pair and their difference are in memory, on each thread
DOUBT = 4  # tolerances by which two computed distances may be wrong


def nearest(queries: Points, others: Points, k: int, tolerance: NDArray[np.float64]) -> tuple[Rows, Rows]:
    """Find the `k` nearest of `others` for each query.

    Squared distances within the query's `tolerance` of the k-th smallest count as tied with it. Ties go to
    the lowest rows.

    Parameters
    ----------
    queries
        In memory.
    others
        Visited tile by tile; and twice more, in double precision, for queries that are in doubt.
    k
        Number of neighbours.
    tolerance
        Shape ``(n_queries,)``.

    Returns
    -------
    Query rows and other rows of the neighbour relation.
    """
    (rows, cols), doubtful = searched(queries, others, k, tolerance)
    if not len(doubtful):
        return rows, cols
    more_rows, more_cols = nearest_in_double(queries[doubtful], others, k, tolerance[doubtful])
    return np.concatenate([rows, doubtful[more_rows]]), np.concatenate([cols, more_cols])


def searched(
    queries: Points, others: Points, k: int, tolerance: NDArray[np.float64]
) -> tuple[tuple[Rows, Rows], Rows]:
    """The same for queries that are not in doubt, and those that are; see :func:`without_doubt`."""
    if k >= len(others):
        return every_pair(len(queries), len(others)), np.zeros(0, np.intp)
    return without_doubt(k, tolerance, *_smallest(queries, others, k + 1))


def every_pair(n_queries: int, n_others: int) -> tuple[Rows, Rows]:
    """Neighbour relation of all queries with all others."""
    rows, cols = np.indices((n_queries, n_others)).reshape(2, -1)
    return rows, cols


def without_doubt(
    k: int, tolerance: NDArray[np.float64], values: Floats, cols: Rows
) -> tuple[tuple[Rows, Rows], Rows]:
    """Choose neighbours from the ``k + 1`` smallest squared distances, where these decide.

    A query is in doubt if the next distance after the k-th is within the tolerance of it, or so near that
    rounding decides whether it is. Rounding depends on how cells are divided into blocks and tiles.

    Returns
    -------
    Query rows and other rows of the neighbour relation, and the queries that are in doubt.
    """
    least = np.partition(values, (k - 1, k), axis=1)[:, k - 1 :]
    doubt = least[:, 1] <= least[:, 0] + ((1 + DOUBT) * tolerance).astype(values.dtype)
    rows, at = np.nonzero((values <= least[:, :1]) & ~doubt[:, None])
    return (rows, cols[rows, at]), np.flatnonzero(doubt)


def nearest_in_double(
    queries: Points, others: Points, k: int, tolerance: NDArray[np.float64]
) -> tuple[Rows, Rows]:
    """The same as :func:`nearest`, for fewer neighbours than there are others, in double precision.

    Only others that are near enough in the precision of the cells are compared again.
    """
    kth = nearest_values(queries, others, k).values[:, 0]  # the largest, as each row is a heap
    limits = kth + ((1 + 2 * DOUBT) * tolerance).astype(kth.dtype)
    parts = []
    for at, tile in others.tiles():
        rows, cols = np.nonzero(squared_distances(queries, tile) <= limits[:, None])
        parts.append((rows, cols + at.start, pair_distances(queries.X, rows, tile.X, cols)))
    rows, cols, squared = (np.concatenate(values) for values in zip(*parts, strict=True))

    order = np.lexsort((squared, rows))
    starts = np.searchsorted(rows[order], np.arange(len(queries)))
    exact, margin = squared[order][starts + k - 1][rows], tolerance[rows]
    sure, tied = squared < exact - margin, np.abs(squared - exact) <= margin
    free = k - np.bincount(rows[sure], minlength=len(queries))
    rows_of_tied = rows[tied]
    by_row = np.lexsort((cols[tied], rows_of_tied))
    ranks = np.empty(len(by_row), np.intp)
    ranks[by_row] = np.arange(len(by_row)) - np.searchsorted(rows_of_tied[by_row], rows_of_tied[by_row])
    kept = np.concatenate([np.flatnonzero(sure), np.flatnonzero(tied)[ranks < free[rows_of_tied]]])
    kept = kept[np.lexsort((cols[kept], rows[kept]))]
    return rows[kept], cols[kept]


def pair_distances(A: Floats, rows: Rows, B: Floats, cols: Rows) -> NDArray[np.float64]:
    """Squared distances of pairs of rows of two matrices, in double precision."""
    out = np.empty(len(rows))
    at_once = max(1, rows_in_double(A) // OF_PAIRS)
    for at in row_blocks(len(rows), at_once):
        away = A[rows[at]].astype(np.float64) - B[cols[at]].astype(np.float64)
        out[at] = row_dots(away, away)
    return out


@dataclass(frozen=True)
class Smallest:
    """Smallest squared distances of each cell so far, and the rows of the others that they belong to.

    Parameters
    ----------
    values
        Shape ``(n_cells, n_kept)``; infinite where there are not that many yet. Each row is a heap, its
        largest value first, until it is :meth:`merged`.
    cells
        The others' rows, same shape.
    """

    values: Floats
    cells: Rows

    @classmethod
    def empty(cls, n_cells: int, n_kept: int, dtype: np.dtype) -> Smallest:
        """Infinite distances: nothing was compared yet."""
        return cls(np.full((n_cells, n_kept), np.inf, dtype), np.zeros((n_cells, n_kept), np.intp))

    def __getitem__(self, rows: slice) -> Smallest:
        """Some of the cells."""
        return Smallest(self.values[rows], self.cells[rows])

    @classmethod
    def stacked(cls, blocks: Sequence[Smallest]) -> Smallest:
        """Those of several blocks of cells."""
        return cls(np.vstack([b.values for b in blocks]), np.vstack([b.cells for b in blocks]))

    @classmethod
    def merged(cls, parts: Sequence[Smallest]) -> Smallest:
        """Smallest of all parts, unordered."""
        if len(parts) == 1:
            return parts[0]
        values, cells = (np.hstack([getattr(p, name) for p in parts]) for name in ("values", "cells"))
        n = parts[0].values.shape[1]
        least = np.argpartition(values, n - 1, axis=1)[:, :n]
        return cls(np.take_along_axis(values, least, axis=1), np.take_along_axis(cells, least, axis=1))


def smallest_both_ways(
    queries: Points,
    others: Points,
    blocks: Iterable[slice],
    of_queries: Smallest,
    of_others: Smallest,
    distances: Floats | None = None,
) -> None:
    """Find the smallest distances of each query to others, and of each of the others to queries, together.

    Each inner product is computed once. All cells are in memory.

    Parameters
    ----------
    queries, others
        Cells of two sides.
    blocks
        Queries to look at, a block at once.
    of_queries, of_others
        Smallest distances so far, brought up to date.
    distances
        Is filled with the squared distances, shape ``(n_queries, n_others)``, if given.
    """
    limits = of_others.values[:, 0].copy()
    for at in blocks:
        own = of_queries[at]
        keep_smallest(
            np.matmul(queries.X[at], others.X.T, out=None if distances is None else distances[at]),
            queries.squared[at],
            others.squared,
            at.start,
            own.values,
            own.cells,
            of_others.values,
            of_others.cells,
            limits,
        )


def _smallest(queries: Points, others: Points, n: int) -> tuple[Floats, Rows]:
    """The `n` smallest squared distances of each query, unordered, and the rows of the others."""
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


def nearest_values(queries: Points, others: Points, n: int, distances: Floats | None = None) -> Smallest:
    """The `n` smallest squared distances of each query, the largest of them first, and the others' rows.

    `distances`, if given, is filled with all of them, shape ``(n_queries, n_others)``.
    """
    out = Smallest.empty(len(queries), n, queries.squared.dtype)
    for at, tile in others.tiles():
        inner = products("own", queries.X, tile.X, None if distances is None else distances[:, at])
        keep_nearest(inner, queries.squared, tile.squared, at.start, out.values, out.cells)
    return out
