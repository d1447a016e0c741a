"""Where the matrices of a fit live and how its loops run: a protocol, and the class that works in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import block_rows
from mnndask._progress import counted
from mnndask._threads import map_blocks, shared_blocks
from mnndask._typing import Floats, Matrix, Rows
from mnndask.core.arrays import Points, tile_size
from mnndask.core.reference import Reference, ReferenceInMemory
from mnndask.core.variance import PAIR_COPIES, Lines, variance_factors

T = TypeVar("T")


class Workspace(Protocol):
    """Where the matrices of a fit live, and how its loops run."""

    @property
    def dtype(self) -> np.dtype:
        """Precision of the matrices."""

    @property
    def block_bytes(self) -> int:
        """Memory of the temporaries of one block of rows."""

    @property
    def n_threads(self) -> int:
        """Threads."""

    @property
    def tile(self) -> int | None:
        """Rows of a matrix that are looked at together; None for all."""

    @property
    def distance_bytes(self) -> int:
        """Memory of distances that are kept because they are needed again."""

    @property
    def variance_passes(self) -> int:
        """How often each cell counts for progress in :meth:`variance_factors`."""

    def matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        """A matrix that is yet to be filled; its name describes it, for display."""

    def map(
        self, stage: str, n_rows: int, columns: int, function: Callable[[slice], T], *, counts: float = 0
    ) -> list[T]:
        """Call a function on blocks of rows; results in order.

        Parameters
        ----------
        stage
            Name of the tasks, for display.
        n_rows
            Rows in all.
        columns
            Temporary values for each row, which decide how many rows are a block.
        function
            Takes a slice of rows. It may run in another process: it may write to matrices of the workspace,
            and must return all else.
        counts
            By how much each row advances the progress that is shown.
        """

    def gather(self, name: str, points: Points, rows: Rows) -> Points:
        """Some cells, in a matrix of their own."""

    def copy(self, name: str, matrix: Matrix) -> Matrix:
        """Another matrix of the same values."""

    def reference(self, first: Points, n_cells: int) -> Reference:
        """A reference that begins with some cells, and will grow to `n_cells`."""

    def variance_factors(
        self, cells: Points, vectors: Matrix, ref: Points, sigma: float, scale: float
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Variance factors of all fitted cells of a batch, relative to the batch itself and to `ref`.

        And whether rounding may decide them. `vectors` are the cells' correction vectors. Sums over tiles may
        be spread over processes.
        """


@dataclass(frozen=True)
class WorkspaceInMemory:
    """A workspace of NumPy arrays, whose loops run on threads.

    Parameters
    ----------
    dtype, block_bytes, n_threads, distance_bytes
        As of :class:`Workspace`.
    """

    dtype: np.dtype
    block_bytes: int
    n_threads: int
    distance_bytes: int = 0

    tile = None
    variance_passes = 1

    def matrix(self, name: str, shape: tuple[int, int]) -> Floats:
        """A matrix that is yet to be filled."""
        return np.empty(shape, self.dtype)

    def map(
        self, stage: str, n_rows: int, columns: int, function: Callable[[slice], T], *, counts: float = 0
    ) -> list[T]:
        """Call a function on blocks of rows; results in order."""
        most = block_rows(columns, self.dtype.itemsize, self.block_bytes)
        blocks = shared_blocks(n_rows, self.n_threads, most)
        return map_blocks(counted(function, weight=counts), blocks, self.n_threads)

    def gather(self, name: str, points: Points, rows: Rows) -> Points:
        """Some cells, in a matrix of their own."""
        return points[rows]

    def copy(self, name: str, matrix: Floats) -> Floats:
        """Another matrix of the same values."""
        return matrix.copy()

    def reference(self, first: Points, n_cells: int) -> Reference:
        """A reference that begins with some cells, and will grow to `n_cells`."""
        return ReferenceInMemory.of(first, n_cells)

    def variance_factors(
        self, cells: Points, vectors: Floats, ref: Points, sigma: float, scale: float
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Variance factors of all fitted cells of a batch, and whether rounding may decide them."""

        def one(at: slice) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            return variance_factors(Lines.of(cells[at], vectors[at], sigma, scale), cells, ref)

        columns = PAIR_COPIES * max(tile_size(cells), tile_size(ref))
        factors, doubtful = zip(*self.map("variance", len(cells), columns, one, counts=1), strict=True)
        return np.concatenate(factors), np.concatenate(doubtful)
