"""Correction vectors of the genes that are not used for distances, a block of them at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mnndask.kernels.distances import Floats
from mnndask.kernels.neighbors import Rows
from mnndask.kernels.smoothing import pair_means, smooth
from mnndask.model import tile_of
from mnndask.progress import advance, stage
from mnndask.reference import MergeRecord
from mnndask.runstore import COLUMNS

if TYPE_CHECKING:
    from mnndask.fit import Fit


class OtherGenes:
    """Makes the steps' vectors on the other genes, when those on the genes for distances are made.

    Only cells that are in a pair matter: anchors, and cells of the reference that later anchors pair with.

    Parameters
    ----------
    fit
        A fit whose steps are done.
    n_bytes
        Memory for these cells on one block of genes.
    """

    def __init__(self, fit: Fit, n_bytes: int) -> None:
        self.fit, self.spaces, self.records = fit, fit.spaces, fit.records
        rows = [len(fit.sketches[b].rows) for b in fit.order]
        self.starts = dict(zip(fit.order, np.cumsum([0, *rows[:-1]]), strict=True))
        every = np.unique(np.concatenate([r.ref_rows for r in self.records]))
        # Rows of the accumulated reference that are needed, and which of each batch's cells they are.
        self.needed = every
        self.of_batch = {
            b: every[(every >= start) & (every < start + len(fit.sketches[b].rows))] - start
            for b, start in self.starts.items()
        }
        # Also in double precision, while means are taken.
        held = 3 * len(every) + 6 * max(len(r.anchors) for r in self.records)
        self.genes_at_once = max(1, min(COLUMNS, n_bytes // (held * self.spaces.dtype.itemsize)))
        for record in self.records:
            fit.model.steps[record.batch].rest_vectors = fit.rest_arena.matrix(
                f"rest-{record.batch}",
                (len(record.anchors), len(self.spaces.rest)),
                self.spaces.dtype,
                self.genes_at_once,  # whole stored chunks are written at once
            )

    def run(self) -> None:
        """Make all vectors."""
        n = len(self.spaces.rest)
        with stage("correcting other genes", n, "genes"):
            for start in range(0, n, self.genes_at_once):
                stop = min(start + self.genes_at_once, n)
                self._extend(slice(start, stop))
                advance(stop - start)

    def _extend(self, genes: slice) -> None:
        reference = np.zeros((len(self.needed), genes.stop - genes.start), self.spaces.dtype)
        first = self.fit.order[0]
        reference[self._at(first)] = self._cells(first, self.of_batch[first], genes)
        for record in self.records:
            step = self.fit.model.steps[record.batch]
            anchors = self._cells(record.batch, record.anchors, genes)
            rows = np.searchsorted(self.needed, record.ref_rows)
            means = pair_means(rows, record.new_rows, len(self.needed))
            vectors = (means @ reference - anchors).astype(self.spaces.dtype)
            for removed in self.fit.spans.get(record.batch, []):
                cells = anchors
                if removed.ref_rows is not None:
                    cells = reference[np.searchsorted(self.needed, removed.ref_rows)]
                vectors -= removed.along @ removed.span.loadings(cells).T
            step.rest_vectors[:, genes] = vectors
            self._grow(record, vectors, genes, reference)

    def _grow(self, record: MergeRecord, vectors: Floats, genes: slice, reference: Floats) -> None:
        """Correct the batch's cells that later anchors pair with."""
        batch, fit = record.batch, self.fit
        rows, start = self.of_batch[batch], self._at(batch).start
        if not len(rows):
            return
        step, cells = fit.model.steps[batch], fit.space_in.new[batch]
        factors = step.factors[fit.sketches[batch].rows[rows]].astype(vectors.dtype)[:, None]
        own = self._cells(batch, rows, genes)

        def one(at: slice) -> Floats:
            (moved,) = smooth(cells[rows[at]], step.anchors, step.log_density, [vectors], fit.options.sigma)
            out: Floats = own[at] + factors[at] * moved
            return out

        # Returned, not written: a task may run in another process.
        corrected = fit.work.map("smooth", len(rows), 3 * tile_of(step.anchors), one)
        reference[start : start + len(rows)] = np.concatenate(corrected)

    def _at(self, batch: int) -> slice:
        """Where the batch's needed cells are among all."""
        start = self.starts[batch]
        own = slice(*np.searchsorted(self.needed, [start, start + len(self.fit.sketches[batch].rows)]))
        return own

    def _cells(self, batch: int, rows: Rows, genes: slice) -> Floats:
        """Sketched cells of a batch in *out* space."""
        X = self.fit.sketches[batch].rest(self.spaces, rows, genes)
        return X / self.fit.lengths[batch][rows] if self.spaces.cos_norm_out else X
