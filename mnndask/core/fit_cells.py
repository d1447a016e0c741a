"""The cells of one batch that a fit uses: a protocol; and the class that has them in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask._typing import Block, Floats, Rows
from mnndask.core.gene_spaces import GeneSpaces


class FitCells(Protocol):
    """Raw expression of the fitted cells of a batch."""

    @property
    def rows(self) -> Rows:
        """Row of each fitted cell in the batch, ascending."""

    @property
    def n_cells(self) -> int:
        """Number of cells of the whole batch."""

    def near(self, spaces: GeneSpaces, block: slice) -> Floats:
        """Dense raw expression of a block of cells, on the genes used for distances."""

    def rest(self, spaces: GeneSpaces, cells: Rows, genes: slice) -> Floats:
        """Dense raw expression of some cells, on a block of the other genes."""

    def express_rest(self, spaces: GeneSpaces, cells: Rows) -> NDArray[np.bool_]:
        """Whether each of some cells expresses any of the other genes."""


@dataclass(frozen=True)
class FitCellsInMemory:
    """Fitted cells in memory, dense or CSR."""

    X: Block
    rows: Rows
    n_cells: int

    def near(self, spaces: GeneSpaces, block: slice) -> Floats:
        """Dense raw expression of a block of cells, on the genes used for distances."""
        return spaces.dense(self.X[block][:, spaces.near])

    def rest(self, spaces: GeneSpaces, cells: Rows, genes: slice) -> Floats:
        """Dense raw expression of some cells, on a block of the other genes."""
        columns = spaces.rest[genes]
        # Rows of all genes would be a copy of most of a dense matrix.
        sliced = self.X[cells][:, columns] if sparse.issparse(self.X) else self.X[np.ix_(cells, columns)]
        return spaces.dense(sliced)

    def express_rest(self, spaces: GeneSpaces, cells: Rows) -> NDArray[np.bool_]:
        """Whether each of some cells expresses any of the other genes."""
        return np.asarray(abs(self.X[cells][:, spaces.rest]).sum(axis=1)).ravel() > 0
