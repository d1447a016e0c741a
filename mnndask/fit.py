"""Fitting: merge the sketched cells of the batches one by one, and keep what correcting a cell needs.

Genes used for distances and the others are treated apart. Everything that decides (pairs, weights, factors)
comes from the first; the others only need anchor vectors, which are made a block of genes at a time, so that
tens of thousands of genes are never dense for all sketched cells at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask.kernels.distances import Floats, Points, Tolerances, row_dots
from mnndask.kernels.neighbors import Rows, mutual, nearest
from mnndask.kernels.smoothing import density, pair_means, smoothing_weights
from mnndask.kernels.subspace import Span, SvdSolver
from mnndask.kernels.variance import variance_factors
from mnndask.model import Block, CorrectionModel, GeneSpaces, MergeStep
from mnndask.parallel import block_rows, map_blocks, row_blocks

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
class Sketch:
    """The cells that stand for a batch: their raw expression and their rows in it (ascending)."""

    X: Block
    rows: Rows
    n_cells: int


@dataclass(frozen=True)
class MergeRecord:
    """Pairs of one merge step; they count sketched cells, of the accumulated reference and of the batch."""

    batch: int
    ref_rows: Rows
    new_rows: Rows
    n_reference: int

    @property
    def anchors(self) -> Rows:
        """Sketched cells of the batch that have a partner."""
        return np.unique(self.new_rows)


class Space:
    """Sketched cells in one of the two spaces, on the genes used for distances.

    ``reference`` holds the accumulated, corrected cells in merge order: each step adds its batch's. ``scale``
    is the largest norm among all cells before correction; what counts as equal is relative to it.
    """

    def __init__(self, cells: dict[int, Floats], order: list[int], centre: Floats, dtype: np.dtype) -> None:
        self.new = {b: Points.of((X - centre).astype(dtype)) for b, X in cells.items()}
        self.scale = max(float(np.sqrt(row_dots(X, X).max())) for X in cells.values())
        self.centre = centre
        self.length = len(cells[order[0]])
        self.reference = np.empty((sum(map(len, cells.values())), len(centre)), dtype)
        self.squared = np.empty(len(self.reference), dtype)
        self._put(0, self.new[order[0]])

    def _put(self, at: int, points: Points) -> None:
        self.reference[at : at + len(points)] = points.X
        self.squared[at : at + len(points)] = points.squared

    def ref(self) -> Points:
        """Give the reference as it stands."""
        return Points(self.reference[: self.length], self.squared[: self.length])

    def grow(self, batch: int, corrections: Floats) -> None:
        """Add a batch's corrected cells to the reference."""
        corrected = self.new[batch].X + corrections
        self._put(self.length, Points.of(corrected))
        self.length += len(corrected)


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
        raw: dict[int, Floats] = {
            b: _dense_columns(s.X, spaces.near, spaces.dtype) for b, s in enumerate(sketches)
        }
        self.lengths = {b: spaces.lengths(X) for b, X in raw.items()}
        normalised: dict[int, Floats] = {}
        if spaces.cos_norm_in or spaces.cos_norm_out:
            normalised = {b: X / self.lengths[b] for b, X in raw.items()}
        self.space_in = self._space(normalised if spaces.cos_norm_in else raw)
        self.space_out = (
            self.space_in if spaces.coincide else self._space(normalised if spaces.cos_norm_out else raw)
        )
        self.model = CorrectionModel(
            spaces, options.sigma, names, order, self.space_in.centre, self.space_out.centre
        )
        self.records: list[MergeRecord] = []
        self.spans: dict[int, list[tuple[Span, Floats, Rows | None]]] = {}

    def _space(self, cells: dict[int, Floats]) -> Space:
        total = np.sum([X.sum(axis=0, dtype=np.float64) for X in cells.values()], axis=0)
        centre = (total / sum(map(len, cells.values()))).astype(self.spaces.dtype)
        return Space(cells, self.order, centre, self.spaces.dtype)

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

        vectors_in = self._anchor_vectors(self.space_in, record)
        vectors_out = vectors_in if self.spaces.coincide else self._anchor_vectors(self.space_out, record)
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
            step.angle_vectors = vectors_in
            step.angle_basis = Span.of(ref.X, 2, self.options.solver, self.space_in.scale).basis
        if self.options.svd_dim:
            self.spans[batch], vectors_out_spanless = self._remove_spans(self.space_out, record, vectors_out)
            vectors_in = (
                vectors_out_spanless
                if self.spaces.coincide
                else self._remove_spans(self.space_in, record, vectors_in)[1]
            )
            vectors_out = vectors_out_spanless

        step.vectors[:, self.spaces.near] = vectors_out
        self.model.steps[batch] = step
        self._grow(batch, step, vectors_in, vectors_out)
        logger.info(
            "batch %r: %d pairs, %d anchors", self.model.names[batch], len(record.new_rows), len(anchors)
        )

    def _pairs(self, batch: int, new: Points, ref: Points) -> MergeRecord:
        tie = self.tolerances.squared_distance * self.space_in.scale**2

        def search(queries: Points, others: Points) -> tuple[Rows, Rows]:
            def one(block: slice) -> tuple[Rows, Rows]:
                query, other = nearest(queries[block], others, self.options.k, tie)
                return query + block.start, other

            rows = block_rows(3 * len(others), others.X.itemsize)
            found = self._map(len(queries), rows, one)
            return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

        ref_rows, new_rows = mutual(search(new, ref), search(ref, new), (len(new), len(ref)))
        return MergeRecord(batch, ref_rows, new_rows, len(ref))

    def _anchor_vectors(self, space: Space, record: MergeRecord) -> Floats:
        """Mean difference of each anchor to its partners; exactly zero where it is only rounding."""
        means = pair_means(record.ref_rows, record.new_rows, record.n_reference)
        vectors = means @ space.ref().X - space.new[record.batch].X[record.anchors]
        shortest = self.tolerances.vector * space.scale
        vectors[row_dots(vectors, vectors) <= shortest**2] = 0
        out: Floats = vectors.astype(self.spaces.dtype)
        return out

    def _remove_spans(
        self, space: Space, record: MergeRecord, vectors: Floats
    ) -> tuple[list[tuple[Span, Floats, Rows | None]], Floats]:
        """Take the paired cells' biology out of the anchors' vectors: as smoothing is linear, out of all."""
        removed: list[tuple[Span, Floats, Rows | None]] = []
        assert self.options.svd_dim is not None
        paired_ref = np.unique(record.ref_rows)
        for X, paired in (
            (space.ref().X[paired_ref], paired_ref),
            (space.new[record.batch].X[record.anchors], None),
        ):
            span = Span.of(X, self.options.svd_dim, self.options.solver, space.scale)
            along = vectors @ span.basis
            vectors = vectors - along @ span.basis.T
            removed.append((span, along, paired))
        return removed, vectors

    def _grow(self, batch: int, step: MergeStep, vectors_in: Floats, vectors_out: Floats) -> None:
        """Correct the batch's sketched cells, and let the reference grow by them."""
        space_in, space_out, sigma = self.space_in, self.space_out, self.options.sigma
        cells = space_in.new[batch]
        corrections = [np.empty_like(space_in.new[batch].X)]
        if not self.spaces.coincide:
            corrections.append(np.empty_like(space_out.new[batch].X))

        def one(block: slice) -> None:
            weights = smoothing_weights(cells[block], step.anchors, step.log_density, sigma)
            for space, vectors, target in zip(
                (space_in, space_out), (vectors_in, vectors_out), corrections, strict=False
            ):
                own = weights @ vectors
                if self.options.var_adj:
                    new = space.new[batch]
                    factors = variance_factors(new[block], own, new, space.ref(), sigma, space.scale)
                    own *= factors.astype(own.dtype)[:, None]
                    if space is space_out:
                        step.factors[self.sketches[batch].rows[block]] = factors
                target[block] = own

        self._map(len(cells), step.block_rows(), one)
        for space, correction in zip((space_in, space_out), corrections, strict=False):
            space.grow(batch, correction)

    def _extend(self, genes: Rows) -> None:
        """Anchor vectors of a block of genes that were not used for distances."""
        dtype = self.spaces.dtype
        reference = np.empty((len(self.space_out.reference), len(genes)), dtype)
        first = self._rest(self.order[0], genes)
        reference[: len(first)] = first
        for record in self.records:
            new = self._rest(record.batch, genes)
            ref = reference[: record.n_reference]
            step = self.model.steps[record.batch]
            means = pair_means(record.ref_rows, record.new_rows, record.n_reference)
            vectors = (means @ ref - new[record.anchors]).astype(dtype)
            for span, along, paired in self.spans.get(record.batch, []):
                vectors -= along @ span.loadings(new[record.anchors] if paired is None else ref[paired]).T
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
        X = _dense_columns(self.sketches[batch].X, genes, self.spaces.dtype)
        return X / self.lengths[batch] if self.spaces.cos_norm_out else X

    def _map(self, n_rows: int, rows: int, function: Callable[[slice], Any]) -> list[Any]:
        return map_blocks(function, row_blocks(n_rows, rows), self.options.n_jobs)


def _dense_columns(X: Block, columns: Rows | slice, dtype: np.dtype) -> NDArray[np.floating]:
    part = X[:, columns]
    return np.ascontiguousarray(part.toarray() if sparse.issparse(part) else part, dtype=dtype)
