"""Sketched cells, and the reference that grows by them, on the genes used for distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask.kernels.distances import Floats, Matrix, Points, Stacked, row_dots, row_lengths
from mnndask.kernels.neighbors import Rows
from mnndask.spaces import Block, GeneSpaces
from mnndask.workspace import Workspace


class Sketch(Protocol):
    """The cells that stand for a batch, and their rows in it (ascending)."""

    @property
    def rows(self) -> Rows:
        """Row of each in the batch."""

    @property
    def n_cells(self) -> int:
        """Cells of the whole batch."""

    def near(self, spaces: GeneSpaces, block: slice) -> Floats:
        """Raw expression of the genes used for distances, dense."""

    def rest(self, spaces: GeneSpaces, cells: Rows, genes: slice) -> Floats:
        """Raw expression of some of the other genes, dense."""

    def express_rest(self, spaces: GeneSpaces, cells: Rows) -> NDArray[np.bool_]:
        """Whether some of the other genes are expressed."""


@dataclass(frozen=True)
class HeldSketch:
    """A sketch whose raw expression is in memory, dense or CSR."""

    X: Block
    rows: Rows
    n_cells: int

    def near(self, spaces: GeneSpaces, block: slice) -> Floats:
        """Raw expression of the genes used for distances, dense."""
        return spaces.dense(self.X[block][:, spaces.near])

    def rest(self, spaces: GeneSpaces, cells: Rows, genes: slice) -> Floats:
        """Raw expression of some of the other genes, dense."""
        columns = spaces.rest[genes]
        # Of a dense matrix, rows of all genes would be a copy of most of it.
        sliced = self.X[cells][:, columns] if sparse.issparse(self.X) else self.X[np.ix_(cells, columns)]
        return spaces.dense(sliced)

    def express_rest(self, spaces: GeneSpaces, cells: Rows) -> NDArray[np.bool_]:
        """Whether some of the other genes are expressed."""
        return np.asarray(abs(self.X[cells][:, spaces.rest]).sum(axis=1)).ravel() > 0


@dataclass(frozen=True)
class MergeRecord:
    """Pairs of one merge step; they count sketched cells, of the accumulated reference and of the batch.

    Parameters
    ----------
    batch
        The new batch.
    ref_rows, new_rows
        The cells of each pair.
    n_reference
        Cells of the accumulated reference.
    n_reference_used
        How many of them were used.
    """

    batch: int
    ref_rows: Rows
    new_rows: Rows
    n_reference: int
    n_reference_used: int

    @property
    def anchors(self) -> Rows:
        """Sketched cells of the batch that have a partner."""
        return np.unique(self.new_rows)


class Space:
    """Sketched cells in one of the two spaces.

    Parameters
    ----------
    cells
        Each batch's, shape ``(n_cells, n_dims)``. Moved to their common centre in place.
    norms
        Of each batch's cells before anything was taken off them: what rounding is relative to.
    first
        Batch that is the reference to begin with.
    work
        Where they live.

    Attributes
    ----------
    new
        Each batch's cells, around ``centre``.
    sizes
        Norms of each batch's cells, or the median of all norms where that is more.
    scale
        Largest norm.
    """

    def __init__(
        self,
        cells: dict[int, Matrix],
        norms: dict[int, NDArray[np.float64]],
        first: int,
        work: Workspace,
    ) -> None:
        self.work = work
        dtype = cells[first].dtype
        every = np.concatenate(list(norms.values()))
        typical = float(np.median(every))
        self.sizes = {b: np.maximum(own, typical) for b, own in norms.items()}
        self.scale = float(every.max())
        self.centre = self._centre(cells, typical).astype(dtype)
        self.new = {b: self._around_centre(X) for b, X in cells.items()}
        self._reference = _reference(self.new[first], len(every))
        self._sizes = [self.sizes[first]]

    def _centre(self, cells: dict[int, Matrix], typical: float) -> Floats:
        """Mean of all cells, those of more than typical size shortened to it: a few must not drag it away."""
        total = np.zeros(next(iter(cells.values())).shape[1])
        for b, X in cells.items():
            size = self.sizes[b]
            weights = np.divide(typical, size, out=np.ones(len(size)), where=size > 0).astype(X.dtype)

            def one(at: slice, X: Matrix = X, weights: Floats = weights) -> Floats:
                out: Floats = weights[at] @ X[at]
                return out

            for part in self.work.map("centre", len(X), X.shape[1], one, counts=1):
                total += part
        return total / sum(map(len, cells.values()))

    def _around_centre(self, X: Matrix) -> Points:
        def one(at: slice) -> Floats:
            moved = X[at] - self.centre
            X[at] = moved
            return row_dots(moved, moved).astype(moved.dtype)

        squared = self.work.map("centre", len(X), X.shape[1], one, counts=1)
        return Points(X, np.concatenate(squared), self.work.tile)

    def ref(self) -> Points:
        """Give the reference as it stands: corrected cells in merge order."""
        return self._reference.points()

    def ref_sizes(self) -> NDArray[np.float64]:
        """``sizes`` of the reference's cells."""
        return np.concatenate(self._sizes)

    def grow(self, batch: int, corrected: Matrix) -> None:
        """Add a batch's corrected cells to the reference."""

        def one(at: slice) -> tuple[Floats, NDArray[np.float64]]:
            X = corrected[at]
            return row_dots(X, X).astype(X.dtype), row_lengths(X + self.centre)

        squared, norms = zip(*self.work.map("grow", len(corrected), corrected.shape[1], one), strict=True)
        self._sizes.append(np.maximum(self.sizes[batch], np.concatenate(norms)))
        self._reference.append(Points(corrected, np.concatenate(squared)))


class _Reference:
    """Corrected cells in merge order, in memory: one array, so that products with all of them are one."""

    def __init__(self, first: Points, n_cells: int) -> None:
        self.cells = Points(
            np.empty((n_cells, first.X.shape[1]), first.X.dtype), np.empty(n_cells, first.X.dtype)
        )
        self.length = 0
        self.append(first)

    def append(self, points: Points) -> None:
        at = slice(self.length, self.length + len(points))
        self.cells.X[at], self.cells.squared[at] = points.X, points.squared
        self.length = at.stop

    def points(self) -> Points:
        return self.cells[: self.length]


class _StoredReference:
    """The same on disk, where each batch's stay in a matrix of their own."""

    def __init__(self, first: Points) -> None:
        self.parts, self.tile = [first], first.tile

    def append(self, points: Points) -> None:
        self.parts.append(points)

    def points(self) -> Points:
        matrices = tuple(part.X for part in self.parts)
        return Points(Stacked(matrices), np.concatenate([part.squared for part in self.parts]), self.tile)


def _reference(first: Points, n_cells: int) -> _Reference | _StoredReference:
    return _Reference(first, n_cells) if first.tile is None else _StoredReference(first)
