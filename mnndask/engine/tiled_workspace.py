"""Workspace with matrices on disk, one tile at a time in memory, and loops that run as dask tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask._progress import counted
from mnndask._typing import Matrix, Rows
from mnndask.core.arrays import Points, Stacked
from mnndask.engine.block_tasks import map_stage
from mnndask.engine.variance_reduction import PASSES, VarianceReduction
from mnndask.stores.scratch import ScratchStore

T = TypeVar("T")


@dataclass(frozen=True)
class TiledWorkspace:
    """A workspace of matrices on disk; implements :class:`mnndask.core.workspace.Workspace`.

    Parameters
    ----------
    store
        Store of the matrices.
    tile
        Number of rows of a matrix that are in memory at once.
    dtype, block_bytes, n_threads
        As in the protocol.
    n_jobs
        Threads of dask; None leaves them to dask's configuration.
    """

    store: ScratchStore
    tile: int
    dtype: np.dtype
    block_bytes: int
    n_threads: int
    n_jobs: int | None = None

    variance_passes = PASSES
    distance_bytes = 0

    def matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        """Allocate a matrix, to be filled."""
        return self.store.matrix(name, shape, self.dtype)

    def map(
        self, stage: str, n_rows: int, columns: int, function: Callable[[slice], T], *, counts: float = 0
    ) -> list[T]:
        """Call a function on tiles of rows; results in order. Triggers a compute."""
        counting = counted(function, weight=counts)
        return map_stage(stage, counting, row_blocks(n_rows, self.tile), self.n_jobs, counts * n_rows)

    def gather(self, name: str, points: Points, rows: Rows) -> Points:
        """Copy some cells to a matrix of their own. Triggers a compute."""
        X = self.matrix(name, (len(rows), points.X.shape[1]))

        def copy_tile(at: slice) -> None:
            X[at] = points.X[rows[at]]

        self.map("gather", len(rows), X.shape[1], copy_tile)
        return Points(X, points.squared[rows], self.tile)

    def copy(self, name: str, matrix: Matrix) -> Matrix:
        """Copy a matrix. Triggers a compute."""
        out = self.matrix(name, matrix.shape)

        def copy_tile(at: slice) -> None:
            out[at] = matrix[at]

        self.map("copy", len(matrix), matrix.shape[1], copy_tile)
        return out

    def reference(self, first: Points, n_cells: int) -> StackedReference:
        """Create a reference that begins with the given cells."""
        return StackedReference((first,), self.tile)

    def variance_factors(
        self, cells: Points, vectors: Matrix, ref: Points, sigma: float, scale: float
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the variance factors of all fitted cells of a batch, and which of them rounding may decide.

        Triggers several computes.
        """
        return VarianceReduction(cells, vectors, ref, sigma, scale).factors(self.tile, self.n_jobs)


@dataclass(frozen=True)
class StackedReference:
    """A reference that keeps the cells of each batch in a matrix of their own."""

    batches: tuple[Points, ...]
    tile: int

    @property
    def points(self) -> Points:
        """All cells of the reference."""
        matrices = tuple(cells.X for cells in self.batches)
        squared = np.concatenate([cells.squared for cells in self.batches])
        return Points(Stacked(matrices), squared, self.tile)

    def extended(self, cells: Points) -> StackedReference:
        """Return the reference with more cells appended."""
        return StackedReference((*self.batches, cells), self.tile)
