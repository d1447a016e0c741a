"""Sides of a merge: batches that are merged with each other, and those of their cells that the merge uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Rows
from mnndask.core.arrays import Points


@dataclass(frozen=True)
class Node:
    """One batch, or batches that are merged with each other.

    Parameters
    ----------
    batches
        In the order of their cells.
    n_cells
        Number of their fitted cells.
    rows
        Rows of its cells in the grown reference (see :class:`mnndask.core.history.MergeHistory`); None for a
        batch that is not in it yet.
    """

    batches: tuple[int, ...]
    n_cells: int
    rows: slice | Rows | None = None

    def at(self, cells: Rows | None) -> Rows:
        """Rows of some cells in the grown reference; of all for None."""
        assert self.rows is not None
        if isinstance(self.rows, slice):
            of_all: Rows = self.rows.start + (np.arange(self.n_cells) if cells is None else cells)
            return of_all
        return self.rows if cells is None else self.rows[cells]

    def joined(self, other: Node, first: int) -> Node:
        """Both nodes' batches; the other's cells are those of the grown reference from row `first` on."""
        batches, n = (*self.batches, *other.batches), self.n_cells + other.n_cells
        if isinstance(self.rows, slice) and self.rows.stop == first:
            return Node(batches, n, slice(self.rows.start, first + other.n_cells))
        added = np.arange(first, first + other.n_cells)
        return Node(batches, n, np.concatenate([self.at(None), added]))


@dataclass(frozen=True)
class Side:
    """Cells of one side of a merge that it uses.

    Parameters
    ----------
    node
        The batches.
    used
        Which of the node's cells, ascending; None for all.
    points
        The cells, in each distinct space.
    tolerance_norms
        Norm of each, or the median norm, whichever is larger; in each distinct space.
    """

    node: Node
    used: Rows | None
    points: tuple[Points, ...]
    tolerance_norms: tuple[NDArray[np.float64], ...]

    def __len__(self) -> int:
        return len(self.points[0])

    def of_node(self, rows: Rows) -> Rows:
        """Rows of the node's cells, from those of the side."""
        return rows if self.used is None else self.used[rows]
