"""Nearest cells of the same side: how far they are, and their means, which stand for a cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask._threads import map_blocks
from mnndask._typing import Floats, Rows
from mnndask.core.arrays import DoublePoints, Points, row_dots, tile_size
from mnndask.core.distances import squared_distances
from mnndask.core.kernels.refinement import add_members
from mnndask.core.neighbors import (
    Smallest,
    every_pair,
    nearest_in_double,
    nearest_values,
    pair_distances,
    without_doubt,
)
from mnndask.core.workspace import Workspace

LANDMARKS = 64  # cells by which others are ordered
MEANS_AT_ONCE = 256  # of some thousand genes in double precision: a few megabytes


@dataclass(frozen=True)
class Neighborhoods:
    """The nearest cells to some cells of one side, which are among them unless others equal them.

    Parameters
    ----------
    rows
        The cells, ascending, shape ``(n_cells,)``.
    members
        The nearest of the side to each, ascending, shape ``(n_cells, n_members)``.
    order
        The cells in an order in which near ones follow each other, so that members of some that are worked on
        together are in the processor's cache.
    """

    rows: Rows
    members: NDArray[np.integer]
    order: Rows

    @classmethod
    def of(
        cls, work: Workspace, points: Points, rows: Rows, n: int, tolerance: NDArray[np.float64]
    ) -> Neighborhoods:
        """Find the `n` nearest cells to some of them; ties are those of :func:`.neighbors.nearest`.

        Parameters
        ----------
        points
            All cells of the side.
        rows
            Those to find neighbours of.
        n
            Number of neighbours; at most all.
        tolerance
            For ties, of all cells.
        """
        return cls.of_sizes(work, points, rows, [n], tolerance)[0]

    @classmethod
    def of_sizes(
        cls,
        work: Workspace,
        points: Points,
        rows: Rows,
        sizes: Sequence[int],
        tolerance: NDArray[np.float64],
    ) -> list[Neighborhoods]:
        """The same for several numbers of neighbours, found in one search."""
        landmarks = points[rows[:: -(-len(rows) // LANDMARKS)]]

        def one(at: slice) -> tuple[list[NDArray[np.integer]], Rows]:
            own = points[rows[at]]
            nearest_landmark = squared_distances(own, landmarks).argmin(axis=1)
            return nearest_members(own, points, sizes, tolerance[rows[at]]), nearest_landmark

        found = work.map("refine", len(rows), 3 * tile_size(points), one)
        order = np.argsort(np.concatenate([regions for _, regions in found]), kind="stable")
        members = (np.concatenate(parts) for parts in zip(*(own for own, _ in found), strict=True))
        return [cls(rows, own, order) for own in members]

    def some(self, rows: Rows) -> Neighborhoods:
        """Those of some of the cells, ascending."""
        at = np.searchsorted(self.rows, rows)
        numbers = np.full(len(self.rows), -1)
        numbers[at] = np.arange(len(at))
        order = numbers[self.order]
        return Neighborhoods(rows, self.members[at], order[order >= 0])

    def among(self, numbers: Rows) -> Neighborhoods:
        """The same cells, counted among others: their numbers there."""
        members = numbers[self.members].astype(self.members.dtype)
        return Neighborhoods(numbers[self.rows], members, self.order)

    def means(self, work: Workspace, name: str, points: Points) -> Points:
        """Mean of each neighbourhood; `points` are all cells of the side, in any space."""
        out, members, dtype = work.matrix(name, (len(self.rows), points.X.shape[1])), self.members, work.dtype

        def one(at: slice) -> Floats:
            tiles = ((tile.start, points.X[tile]) for tile in row_blocks(len(points), points.tile))
            out[at] = means = _means(members[at], tiles, out.shape[1]).astype(dtype)
            return row_dots(means, means).astype(dtype)

        squared = work.map("refine", len(self.rows), 3 * out.shape[1], one)
        return Points(out, np.concatenate(squared), points.tile)

    def means_of(self, rows: Rows, X: Floats, n_threads: int) -> Floats:
        """Mean of each neighbourhood; `rows` and `X` are those of cells in memory, all members among them."""
        members = np.searchsorted(rows, self.members).astype(self.members.dtype)
        out = np.empty((len(self.rows), X.shape[1]), X.dtype)

        def one(at: slice) -> None:
            some = self.order[at]
            out[some] = _means(members[some], [(0, X)], X.shape[1])

        map_blocks(one, row_blocks(len(out), MEANS_AT_ONCE), n_threads)
        return out

    def mean_values(self, values: Floats) -> NDArray[np.float64]:
        """Mean of a number of each cell of the side, shape ``(n_cells,)``."""
        out: NDArray[np.float64] = values[self.members].mean(axis=1, dtype=np.float64)
        return out


def _means(
    members: NDArray[np.integer], tiles: Iterable[tuple[int, Floats]], n_genes: int
) -> NDArray[np.float64]:
    """Means of members; `tiles` are the number of the first cell, and cells."""
    total = np.zeros((len(members), n_genes))
    for first, X in tiles:
        add_members(X, first, members, total)
    total /= members.shape[1]
    return total


def nearest_members(
    queries: Points, others: Points, sizes: Sequence[int], tolerance: NDArray[np.float64]
) -> list[NDArray[np.integer]]:
    """The nearest cells to some, ascending, one matrix of shape ``(n_queries, n)`` for each number of them.

    Parameters
    ----------
    queries
        In memory.
    others
        The cells to choose from; visited tile by tile.
    sizes
        Numbers of nearest cells; at most all.
    tolerance
        For ties, shape ``(n_queries,)``.
    """
    smallest = nearest_values(queries, others, min(max(sizes) + 1, len(others)))
    return [_members(queries, others, n, tolerance, smallest) for n in sizes]


def _members(
    queries: Points, others: Points, n: int, tolerance: NDArray[np.float64], smallest: Smallest
) -> NDArray[np.integer]:
    """The `n` nearest, of which `smallest` has one more at least, if there are so many."""
    if n >= len(others):
        rows, cols = every_pair(len(queries), len(others))
    else:
        (rows, cols), doubtful = without_doubt(n, tolerance, smallest.values, smallest.cells)
        if len(doubtful):
            more, more_cols = nearest_in_double(queries[doubtful], others, n, tolerance[doubtful])
            rows, cols = np.concatenate([rows, doubtful[more]]), np.concatenate([cols, more_cols])
    ordered = cols[np.lexsort((cols, rows))].reshape(len(queries), -1)
    return ordered.astype(np.int32 if len(others) < 2**31 else np.intp)


def squared_radii(
    work: Workspace, points: Points, rows: Rows, n: int, *, in_double: bool = False
) -> NDArray[np.float64]:
    """Squared distances of some cells to their `n`-th nearest other cell of the side, in order of `rows`.

    Zero for the only cell of a side.
    """
    n_kept = min(n + 1, len(points))  # a cell is its own nearest
    others = DoublePoints.around(points) if in_double else points

    def one(at: slice) -> NDArray[np.float64]:
        queries = others[rows[at]]
        largest: NDArray[np.float64] = nearest_values(queries, others, n_kept).values[:, 0].astype(np.float64)
        return largest

    found = work.map("refine", len(rows), 3 * tile_size(others), one)
    return np.concatenate(found) if found else np.zeros(0)


def squared_pair_distances(
    work: Workspace, new: Points, ref: Points, pairs: tuple[Rows, Rows]
) -> NDArray[np.float64]:
    """Squared distance of each pair of cells of two sides, in double precision.

    `pairs` are reference rows and new rows, ordered by the latter.
    """
    ref_rows, new_rows = pairs

    def one(at: slice) -> NDArray[np.float64]:
        some = slice(*np.searchsorted(new_rows, [at.start, at.stop]))
        cells, rows, partners = new.X[at], new_rows[some] - at.start, ref_rows[some]
        out = np.empty(len(rows))
        for tile in row_blocks(len(ref), ref.tile):
            own = np.flatnonzero((partners >= tile.start) & (partners < tile.stop))
            if len(own):
                out[own] = pair_distances(cells, rows[own], ref.X[tile], partners[own] - tile.start)
        return out

    out: NDArray[np.float64] = np.concatenate(work.map("refine", len(new), 3 * new.X.shape[1], one))
    return out
