"""Variance factors that a fit found for a batch's cells, so that they are not computed again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Rows


@dataclass(frozen=True)
class KnownFactors:
    """Variance factors of some cells of a batch.

    Parameters
    ----------
    rows
        Rows of the cells in the batch, ascending; None for all.
    values
        Their factors.
    """

    rows: Rows | None
    values: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Rows, values: NDArray[np.float64], n_cells: int) -> KnownFactors:
        """Those of cells in these rows of a batch of `n_cells`."""
        return cls(None if len(rows) == n_cells else rows, values)

    def at(self, rows: Rows) -> NDArray[np.float64]:
        """Factors of cells in some rows; NaN where they are not known."""
        if self.rows is None:
            return self.values[rows]
        at = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[at] == rows, self.values[at], np.nan)
