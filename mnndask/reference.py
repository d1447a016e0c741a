"""Sketched cells, and the reference that grows by them, on the genes used for distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.distances import Floats, Points, row_lengths
from mnndask.kernels.neighbors import Rows
from mnndask.model import Block


@dataclass(frozen=True)
class Sketch:
    """The cells that stand for a batch: their raw expression and their rows in it (ascending)."""

    X: Block
    rows: Rows
    n_cells: int


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
    sizes
        Norms of each batch's cells around the origin, or the median of all norms where that is more.
    scale
        Largest norm.
    """

    def __init__(self, cells: dict[int, Floats], first: int) -> None:
        dtype, n_genes = cells[first].dtype, cells[first].shape[1]
        norms = {b: row_lengths(X) for b, X in cells.items()}
        every = np.concatenate(list(norms.values()))
        typical = float(np.median(every))
        self.sizes = {b: np.maximum(own, typical) for b, own in norms.items()}
        self.scale = float(every.max())
        self.centre = _centre(cells, self.sizes, typical).astype(dtype)
        for X in cells.values():
            X -= self.centre
        self.new = {b: Points.of(X) for b, X in cells.items()}
        self._cells = Points(np.empty((len(every), n_genes), dtype), np.empty(len(every), dtype))
        self._sizes = np.empty(len(every))
        self._length = 0
        self._append(self.new[first], self.sizes[first])

    def _append(self, points: Points, sizes: NDArray[np.float64]) -> None:
        at = slice(self._length, self._length + len(points))
        self._cells.X[at], self._cells.squared[at], self._sizes[at] = points.X, points.squared, sizes
        self._length = at.stop

    def ref(self) -> Points:
        """Give the reference as it stands: corrected cells in merge order."""
        return self._cells[: self._length]

    def ref_sizes(self) -> NDArray[np.float64]:
        """``sizes`` of the reference's cells."""
        return self._sizes[: self._length]

    def grow(self, batch: int, corrections: Floats) -> None:
        """Add a batch's corrected cells to the reference."""
        corrected = self.new[batch].X + corrections
        sizes = np.maximum(self.sizes[batch], row_lengths(corrected + self.centre))
        self._append(Points.of(corrected), sizes)


def _centre(cells: dict[int, Floats], sizes: dict[int, NDArray[np.float64]], typical: float) -> Floats:
    """Mean of all cells, those of more than typical size shortened to it: a few must not drag it away."""
    total = np.zeros(next(iter(cells.values())).shape[1])
    for b, X in cells.items():
        weights = np.divide(typical, sizes[b], out=np.ones(len(X)), where=sizes[b] > 0)
        total += weights.astype(X.dtype) @ X
    return total / sum(map(len, cells.values()))
