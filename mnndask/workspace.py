"""Where a fit works: its matrices in memory or on disk, and its loops over blocks of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.distances import Matrix, Points
from mnndask.kernels.neighbors import Rows
from mnndask.kernels.variance import variance_factors
from mnndask.model import PAIR_COPIES
from mnndask.parallel import block_rows, map_blocks, row_blocks
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
    """

    arena: InMemory | RunStore
    dtype: np.dtype
    block_bytes: int
    n_jobs: int | None

    @property
    def tile(self) -> int | None:
        """Cells to have in memory at once; None where all are."""
        return self.arena.tile

    def matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        """Room for a matrix."""
        return self.arena.matrix(name, shape, self.dtype)

    def map(self, stage: str, n_rows: int, columns: int, function: Callable[[slice], T]) -> list[T]:
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
        """
        if self.tile is not None:
            return map_stage(stage, function, row_blocks(n_rows, self.tile), self.n_jobs)
        rows = block_rows(columns, self.dtype.itemsize, self.block_bytes)
        return map_blocks(function, row_blocks(n_rows, rows), self.n_jobs)

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

    def factors(
        self, new: Points, vectors: Matrix, ref: Points, sigma: float, scale: float
    ) -> NDArray[np.float64]:
        """Variance factors of all sketched cells of a batch."""
        if self.tile is not None:
            reduction = VarianceReduction(new, vectors, ref, sigma, scale)
            return reduction.factors(self.tile, self.n_jobs)

        def one(at: slice) -> NDArray[np.float64]:
            return variance_factors(new[at], vectors[at], new, ref, sigma, scale)

        columns = PAIR_COPIES * max(len(new), len(ref))
        return np.concatenate(self.map("variance", len(new), columns, one))
