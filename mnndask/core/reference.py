"""The reference, which grows by corrected cells in merge order (definition, step 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mnndask.core.arrays import Points


class Reference(Protocol):
    """Corrected cells of the batches merged so far, in merge order, in one space."""

    @property
    def points(self) -> Points:
        """The cells."""

    def extended(self, cells: Points) -> Reference:
        """The reference with more cells at its end."""


@dataclass(frozen=True)
class ReferenceInSpace:
    """The reference as it stands, in one space.

    Parameters
    ----------
    stored
        Its cells.
    tolerance_norms
        Norm of each cell, or the median norm, whichever is larger; see
        :class:`mnndask.core.normalisation.CellsInSpace`.
    """

    stored: Reference
    tolerance_norms: NDArray[np.float64]

    @property
    def points(self) -> Points:
        """The cells, in merge order."""
        return self.stored.points


@dataclass(frozen=True)
class ReferenceInMemory:
    """A reference in one array, so that inner products with all of its cells are one product.

    Parameters
    ----------
    storage
        Its cells, and uninitialised memory for more.
    length
        Number of its cells.
    filled_rows
        Rows of the storage that are filled: one number in a list, which all references on this storage share.
        A reference that is not the latest copies its cells before it grows. One thread at a time may extend
        references on one storage.
    """

    storage: Points
    length: int
    filled_rows: list[int]

    @classmethod
    def of(cls, first: Points, n_cells: int) -> ReferenceInMemory:
        """Begin with some cells; memory for `n_cells` is reserved."""
        storage = Points(
            np.empty((n_cells, first.X.shape[1]), first.X.dtype), np.empty(n_cells, first.X.dtype)
        )
        return cls(storage, 0, [0]).extended(first)

    @property
    def points(self) -> Points:
        """The cells."""
        return self.storage[: self.length]

    def extended(self, cells: Points) -> ReferenceInMemory:
        """The reference with more cells at its end; this one stays as it is."""
        at = slice(self.length, self.length + len(cells))
        if self.filled_rows[0] != self.length or at.stop > len(self.storage):
            enough = len(self.storage) if at.stop <= len(self.storage) else at.stop + at.stop // 2
            return ReferenceInMemory.of(self.points, enough).extended(cells)
        self.storage.X[at], self.storage.squared[at] = cells.X, cells.squared
        self.filled_rows[0] = at.stop
        return ReferenceInMemory(self.storage, at.stop, self.filled_rows)
