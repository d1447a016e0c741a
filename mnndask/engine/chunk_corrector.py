"""Correct a chunk of one source, given the batch of each row and its place in the fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Block, Rows
from mnndask.core.model import CorrectionModel
from mnndask.engine.batches import check_finite


@dataclass(frozen=True)
class ChunkCorrector:
    """Corrects a chunk of rows of one source.

    Parameters
    ----------
    model
        The fitted correction.
    batches
        Batch of each row of the source, or the one batch of all rows.
    rows
        Row of each cell in its fitted batch; None if the source was not part of the fit.
    """

    model: CorrectionModel
    batches: NDArray[np.intp] | int
    rows: Rows | None

    def correct(self, X: Block, first: int) -> NDArray[np.floating]:
        """Correct a chunk `X` whose first row is row `first` of the source."""
        rows = None if self.rows is None else self.rows[first : first + X.shape[0]]
        groups = self._rows_by_batch(X, first)
        out = None
        for batch, own in groups:
            cells = X if len(groups) == 1 else X[own]
            check_finite(cells, f"batch {self.model.names[batch]!r}", rows=own + first)
            corrected = self.model.correct(batch, cells, None if rows is None else rows[own])
            if len(groups) == 1:
                return corrected
            out = np.empty(X.shape, corrected.dtype) if out is None else out
            out[own] = corrected
        return np.empty(X.shape, self.model.spaces.dtype) if out is None else out

    def angles(self, X: Block, first: int) -> NDArray[np.float64]:
        """Return the angle of each correction of a chunk (see :meth:`correct`), NaN for the reference."""
        out = np.full(X.shape[0], np.nan)
        for batch, own in self._rows_by_batch(X, first):
            if self.model.step_of(batch):
                check_finite(X[own], f"batch {self.model.names[batch]!r}", rows=own + first)
                out[own] = self.model.angles(batch, X[own])
        return out

    def _rows_by_batch(self, X: Block, first: int) -> list[tuple[int, Rows]]:
        """Return each batch of a chunk with its rows of the chunk."""
        if isinstance(self.batches, int):
            return [(self.batches, np.arange(X.shape[0]))]
        batches = self.batches[first : first + X.shape[0]]
        return [(int(b), np.flatnonzero(batches == b)) for b in np.unique(batches)]
