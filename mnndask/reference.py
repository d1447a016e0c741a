"""Sketched cells, and the reference that grows by them, on the genes used for distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from mnndask.kernels.distances import Floats, Points, row_dots
from mnndask.kernels.neighbors import Rows
from mnndask.model import Block


@dataclass(frozen=True)
class Sketch:
    """The cells that stand for a batch: their raw expression and their rows in it (ascending)."""

    X: Block
    rows: Rows
    n_cells: int

    def dense(self, genes: Rows | slice, dtype: np.dtype) -> Floats:
        """Raw expression of some genes."""
        part: Any = self.X[:, genes]
        out: Floats = np.ascontiguousarray(part.toarray() if sparse.issparse(part) else part, dtype=dtype)
        return out


@dataclass(frozen=True)
class MergeRecord:
    """Pairs of one merge step; they count sketched cells, of the accumulated reference and of the batch."""

    batch: int
    ref_rows: Rows
    new_rows: Rows
    n_reference: int

    @property
    def anchors(self) -> Rows:
        """Sketched cells of the batch that have a partner."""
        return np.unique(self.new_rows)


class Space:
    """Sketched cells in one of the two spaces.

    Parameters
    ----------
    cells
        Each batch's, shape ``(n_cells, n_genes)``. Moved to their common centre in place.
    first
        Batch that is the reference to begin with.

    Attributes
    ----------
    new
        Each batch's cells, around ``centre``.
    scale
        Largest norm among all cells before correction; what counts as equal is relative to it.
    """

    def __init__(self, cells: dict[int, Floats], first: int) -> None:
        dtype, n_genes = cells[first].dtype, cells[first].shape[1]
        n_cells = sum(map(len, cells.values()))
        self.scale = max(float(np.sqrt(row_dots(X, X).max())) for X in cells.values())
        total = np.sum([X.sum(axis=0, dtype=np.float64) for X in cells.values()], axis=0)
        self.centre: Floats = (total / n_cells).astype(dtype)
        for X in cells.values():
            X -= self.centre
        self.new = {b: Points.of(X) for b, X in cells.items()}
        self._cells = Points(np.empty((n_cells, n_genes), dtype), np.empty(n_cells, dtype))
        self._length = 0
        self._append(self.new[first])

    def _append(self, points: Points) -> None:
        at = slice(self._length, self._length + len(points))
        self._cells.X[at], self._cells.squared[at] = points.X, points.squared
        self._length = at.stop

    def ref(self) -> Points:
        """Give the reference as it stands: corrected cells in merge order."""
        return self._cells[: self._length]

    def grow(self, batch: int, corrections: Floats) -> None:
        """Add a batch's corrected cells to the reference."""
        self._append(Points.of(self.new[batch].X + corrections))
