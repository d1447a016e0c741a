"""Fitting: merge the sketched cells of the batches one by one, and keep what correcting a cell needs.

Genes used for distances and the others are treated apart. Everything that decides (pairs, weights, factors)
comes from the first; the others only need anchor vectors, which are made a block of genes at a time, so that
tens of thousands of genes are never dense for all sketched cells at once.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.cosine import SHORTEST
from mnndask.kernels.distances import Floats, Points, Tolerances, row_lengths
from mnndask.kernels.neighbors import Rows, mutual, nearest
from mnndask.kernels.smoothing import density, pair_means, smoothing_weights
from mnndask.kernels.subspace import Span, SvdSolver
from mnndask.kernels.variance import variance_factors
from mnndask.model import CorrectionModel, GeneSpaces, MergeStep
from mnndask.parallel import block_rows, map_blocks, row_blocks
from mnndask.reference import MergeRecord, Sketch, Space

logger = logging.getLogger(__name__)

GENES_PER_BLOCK = 2048


@dataclass(frozen=True)
class FitOptions:
    """What the definition leaves open; see :func:`mnndask.mnn_correct`."""

    k: int
    sigma: float
    svd_dim: int | None
    var_adj: bool
    compute_angle: bool
    solver: SvdSolver
    n_jobs: int | None


@dataclass(frozen=True)
class RemovedSpan:
    """A span that was taken out of a step's anchor vectors.

    Parameters
    ----------
    span
        The span, in *out* space.
    along
        How much of it each anchor's vector had, shape ``(n_anchors, n_dims)``.
    ref_rows
        The reference's cells that span it; None if it is the anchors'.
    """

    span: Span
    along: Floats
    ref_rows: Rows | None


class Fit:
    """One fit, from sketches to a :class:`~mnndask.model.CorrectionModel`.

    Parameters
    ----------
    sketches
        One per batch, in input order.
    names
        Names of the batches.
    order
        Order in which they merge.
    spaces, options
        What to compute.
    """

    def __init__(
        self,
        sketches: list[Sketch],
        names: list[str],
        order: list[int],
        spaces: GeneSpaces,
        options: FitOptions,
    ) -> None:
        self.sketches, self.order, self.spaces, self.options = sketches, order, spaces, options
        self.tolerances = Tolerances.of(spaces.dtype)
        raw = {b: spaces.dense(sketch.X[:, spaces.near]) for b, sketch in enumerate(sketches)}
        self.lengths = {b: spaces.lengths(X) for b, X in raw.items()}
        self._warn_of_empty_cells(names)
        self.space_in = self._space(raw, normalise=spaces.cos_norm_in)
        self.space_out = self.space_in if spaces.coincide else self._space(raw, normalise=spaces.cos_norm_out)
        # Where the two coincide, all that follows is done once.
        self.distinct = [self.space_in] if spaces.coincide else [self.space_in, self.space_out]
        self.model = CorrectionModel(
            spaces, options.sigma, names, order, self.space_in.centre, self.space_out.centre
        )
        self.records: list[MergeRecord] = []
        self.spans: dict[int, list[RemovedSpan]] = {}

    def _space(self, raw: dict[int, Floats], *, normalise: bool) -> Space:
        cells = {b: X / self.lengths[b] if normalise else X.copy() for b, X in raw.items()}
        return Space(cells, self.order[0])

    def _warn_of_empty_cells(self, names: list[str]) -> None:
        """Cells that express other genes only are divided by the least length there is."""
        if self.spaces.subset is None or not self.spaces.cos_norm_out:
            return
        for b, lengths in self.lengths.items():
            empty = np.flatnonzero(lengths[:, 0] <= SHORTEST * 1.01)
            n_other = np.count_nonzero(abs(self.sketches[b].X[empty]).sum(axis=1)) if len(empty) else 0
            if n_other:
                message = (
                    f"{n_other} cell(s) of batch {names[b]!r} express none of the genes used for distances, "
                    "and are huge when divided by their length.\n"
                    "Remove them, use more genes in var_subset, or set cos_norm_out=False."
                )
                warnings.warn(message, UserWarning, stacklevel=6)

    def run(self) -> CorrectionModel:
        """Merge all batches."""
        for batch in self.order[1:]:
            self._merge(batch)
        rest = self.spaces.rest
        for start in range(0, len(rest), GENES_PER_BLOCK):
            self._extend(rest[start : start + GENES_PER_BLOCK])
        return self.model

    def _merge(self, batch: int) -> None:
        """Definition, steps 3 to 9, on the genes used for distances."""
        new, ref = self.space_in.new[batch], self.space_in.ref()
        record = self._pairs(batch, new, ref)
        self.records.append(record)
        anchors = new[record.anchors]
        rows = block_rows(2 * len(anchors), anchors.X.itemsize)
        log_density = np.log(
            np.concatenate(self._map(len(anchors), rows, lambda s: density(anchors, s, self.options.sigma)))
        )

        vectors = [self._anchor_vectors(space, record) for space in self.distinct]
        step = MergeStep(
            anchors=anchors,
            log_density=log_density,
            vectors=np.empty((len(anchors), self.spaces.n_genes), self.spaces.dtype),
            new=self.space_out.new[batch] if self.options.var_adj else None,
            ref=self.space_out.ref() if self.options.var_adj else None,
            scale=self.space_out.scale,
            factors=np.full(self.sketches[batch].n_cells, np.nan if self.options.var_adj else 1.0),
        )
        if self.options.compute_angle:
            step.angle_vectors = vectors[0]
            step.angle_basis = Span.of(ref.X, 2, self.options.solver, self.space_in.scale).basis
        if self.options.svd_dim:
            removed = [
                self._remove_spans(space, record, v, self.options.svd_dim)
                for space, v in zip(self.distinct, vectors, strict=True)
            ]
            vectors = [v for v, _ in removed]
            self.spans[batch] = removed[-1][1]
        step.vectors[:, self.spaces.near] = vectors[-1]
        self.model.steps[batch] = step
        self._grow(batch, step, vectors)
        logger.info(
            "batch %r: %d pairs, %d anchors", self.model.names[batch], len(record.new_rows), len(anchors)
        )

    def _pairs(self, batch: int, new: Points, ref: Points) -> MergeRecord:
        space = self.space_in

        def search(queries: Points, sizes: NDArray[np.float64], others: Points) -> tuple[Rows, Rows]:
            def one(block: slice) -> tuple[Rows, Rows]:
                tie = self.tolerances.squared_distance * sizes[block] ** 2
                query, other = nearest(queries[block], others, self.options.k, tie)
                return query + block.start, other

            rows = block_rows(3 * len(others), others.X.itemsize)
            found = self._map(len(queries), rows, one)
            return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

        of_new = search(new, space.sizes[batch], ref)
        of_ref = search(ref, space.ref_sizes(), new)
        ref_rows, new_rows = mutual(of_new, of_ref, (len(new), len(ref)))
        return MergeRecord(batch, ref_rows, new_rows, len(ref))

    def _anchor_vectors(self, space: Space, record: MergeRecord) -> Floats:
        """Mean difference of each anchor to its partners; exactly zero where it is only rounding."""
        means = pair_means(record.ref_rows, record.new_rows, record.n_reference)
        vectors = means @ space.ref().X - space.new[record.batch].X[record.anchors]
        _drop_rounding(vectors, self.tolerances.vector * space.sizes[record.batch][record.anchors])
        out: Floats = vectors.astype(self.spaces.dtype)
        return out

    def _remove_spans(
        self, space: Space, record: MergeRecord, vectors: Floats, n_dims: int
    ) -> tuple[Floats, list[RemovedSpan]]:
        """Take the paired cells' biology out of the anchors' vectors: as smoothing is linear, out of all."""
        removed = []
        paired = np.unique(record.ref_rows)
        sides = (space.ref().X[paired], paired), (space.new[record.batch].X[record.anchors], None)
        for X, rows in sides:
            span = Span.of(X, n_dims, self.options.solver, space.scale)
            along, before = vectors @ span.basis, row_lengths(vectors)
            vectors = vectors - along @ span.basis.T
            _drop_rounding(vectors, 10 * self.tolerances.vector * before)
            removed.append(RemovedSpan(span, along, rows))
        return vectors, removed

    def _grow(self, batch: int, step: MergeStep, vectors: list[Floats]) -> None:
        """Correct the batch's sketched cells, and let the reference grow by them."""
        cells, sigma = self.space_in.new[batch], self.options.sigma
        corrections = [np.empty_like(space.new[batch].X) for space in self.distinct]

        def one(block: slice) -> None:
            weights = smoothing_weights(cells[block], step.anchors, step.log_density, sigma)
            for space, anchor_vectors, target in zip(self.distinct, vectors, corrections, strict=True):
                own = weights @ anchor_vectors
                if self.options.var_adj:
                    new = space.new[batch]
                    factors = variance_factors(new[block], own, new, space.ref(), sigma, space.scale)
                    own *= factors.astype(own.dtype)[:, None]
                    if space is self.space_out:
                        step.factors[self.sketches[batch].rows[block]] = factors
                target[block] = own

        self._map(len(cells), step.block_rows(), one)
        for space, correction in zip(self.distinct, corrections, strict=True):
            space.grow(batch, correction)

    def _extend(self, genes: Rows) -> None:
        """Anchor vectors of a block of genes that were not used for distances."""
        dtype = self.spaces.dtype
        reference = np.empty((sum(len(s.rows) for s in self.sketches), len(genes)), dtype)
        first = self._rest(self.order[0], genes)
        reference[: len(first)] = first
        for record in self.records:
            new = self._rest(record.batch, genes)
            ref = reference[: record.n_reference]
            step = self.model.steps[record.batch]
            means = pair_means(record.ref_rows, record.new_rows, record.n_reference)
            vectors = (means @ ref - new[record.anchors]).astype(dtype)
            for removed in self.spans.get(record.batch, []):
                cells = new[record.anchors] if removed.ref_rows is None else ref[removed.ref_rows]
                vectors -= removed.along @ removed.span.loadings(cells).T
            step.vectors[:, genes] = vectors
            if record is not self.records[-1]:
                self._grow_rest(record, step, vectors, new, reference)

    def _grow_rest(
        self, record: MergeRecord, step: MergeStep, vectors: Floats, new: Floats, reference: Floats
    ) -> None:
        cells = self.space_in.new[record.batch]
        factors = step.factors[self.sketches[record.batch].rows].astype(vectors.dtype)[:, None]

        def one(block: slice) -> None:
            weights = smoothing_weights(cells[block], step.anchors, step.log_density, self.options.sigma)
            at = slice(record.n_reference + block.start, record.n_reference + block.stop)
            reference[at] = new[block] + factors[block] * (weights @ vectors)

        self._map(len(cells), step.block_rows(), one)

    def _rest(self, batch: int, genes: Rows) -> Floats:
        """Sketched cells of a batch in *out* space on other genes."""
        X = self.spaces.dense(self.sketches[batch].X[:, genes])
        return X / self.lengths[batch] if self.spaces.cos_norm_out else X

    def _map(self, n_rows: int, rows: int, function: Callable[[slice], Any]) -> list[Any]:
        return map_blocks(function, row_blocks(n_rows, rows), self.options.n_jobs)


def _drop_rounding(vectors: Floats, shortest: NDArray[np.float64]) -> None:
    """Make vectors exactly zero that are no longer than rounding: variance adjustment would lengthen them."""
    vectors[row_lengths(vectors) <= shortest] = 0
