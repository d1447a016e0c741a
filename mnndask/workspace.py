"""Where a fit works: its matrices in memory or on disk, and its loops over blocks of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.distances import Floats, Matrix, Points
from mnndask.kernels.neighbors import Rows, Smallest, nearest, smallest_both_ways, within_ties
from mnndask.model import tile_of
from mnndask.parallel import block_rows, map_blocks, row_blocks, shared_blocks
from mnndask.progress import counted, counted_blocks, current_line
from mnndask.reduce import VarianceReduction, map_stage
from mnndask.runstore import InMemory, RunStore

T = TypeVar("T")


@dataclass(frozen=True)
class Workspace:
    """Matrices, and loops over them.

    Parameters
    ----------
    arena
        Where matrices live: in memory; or on disk, a tile at a time in memory.
    dtype
        Their precision.
    block_bytes
        Memory of the temporaries of one block of rows.
    n_jobs
        Threads.
    distance_bytes
        Memory of distances that are needed again.
    """

    arena: InMemory | RunStore
    dtype: np.dtype
    block_bytes: int
    n_jobs: int | None
    distance_bytes: int = 0

    @property
    def tile(self) -> int | None:
        """Cells to have in memory at once; None where all are."""
        return self.arena.tile

    def matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        """Room for a matrix."""
        return self.arena.matrix(name, shape, self.dtype)

    def map(
        self, stage: str, n_rows: int, columns: int, function: Callable[[slice], T], *, counts: float = 0
    ) -> list[T]:
        """Call a function on blocks of rows, results in order.

        Parameters
        ----------
        stage
            What it does, for whoever watches.
        n_rows
            Rows in all.
        columns
            Values that a row makes. Stored matrices are worked on in their tiles instead.
        function
            Takes a slice of rows.
        counts
            By how much a row advances the progress that is shown.
        """
        function = counted(function, weight=counts)
        if self.tile is not None:
            return map_stage(stage, function, row_blocks(n_rows, self.tile), self.n_jobs, counts * n_rows)
        most = block_rows(columns, self.dtype.itemsize, self.block_bytes)
        return map_blocks(function, shared_blocks(n_rows, self.n_jobs, most), self.n_jobs)

    def gather(self, name: str, points: Points, rows: Rows) -> Points:
        """Some cells, in a matrix of their own."""
        if self.tile is None:
            return points[rows]
        X = self.matrix(name, (len(rows), points.X.shape[1]))

        def one(at: slice) -> None:
            X[at] = points.X[rows[at]]

        self.map("gather", len(rows), X.shape[1], one)
        return Points(X, points.squared[rows], self.tile)

    def copy(self, name: str, matrix: Matrix) -> Matrix:
        """Another matrix of the same values."""
        out = self.matrix(name, matrix.shape)

        def one(at: slice) -> None:
            out[at] = matrix[at]

        self.map("copy", len(matrix), matrix.shape[1], one)
        return out

    def distances(self, new: Points, ref: Points, k: int) -> Floats | None:
        """Room for all squared distances, if :meth:`neighbours` makes them and there is enough."""
        fit = len(new) * len(ref) * self.dtype.itemsize <= self.distance_bytes
        return np.empty((len(new), len(ref)), self.dtype) if fit and self._both_ways(new, ref, k) else None

    def _both_ways(self, new: Points, ref: Points, k: int) -> bool:
        """Whether one product of all cells gives the neighbours of both sides."""
        return self.tile is None and k < min(len(new), len(ref))

    def neighbours(
        self,
        new: Points,
        ref: Points,
        k: int,
        ties: Sequence[NDArray[np.float64]],
        distances: Floats | None = None,
    ) -> list[tuple[Rows, Rows]]:
        """Each side's `k` nearest of the other; see :func:`mnndask.kernels.neighbors.nearest`.

        Each of the new cells is counted once. `distances` are filled, if there is room for them.
        """
        sides = (new, ref, ties[0]), (ref, new, ties[1])
        if self._both_ways(new, ref, k):
            both = zip(sides, self._smallest(new, ref, k + 1, distances), strict=True)
            return [self._relation(*side, partial(_chosen, k, found), 0) for side, found in both]
        halves = [len(new) / len(queries) / 2 for queries, _, _ in sides]  # the sides take the same time
        return [
            self._relation(*side, partial(_searched, k), half)
            for side, half in zip(sides, halves, strict=True)
        ]

    def _relation(
        self,
        queries: Points,
        others: Points,
        tie: NDArray[np.float64],
        one: Callable[..., tuple[Rows, Rows]],
        counts: float,
    ) -> tuple[Rows, Rows]:
        """Neighbour relation of all queries, from that of a block of them."""

        def numbered(at: slice) -> tuple[Rows, Rows]:
            query, other = one(at, queries[at], others, tie[at])
            return query + at.start, other

        found = self.map("neighbours", len(queries), 3 * tile_of(others), numbered, counts=counts)
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

    def _smallest(
        self, new: Points, ref: Points, n_kept: int, distances: Floats | None
    ) -> tuple[Smallest, Smallest]:
        """Smallest distances of both sides; each thread keeps the reference's for a share of new cells."""
        of_new = Smallest.none(len(new), n_kept, self.dtype)
        rows, line = block_rows(len(ref), self.dtype.itemsize, self.block_bytes), current_line()

        def one(share: slice) -> Smallest:
            of_ref = Smallest.none(len(ref), n_kept, self.dtype)
            blocks = [
                slice(b.start + share.start, b.stop + share.start)
                for b in row_blocks(share.stop - share.start, rows)
            ]
            smallest_both_ways(new, ref, counted_blocks(blocks, line), of_new, of_ref, distances)
            return of_ref

        shares = shared_blocks(len(new), self.n_jobs)
        return of_new, Smallest.of_all(map_blocks(one, shares, self.n_jobs))

    def factors(
        self, new: Points, vectors: Matrix, ref: Points, sigma: float, scale: float
    ) -> NDArray[np.float64]:
        """Variance factors of all sketched cells of a batch, on disk."""
        assert self.tile is not None
        reduction = VarianceReduction(new, vectors, ref, sigma, scale)
        return reduction.factors(self.tile, self.n_jobs)


def _searched(
    k: int, at: slice, queries: Points, others: Points, tie: NDArray[np.float64]
) -> tuple[Rows, Rows]:
    return nearest(queries, others, k, tie)


def _chosen(
    k: int, found: Smallest, at: slice, queries: Points, others: Points, tie: NDArray[np.float64]
) -> tuple[Rows, Rows]:
    return within_ties(queries, others, k, tie, found.values[at], found.cells[at])
