"""Correct a chunk of one source, given the batch of each row and its place in the fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask._typing import Block, Floats, Rows
from mnndask.core.model import CorrectionModel
from mnndask.engine.batches import check_finite

STRIDE = 2**16  # rows


@dataclass(frozen=True)
class ChunkCorrector:
    """Corrects a chunk of rows of one source.

    Parameters
    ----------
    model
        The fitted correction.
    batches
        Batch of each row of the source, or the one batch of all rows.
    in_fit
        Whether the source was part of the fit, whose batches have its cells in this order.
    counts
        Cells of each batch before every :data:`STRIDE`-th row, shape ``(n_strides, n_batches)``; None for one
        batch, or outside the fit.
    """

    model: CorrectionModel
    batches: NDArray[np.integer] | int
    in_fit: bool
    counts: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls, model: CorrectionModel, batches: NDArray[np.integer] | int, *, in_fit: bool
    ) -> ChunkCorrector:
        """Correct chunks of a source with these batches."""
        if isinstance(batches, int) or not in_fit:
            return cls(model, batches, in_fit)
        n_batches = len(model.names)
        strides = row_blocks(len(batches), STRIDE)
        counts = [np.bincount(batches[at], minlength=n_batches) for at in strides]
        return cls(model, batches, in_fit, np.cumsum([np.zeros(n_batches, np.int64), *counts], axis=0)[:-1])

    def rows(self, first: int, n: int) -> Rows | None:
        """Rows of cells in their fitted batches; None if the source was not part of the fit.

        They are counted when they are needed: for each cell, they would be the largest thing in the model.
        """
        if not self.in_fit:
            return None
        if isinstance(self.batches, int):
            return np.arange(first, first + n)
        assert self.counts is not None
        start = first // STRIDE * STRIDE
        before = self.counts[first // STRIDE] + np.bincount(
            self.batches[start:first], minlength=self.counts.shape[1]
        )
        own, out = self.batches[first : first + n], np.empty(n, np.intp)
        for batch in np.unique(own):
            at = np.flatnonzero(own == batch)
            out[at] = before[batch] + np.arange(len(at))
        return out

    def correct(self, X: Block, first: int) -> Floats:
        """Correct a chunk `X` whose first row is row `first` of the source."""
        (out,) = self._of_chunk(X, first, lambda *cells: (self.model.correct(*cells),), [X.shape[1]])
        return out

    def embed(self, X: Block, first: int) -> Floats:
        """Embed a chunk: its corrected cells in the dimensions in which distances are taken."""
        (out,) = self._of_chunk(X, first, lambda *cells: (self.model.embed(*cells),), [self.model.n_dims])
        return out

    def correct_and_embed(self, X: Block, first: int) -> tuple[Floats, Floats]:
        """Do both, in less time than both take."""
        widths = [X.shape[1], self.model.n_dims]
        out, embedding = self._of_chunk(X, first, self.model.correct_and_embed, widths)
        return out, embedding

    def _of_chunk(
        self,
        X: Block,
        first: int,
        function: Callable[[int, Block, Rows | None], tuple[Floats, ...]],
        widths: Sequence[int],
    ) -> tuple[Floats, ...]:
        """Call a function of the model on the cells of each batch; stack what it returns."""
        rows = self.rows(first, X.shape[0])
        groups = self._rows_by_batch(X, first)
        whole = tuple(
            np.empty((0 if len(groups) == 1 else X.shape[0], width), self.model.spaces.dtype)
            for width in widths
        )
        for batch, own in groups:
            cells = X if len(groups) == 1 else X[own]
            check_finite(cells, f"batch {self.model.names[batch]!r}", rows=own + first)
            parts = function(batch, cells, None if rows is None else rows[own])
            if len(groups) == 1:
                return parts
            for out, part in zip(whole, parts, strict=True):
                out[own] = part
        return whole

    def angles(self, X: Block, first: int) -> NDArray[np.float64]:
        """Return the angle of each correction of a chunk (see :meth:`correct`), NaN for the reference."""
        out = np.full(X.shape[0], np.nan)
        for batch, own in self._rows_by_batch(X, first):
            if self.model.steps_of(batch):
                check_finite(X[own], f"batch {self.model.names[batch]!r}", rows=own + first)
                out[own] = self.model.angles(batch, X[own])
        return out

    def _rows_by_batch(self, X: Block, first: int) -> list[tuple[int, Rows]]:
        """Return each batch of a chunk with its rows of the chunk."""
        if isinstance(self.batches, int):
            return [(self.batches, np.arange(X.shape[0]))]
        batches = self.batches[first : first + X.shape[0]]
        return [(int(b), np.flatnonzero(batches == b)) for b in np.unique(batches)]
