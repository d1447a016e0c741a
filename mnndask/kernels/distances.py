"""Squared Euclidean distances by matrix products, and the tolerances within which numbers count as equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.compiled import dots_of_rows

Floats = NDArray[np.floating]
CACHED_VALUES = 2**17

# A NumPy array, or a stored matrix that gives one when it is sliced.
Matrix: TypeAlias = Any


@dataclass(frozen=True)
class Points:
    """Cells as points of one space, with what every distance between them needs.

    Parameters
    ----------
    X
        Coordinates, shape ``(n_cells, n_genes)``: a NumPy array, or a stored matrix that gives one when it is
        sliced. Distances do not depend on the origin; one near the cells' mean keeps ``|x|² + |y|² - 2xy``
        from cancelling in single precision.
    squared
        Squared norms, shape ``(n_cells,)``.
    tile
        Number of cells to hold at once; None where all are in memory.
    """

    X: Matrix
    squared: Floats
    tile: int | None = None

    @classmethod
    def of(cls, X: Floats) -> Points:
        """Wrap a matrix, summing its squared norms in double precision."""
        return cls(X, row_dots(X, X).astype(X.dtype))

    def __len__(self) -> int:
        return len(self.squared)

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> Points:
        """Some of the cells, in memory."""
        return Points(self.X[rows], self.squared[rows])

    def tiles(self) -> Iterator[tuple[slice, Points]]:
        """All cells, as many at once as may be in memory; and which these are."""
        for at in pieces(len(self), self.tile):
            yield at, self[at]


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


def pieces(n: int, most: int | None) -> Iterator[slice]:
    """Cut ``range(n)`` into slices of at most `most`; one slice for None."""
    for start in range(0, n, most or max(1, n)):
        yield slice(start, min(start + (most or n), n))


def strips(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Rows of a matrix, few enough for the processor's cache to keep them from one operation to the next."""
    return pieces(n_rows, max(4, CACHED_VALUES // max(1, n_columns) // 4 * 4))


def row_dots(A: Floats, B: Floats) -> NDArray[np.float64]:
    """Row-wise inner products, shape ``(n_cells,)``, summed in double precision."""
    if not (A.dtype == B.dtype and A.dtype in (np.float32, np.float64)):
        return np.asarray(np.einsum("ij,ij->i", A, B, dtype=np.float64))
    out = np.empty(len(A))
    dots_of_rows(A, B, out)
    return out


def row_lengths(A: Floats) -> NDArray[np.float64]:
    """Norms of rows, shape ``(n_cells,)``."""
    out: NDArray[np.float64] = np.sqrt(row_dots(A, A))
    return out


def squared_distances(A: Points, B: Points) -> Floats:
    """Squared distances, shape ``(len(A), len(B))``; rounding below zero is cut off."""
    out: Floats = A.X @ B.X.T
    for rows in strips(*out.shape):
        own = out[rows]
        own *= -2
        own += A.squared[rows, None]
        own += B.squared
        np.maximum(own, 0, out=own)
    return out


def to_log_weights(squared: Floats, sigma: float) -> Floats:
    """Turn squared distances into logarithms of Gaussian weights, in place; never infinite."""
    squared *= -decay(sigma, float(squared.max(initial=0)), squared.dtype)
    return squared


def decay(sigma: float, largest: float, dtype: np.dtype) -> Any:
    """What to multiply squared distances by, up to a `largest` one, so that it is finite."""
    limits = np.finfo(dtype)
    smallest = max(largest * 8 / float(limits.max), float(limits.tiny))
    return dtype.type(1 / min(max(sigma, smallest), float(limits.max)))


def farthest(A: Points, B: Points) -> float:
    """More than any squared distance between cells of two sides."""
    return 4 * float(max(A.squared.max(initial=0), B.squared.max(initial=0)))


def bits_of(values: Floats) -> NDArray[np.integer]:
    """Room that compiled exponentials need for a row of values."""
    return np.empty(values.shape[1], np.int32 if values.dtype == np.float32 else np.int64)


@dataclass(frozen=True)
class Tolerances:
    """How near two numbers must be to count as equal, relative to the data's scale.

    That is, to a cell's norm (or the median norm if that is more), or to the largest norm of all cells.

    Without them, duplicated cells would make the result hang on the order in which a product is summed.
    """

    squared_distance: float  # of the cell's norm, squared
    projection: float  # of the largest norm
    doubtful: float  # of the largest norm: so small a difference is taken again in double precision
    reach: float  # of the total weight
    vector: float  # of the cell's norm: an anchor vector shorter than this is rounding

    @classmethod
    def of(cls, dtype: np.dtype) -> Tolerances:
        """Choose by precision."""
        return DOUBLE if dtype == np.float64 else SINGLE


DOUBLE = Tolerances(squared_distance=1e-10, projection=1e-11, doubtful=0, reach=1e-12, vector=1e-14)
SINGLE = Tolerances(squared_distance=1e-6, projection=1e-8, doubtful=1e-5, reach=1e-12, vector=1e-6)
