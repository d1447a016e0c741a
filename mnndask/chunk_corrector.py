"""Correcting a chunk of one source: which batch each row is of, and what is known of it from the fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.neighbors import Rows
from mnndask.model import CorrectionModel
from mnndask.sources import check_finite
from mnndask.spaces import Block


@dataclass(frozen=True)
class ChunkCorrector:
    """Corrects a chunk of rows of one source.

    Parameters
    ----------
    model
        The fitted correction.
    batches
        Batch of each row of the source, or the one batch of all.
    rows
        Row of each in its fitted batch, None for cells that were not in the fit.
    """

    model: CorrectionModel
    batches: NDArray[np.intp] | int
    rows: Rows | None

    def correct(self, X: Block, first: int) -> NDArray[np.floating]:
        """Correct rows ``first, first + 1, ...`` of the source."""
        rows = None if self.rows is None else self.rows[first : first + X.shape[0]]
        parts = self._parts(X, first)
        out = None
        for batch, own in parts:
            part = X if len(parts) == 1 else X[own]
            check_finite(part, f"batch {self.model.names[batch]!r}", rows=own + first)
            corrected = self.model.correct(batch, part, None if rows is None else rows[own])
            if len(parts) == 1:
                return corrected
            out = np.empty(X.shape, corrected.dtype) if out is None else out
            out[own] = corrected
        return np.empty(X.shape, self.model.spaces.dtype) if out is None else out

    def angles(self, X: Block, first: int) -> NDArray[np.float64]:
        """Angles of the corrections of rows ``first, first + 1, ...``, NaN for the reference's."""
        out = np.full(X.shape[0], np.nan)
        for batch, own in self._parts(X, first):
            if batch in self.model.steps:
                check_finite(X[own], f"batch {self.model.names[batch]!r}", rows=own + first)
                out[own] = self.model.angles(batch, X[own])
        return out

    def _parts(self, X: Block, first: int) -> list[tuple[int, Rows]]:
        """Batches of a chunk, and the rows of each."""
        if isinstance(self.batches, int):
            return [(self.batches, np.arange(X.shape[0]))]
        batches = self.batches[first : first + X.shape[0]]
        return [(int(b), np.flatnonzero(batches == b)) for b in np.unique(batches)]
