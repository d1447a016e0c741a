"""Anchor vectors of genes that are no dimensions of the space of distances, a block of genes at a time.

These are the genes not used for distances; or all genes, if distances are taken on principal components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from mnndask._blocks import GENES_PER_BLOCK
from mnndask._progress import advance, stage
from mnndask._typing import Floats, Matrix, Rows
from mnndask.core.arrays import tile_size
from mnndask.core.correction import lengthen, moved
from mnndask.core.history import Merge, MergeHistory
from mnndask.core.low_rank import bytes_needed, compress, is_worth_it
from mnndask.core.smoothing import pair_means, smooth, smoothing_weights
from mnndask.core.step import MergeStep
from mnndask.core.workspace import Workspace

# From a name, a shape, and the number of columns that are written at once.
NewMatrix: TypeAlias = Callable[[str, tuple[int, int], int], Matrix]


def with_other_genes(
    history: MergeHistory, work: Workspace, new_matrix: NewMatrix, n_bytes: int
) -> MergeHistory:
    """The history with vectors of the other genes in its steps; as it is if there are no other genes.

    Parameters
    ----------
    history
        All merges.
    work
        Runs the loops over cells.
    new_matrix
        Makes the matrices of the vectors.
    n_bytes
        Memory for cells on a block of genes.
    """
    if not len(history.cells.spaces.rest):
        return history
    vectors = OtherGenes(history, work, new_matrix, n_bytes).vectors()
    steps = [replace(m.step, rest_vectors=own) for m, own in zip(history.merges, vectors, strict=True)]
    if history.cells.spaces.n_components is not None:
        steps = [
            _compressed(history, m, step, n_bytes) for m, step in zip(history.merges, steps, strict=True)
        ]
    return history.with_steps(steps)


def _compressed(history: MergeHistory, merge: Merge, step: MergeStep, n_bytes: int) -> MergeStep:
    """The step with vectors of all genes as low-rank factors, where that saves time."""
    cells, n_cells = history.cells.space_in.points[merge.batch], history.cells.raw[merge.batch].n_cells
    shape = step.rest_vectors.shape
    if not (
        cells.whole
        and is_worth_it(n_cells, len(cells), shape)
        and bytes_needed(len(cells), shape[0], history.cells.spaces.dtype.itemsize) <= n_bytes
    ):
        return step
    weights = smoothing_weights(cells, step.anchors, step.log_density, history.parameters.sigma)
    factors = compress(weights, [step.near_vectors, step.rest_vectors], history.parameters.random_state)
    return step if factors is None else replace(step, near_vectors=factors[0], rest_vectors=factors[1])


class OtherGenes:
    """Computes the steps' vectors on the other genes, when those on the genes for distances are known.

    Only cells that are in a pair matter: anchors, and cells of the reference that later anchors pair with.
    The parameters are those of :func:`with_other_genes`.
    """

    def __init__(self, history: MergeHistory, work: Workspace, new_matrix: NewMatrix, n_bytes: int) -> None:
        self.history, self.work, self.new_matrix = history, work, new_matrix
        self.spaces, n_fitted = history.cells.spaces, history.cells.n_fitted
        starts = np.cumsum([0, *(n_fitted[b] for b in history.order)])
        self.starts = dict(zip(history.order, starts[:-1], strict=True))
        # Rows of the reference that are needed, and which of each batch's fitted cells they are.
        self.needed = np.unique(np.concatenate([_reference_rows(m) for m in history.merges]))
        self.of_batch = {b: self.needed[self._at(b)] - start for b, start in self.starts.items()}
        # Rows in memory at once, copies in double precision included.
        rows = 3 * len(self.needed) + 6 * max(len(_new_rows(m)) for m in history.merges)
        self.genes_at_once = max(1, min(GENES_PER_BLOCK, n_bytes // (rows * self.spaces.dtype.itemsize)))

    def vectors(self) -> list[Matrix]:
        """Vectors of each merge's anchors, shape ``(n_anchors, n_other_genes)``."""
        n = len(self.spaces.rest)
        out = [
            self.new_matrix(f"rest-{m.batch}", (len(m.step.anchors), n), self.genes_at_once)
            for m in self.history.merges
        ]
        with stage("correcting other genes", n, "genes"):
            for start in range(0, n, self.genes_at_once):
                stop = min(start + self.genes_at_once, n)
                self._fill(out, slice(start, stop))
                advance(stop - start)
        return out

    def _fill(self, out: list[Matrix], genes: slice) -> None:
        """Fill the vectors of all merges on a block of genes."""
        reference = np.zeros((len(self.needed), genes.stop - genes.start), self.spaces.dtype)
        first = self.history.first
        reference[self._at(first)] = self._cells(first, self.of_batch[first], genes)
        for merge, target in zip(self.history.merges, out, strict=True):
            vectors = self._anchor_vectors(merge, genes, reference)
            target[:, genes] = vectors
            self._grow(merge, vectors, genes, reference)

    def _anchor_vectors(self, merge: Merge, genes: slice, reference: Floats) -> Floats:
        """Mean differences of anchors to their partners, without the removed spans (steps 4 and 7)."""
        new_rows = _new_rows(merge)
        cells = self._cells(merge.batch, new_rows, genes)
        anchors = cells[np.searchsorted(new_rows, merge.pairs.anchors)]
        if merge.averaged is None:
            # Of partners alone: the product takes a copy of all it is given, in double precision.
            partners, rows = np.unique(merge.pairs.ref_rows, return_inverse=True)
            means = pair_means(rows, merge.pairs.new_rows, len(partners))
            own = reference[np.searchsorted(self.needed, partners)]
            vectors: Floats = (means @ own - anchors).astype(self.spaces.dtype)
        else:
            ref, new = (self.needed, reference), (new_rows, cells)
            vectors = merge.averaged.differences(ref, new, self.work.n_threads)
            assert merge.shrink_factors is not None
            lengthen(vectors, merge.shrink_factors)
        for removed in merge.removed:
            paired = anchors
            if removed.ref_rows is not None:
                paired = reference[np.searchsorted(self.needed, removed.ref_rows)]
            vectors -= removed.along @ removed.span.loadings(paired).T
        return vectors

    def _grow(self, merge: Merge, vectors: Floats, genes: slice, reference: Floats) -> None:
        """Correct the batch's cells that later anchors pair with."""
        batch, step, sigma = merge.batch, merge.step, self.history.parameters.sigma
        rows = self.of_batch[batch]
        if not len(rows):
            return
        cells = self.history.cells.space_in.points[batch]
        fitted = self.history.cells.raw[batch].rows[rows]
        factors = step.factors[fitted]
        own = self._cells(batch, rows, genes)

        def one(at: slice) -> Floats:
            (smoothed,) = smooth(cells[rows[at]], step.anchors, step.log_density, [vectors], sigma)
            lengthen(smoothed, factors[at])
            return moved(own[at], smoothed)

        # Returned, not written: a task may run in another process.
        corrected = self.work.map("smooth", len(rows), 3 * tile_size(step.anchors), one)
        reference[self._at(batch)] = np.concatenate(corrected)

    def _at(self, batch: int) -> slice:
        """Where the batch's needed cells are among all."""
        start = self.starts[batch]
        return slice(*np.searchsorted(self.needed, [start, start + self.history.cells.n_fitted[batch]]))

    def _cells(self, batch: int, rows: Rows, genes: slice) -> Floats:
        """Fitted cells of a batch in *out* space."""
        X = self.history.cells.raw[batch].rest(self.spaces, rows, genes)
        return X / self.history.cells.lengths[batch][rows] if self.spaces.cos_norm_out else X


def _reference_rows(merge: Merge) -> Rows:
    """Rows of the reference that a merge's vectors are from."""
    rows = merge.pairs.ref_rows
    return rows if merge.averaged is None else np.union1d(rows, merge.averaged.partners.members)


def _new_rows(merge: Merge) -> Rows:
    """Fitted cells of the batch that a merge's vectors are from, ascending."""
    anchors = merge.pairs.anchors
    return anchors if merge.averaged is None else np.union1d(anchors, merge.averaged.anchors.members)
