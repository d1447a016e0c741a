"""Anchor vectors of genes that are no dimensions of the space of distances, a block of genes at a time.

These are the genes not used for distances; or all genes, if distances are taken on principal components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import GENES_PER_BLOCK
from mnndask._progress import advance, stage
from mnndask._typing import Floats, Matrix, Rows
from mnndask.core.arrays import tile_size
from mnndask.core.correction import lengthen, moved
from mnndask.core.history import Merge, MergeHistory
from mnndask.core.low_rank import bytes_needed, compress, is_worth_it
from mnndask.core.node import Node
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
    if merge.right.rows is not None:  # its cells are not those of one batch
        return step
    (batch,) = merge.right.batches
    cells, n_cells = history.cells.space_in.points[batch], history.cells.raw[batch].n_cells
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
        self.spaces = history.cells.spaces
        self.needed = _needed_rows(history)  # of the grown reference, ascending
        # Rows in memory at once, copies in double precision included.
        rows = 3 * len(self.needed) + 6 * max(len(_new_rows(m)) for m in history.merges)
        self.genes_at_once = max(1, min(GENES_PER_BLOCK, n_bytes // (rows * self.spaces.dtype.itemsize)))

    def vectors(self) -> list[Matrix]:
        """Vectors of each merge's anchors, shape ``(n_anchors, n_other_genes)``."""
        n = len(self.spaces.rest)
        out = [
            self.new_matrix(f"rest-{i}", (len(m.step.anchors), n), self.genes_at_once)
            for i, m in enumerate(self.history.merges)
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
        for batch, first in self.history.entered:
            at, rows = self._of_segment(first, self.history.cells.n_fitted[batch])
            reference[at] = self._cells_of_batch(batch, rows, genes)
        for merge, target in zip(self.history.merges, out, strict=True):
            vectors = self._anchor_vectors(merge, genes, reference)
            target[:, genes] = vectors
            self._grow(merge, vectors, genes, reference)

    def _anchor_vectors(self, merge: Merge, genes: slice, reference: Floats) -> Floats:
        """Mean differences of anchors to their partners, without the removed spans (steps 4 and 7)."""
        new_rows = _new_rows(merge)
        cells = self._cells_that_move(merge, new_rows, genes, reference)
        anchors = cells[np.searchsorted(new_rows, merge.pairs.anchors)]
        if merge.averaged is None:
            # Of partners alone: the product takes a copy of all it is given, in double precision.
            partners, rows = np.unique(merge.pairs.ref_rows, return_inverse=True)
            means = pair_means(rows, merge.pairs.new_rows, len(partners))
            own = self._of_node(merge.left, partners, reference)
            vectors: Floats = (means @ own - anchors).astype(self.spaces.dtype)
        else:
            ref_rows = _reference_rows(merge)
            ref = ref_rows, self._of_node(merge.left, ref_rows, reference)
            vectors = merge.averaged.differences(ref, (new_rows, cells), self.work.n_threads)
            assert merge.shrink_factors is not None
            lengthen(vectors, merge.shrink_factors)
        for removed in merge.removed:
            paired = anchors
            if removed.ref_rows is not None:
                paired = self._of_node(merge.left, removed.ref_rows, reference)
            vectors -= removed.along @ removed.span.loadings(paired).T
        return vectors

    def _grow(self, merge: Merge, vectors: Floats, genes: slice, reference: Floats) -> None:
        """Correct the cells that moved and that later anchors pair with."""
        step, sigma, n_moved = merge.step, self.history.parameters.sigma, merge.right.n_cells
        target, rows = self._of_segment(merge.first_row, n_moved)
        if not len(rows):
            return
        cells = self.history.cells_that_move(merge)
        factors = self._factors(merge, rows)
        own = self._cells_that_move(merge, rows, genes, reference)

        def one(at: slice) -> Floats:
            (smoothed,) = smooth(cells(rows[at]), step.anchors, step.log_density, [vectors], sigma)
            lengthen(smoothed, factors[at])
            return moved(own[at], smoothed)

        # Returned, not written: a task may run in another process.
        corrected = self.work.map("smooth", len(rows), 3 * tile_size(step.anchors), one)
        reference[target] = np.concatenate(corrected)

    def _factors(self, merge: Merge, rows: Rows) -> NDArray[np.float64]:
        """Variance factors of some of the cells that a merge moves."""
        out, start = np.ones(len(rows)), 0
        for batch in merge.right.batches:
            n = self.history.cells.n_fitted[batch]
            at = slice(*np.searchsorted(rows, [start, start + n]))
            known = merge.step.known(batch, self.history.cells.raw[batch].rows[rows[at] - start])
            if known is not None:
                out[at] = known
            start += n
        return out

    def _of_segment(self, first: int, n: int) -> tuple[slice, Rows]:
        """Where rows of the grown reference from `first` on are among those needed; and which of `n` are."""
        at = slice(*np.searchsorted(self.needed, [first, first + n]))
        return at, self.needed[at] - first

    def _of_node(self, node: Node, rows: Rows, reference: Floats) -> Floats:
        """Some cells of a node, as they stand in the grown reference."""
        return reference[np.searchsorted(self.needed, node.at(rows))]

    def _cells_that_move(self, merge: Merge, rows: Rows, genes: slice, reference: Floats) -> Floats:
        """Some of the cells that a merge moves, before it does, in *out* space."""
        if merge.right.rows is not None:
            return self._of_node(merge.right, rows, reference)
        return self._cells_of_batch(merge.right.batches[0], rows, genes)

    def _cells_of_batch(self, batch: int, rows: Rows, genes: slice) -> Floats:
        """Fitted cells of a batch in *out* space."""
        X = self.history.cells.raw[batch].rest(self.spaces, rows, genes)
        return X / self.history.cells.lengths[batch][rows] if self.spaces.cos_norm_out else X


def _needed_rows(history: MergeHistory) -> Rows:
    """Rows of the grown reference that anchor vectors are from, directly or by way of others that moved."""
    wanted = np.zeros(history.n_reference, bool)
    for merge in reversed(history.merges):
        wanted[merge.left.at(_reference_rows(merge))] = True
        if merge.right.rows is not None:
            moved_rows = np.flatnonzero(wanted[merge.first_row : merge.first_row + merge.right.n_cells])
            wanted[merge.right.at(np.union1d(_new_rows(merge), moved_rows))] = True
    return np.flatnonzero(wanted)


def _reference_rows(merge: Merge) -> Rows:
    """Cells of its reference that a merge's vectors are from."""
    rows = merge.pairs.ref_rows
    return rows if merge.averaged is None else np.union1d(rows, merge.averaged.partners.members)


def _new_rows(merge: Merge) -> Rows:
    """Cells that move that a merge's vectors are from, ascending."""
    anchors = merge.pairs.anchors
    return anchors if merge.averaged is None else np.union1d(anchors, merge.averaged.anchors.members)
