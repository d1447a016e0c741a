"""Cells as points, matrices that are stacked, and inner products and norms of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask._typing import Floats, Matrix
from mnndask.core.kernels.pairs import dots_of_rows

VALUES_IN_DOUBLE = 2**21  # that are converted to double precision at once: 16 MB


def tile_size(points: Points) -> int:
    """Number of cells in a tile."""
    return min(len(points), points.tile or len(points))


def rows_in_double(X: Matrix) -> int:
    """Rows of a matrix that are converted to double precision at once."""
    n_columns: int = X.shape[1]
    return max(1, VALUES_IN_DOUBLE // max(1, n_columns))


def unit_rows(vectors: Floats) -> tuple[Floats, NDArray[np.float64]]:
    """Directions and lengths of row vectors, also of those whose squares would underflow."""
    largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)
    safe = np.where(largest > 0, largest, 1)
    directions = vectors / safe
    relative = np.sqrt(row_dots(directions, directions))
    directions /= np.where(relative > 0, relative, 1).astype(vectors.dtype)[:, None]
    return directions, relative * largest[:, 0]


def drop_rounding(vectors: Floats, shortest: NDArray[np.float64]) -> None:
    """Set vectors of at most that norm to exactly zero: adjustment would lengthen rounding errors."""
    vectors[row_norms(vectors) <= shortest] = 0


@dataclass(frozen=True)
class Points:
    """Cells as points of one space, with what every distance between them needs.

    Parameters
    ----------
    X
        Coordinates, shape ``(n_cells, n_genes)``: a NumPy array, or a matrix that gives one when it is
        sliced. Distances do not depend on the origin; one near the cells' mean keeps ``|x|² + |y|² - 2xy``
        from cancelling in single precision.
    squared
        Squared norms, shape ``(n_cells,)``.
    tile
        Number of cells in a tile, the most that are looked at together; None for all.
    """

    X: Matrix
    squared: Floats
    tile: int | None = None

    @classmethod
    def of(cls, X: Floats) -> Points:
        """Wrap a matrix, summing its squared norms in double precision."""
        return cls(X, row_dots(X, X).astype(X.dtype))

    @property
    def whole(self) -> bool:
        """Whether all cells are one tile, so that one product may take them all."""
        return self.tile is None

    def __len__(self) -> int:
        return len(self.squared)

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> Points:
        """Some of the cells, in memory."""
        return Points(self.X[rows], self.squared[rows])

    def gathered(self) -> Points:
        """The same cells, in one array if they are one tile."""
        if self.whole and isinstance(self.X, Selected):
            return Points(self.X[:], self.squared)
        return self

    def tiles(self) -> Iterator[tuple[slice, Points]]:
        """Iterate over tiles: which cells they are, and the cells in memory."""
        for at in row_blocks(len(self), self.tile):
            yield at, self[at]


@dataclass(frozen=True)
class DoublePoints(Points):
    """Cells that are converted to double precision when they are looked at, a few at once."""

    @classmethod
    def around(cls, points: Points) -> DoublePoints:
        """The same cells."""
        return cls(points.X, points.squared, min(tile_size(points), rows_in_double(points.X)))

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> Points:
        """Some of the cells, in memory and in double precision."""
        return Points.of(self.X[rows].astype(np.float64))


@dataclass(frozen=True)
class Selected:
    """Some rows of a matrix that several hold together, copied when they are looked at.

    Parameters
    ----------
    of
        The matrix.
    rows
        Which of its rows.
    """

    of: Floats
    rows: NDArray[np.int32]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.rows), self.of.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self.of.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | np.ndarray) -> Floats:
        return self.of[self.rows[rows]]


@dataclass(frozen=True)
class Stacked:
    """Rows of several matrices, one after the other; slices and rows of it are NumPy arrays."""

    parts: tuple[Matrix, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        dtype: np.dtype = self.parts[0].dtype
        return dtype

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """A slice without steps, or rows by their numbers in any order."""
        if isinstance(rows, slice):
            first, stop, _ = rows.indices(len(self))
            out = np.empty((max(0, stop - first), self.shape[1]), self.dtype)
        else:
            out = np.empty((len(rows), self.shape[1]), self.dtype)
        start = 0
        for part in self.parts:
            end = start + len(part)
            if isinstance(rows, slice):
                low, high = max(first, start), min(stop, end)
                if low < high:
                    out[low - first : high - first] = part[low - start : high - start]
            elif len(own := np.flatnonzero((rows >= start) & (rows < end))):
                out[own] = part[rows[own] - start]
            start = end
        return out


def row_dots(A: Floats, B: Floats) -> NDArray[np.float64]:
    """Row-wise inner products, shape ``(n_cells,)``, summed in double precision."""
    if not (A.dtype == B.dtype and A.dtype in (np.float32, np.float64)):
        return np.asarray(np.einsum("ij,ij->i", A, B, dtype=np.float64))
    out = np.empty(len(A))
    dots_of_rows(A, B, out)
    return out


def row_norms(A: Floats) -> NDArray[np.float64]:
    """Norms of rows, shape ``(n_cells,)``."""
    out: NDArray[np.float64] = np.sqrt(row_dots(A, A))
    return out


def weighted_sum(A: Floats, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sum of rows, shape ``(n_genes,)``, in double precision."""
    total = np.zeros(A.shape[1])
    for at in row_blocks(len(A), rows_in_double(A)):
        total += weights[at] @ A[at].astype(np.float64)
    return total
