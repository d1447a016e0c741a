"""Fitting: merge the sketched cells of the batches one by one, and keep what correcting a cell needs.

Genes used for distances and the others are treated apart. Everything that decides (pairs, weights, factors)
comes from the first; the others only need anchor vectors (see :mod:`mnndask.other_genes`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnndask.growth import Growth
from mnndask.kernels.distances import Floats, Matrix, Points, Tolerances, pieces
from mnndask.kernels.low_rank import bytes_needed, compress, is_worth_it
from mnndask.kernels.neighbors import Rows, mutual
from mnndask.kernels.smoothing import density, pair_means, smoothing_weights
from mnndask.kernels.subspace import Span, SvdSolver
from mnndask.model import CorrectionModel, MergeStep, tile_of
from mnndask.normalised import normalised, warn_of_empty_cells
from mnndask.other_genes import OtherGenes
from mnndask.progress import stage
from mnndask.reference import MergeRecord, Sketch, Space
from mnndask.runstore import InMemory, RunStore
from mnndask.spaces import GeneSpaces
from mnndask.spans import RemovedSpan, drop_rounding, remove_span
from mnndask.workspace import Workspace

logger = logging.getLogger(__name__)

REFERENCE_CELLS = 20_000  # of the accumulated reference that a step uses, where batches are sketched


@dataclass(frozen=True)
class FitOptions:
    """What the definition leaves open; see :func:`mnndask.mnn_correct`.

    Parameters
    ----------
    bounded_reference
        Whether steps may use a part of a reference of more than ``REFERENCE_CELLS``.
    rest_bytes
        Memory for a block of the other genes.
    """

    k: int
    sigma: float
    svd_dim: int | None
    var_adj: bool
    compute_angle: bool
    solver: SvdSolver
    bounded_reference: bool
    rest_bytes: int


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
    work
        Where cells live, and what is made of them.
    rest_arena
        Where correction vectors of the other genes live.
    """

    def __init__(
        self,
        sketches: Sequence[Sketch],
        names: list[str],
        order: list[int],
        spaces: GeneSpaces,
        options: FitOptions,
        work: Workspace,
        rest_arena: InMemory | RunStore,
    ) -> None:
        self.sketches, self.order, self.spaces, self.options = sketches, order, spaces, options
        self.work, self.rest_arena = work, rest_arena
        self.tolerances = Tolerances.of(spaces.dtype)
        n_spaces = 1 if spaces.coincide else 2
        passes = 1 + n_spaces * (2 + (spaces.n_components is not None))
        with stage("normalising", sum(len(sketch.rows) for sketch in sketches), passes=passes):
            cells = normalised(sketches, names, spaces, options.solver, work)
            made = [Space(*of, order[0], work) for of in zip(cells.matrices, cells.norms, strict=True)]
        self.lengths = cells.lengths
        warn_of_empty_cells(sketches, cells.lengths, spaces, names)
        self.space_in, self.space_out = made[0], made[-1]
        # Where the two coincide, all that follows is done once.
        self.distinct = made
        self.model = CorrectionModel(
            spaces,
            options.sigma,
            names,
            order,
            self.space_in.centre,
            self.space_out.centre,
            work.block_bytes,
            cells.components[0],
            cells.components[-1],
        )
        self.records: list[MergeRecord] = []
        self.spans: dict[int, list[RemovedSpan]] = {}

    def run(self) -> CorrectionModel:
        """Merge all batches."""
        for batch in self.order[1:]:
            self._merge(batch)
        if len(self.spaces.rest):
            OtherGenes(self, self.options.rest_bytes).run()
        if self.spaces.n_components is not None:
            for batch, step in self.model.steps.items():
                self._compress(batch, step)
        return self.model

    def _compress(self, batch: int, step: MergeStep) -> None:
        """Keep vectors of all genes as a product of two thin matrices, where that saves time."""
        cells, shape = self.space_in.new[batch], step.rest_vectors.shape
        if (
            self.work.tile is None
            and is_worth_it(self.sketches[batch].n_cells, len(cells), shape)
            and bytes_needed(len(cells), shape[0], self.spaces.dtype.itemsize) <= self.options.rest_bytes
        ):
            weights = smoothing_weights(cells, step.anchors, step.log_density, self.options.sigma)
            vectors = [step.near_vectors, step.rest_vectors]
            step.near_vectors, step.rest_vectors = (
                compress(weights, vectors, self.options.solver.seed) or vectors
            )

    def _merge(self, batch: int) -> None:
        """Definition, steps 3 to 9, on the genes used for distances."""
        new, ref = self.space_in.new[batch], self.space_in.ref()
        used = self._used_reference(len(ref))
        refs = [self._reference(batch, space, used) for space in self.distinct]
        which = f"batch {self.order.index(batch) + 1} of {len(self.order)}"
        distances = self._room_for_distances(new, refs[0])
        with stage(f"finding pairs of {which}", len(new)):
            record = self._pairs(batch, refs[0], used, distances)
        self.records.append(record)
        anchors = self.work.gather(f"anchors-{batch}", new, record.anchors)
        log_density = np.log(
            np.concatenate(
                self.work.map(
                    "density",
                    len(anchors),
                    2 * tile_of(anchors),
                    lambda at: density(anchors[at], at.start, anchors, self.options.sigma),
                )
            )
        )
        vectors = [
            self._anchor_vectors(f"vectors-{s}-{batch}", space, record)
            for s, space in enumerate(self.distinct)
        ]
        step = MergeStep(
            anchors=anchors,
            log_density=log_density,
            near_vectors=vectors[-1],
            rest_vectors=np.empty((len(anchors), 0), self.spaces.dtype),  # if any, OtherGenes makes them
            new=self.space_out.new[batch] if self.options.var_adj else None,
            ref=refs[-1] if self.options.var_adj else None,
            scale=self.space_out.scale,
            factors=np.full(self.sketches[batch].n_cells, np.nan if self.options.var_adj else 1.0),
        )
        if self.options.var_adj and self.spaces.coincide and self.work.tile is None:
            step.anchor_rows = record.anchors
        if self.options.compute_angle:
            step.angle_vectors = self.work.copy(f"angles-{batch}", vectors[0])
            step.angle_basis = self._span(refs[0].X, 2, self.space_in.scale).basis
        if self.options.svd_dim:
            passes = 2 * len(self.distinct)
            with stage(f"finding biology of {which}", len(anchors), passes=passes):
                for space, v in zip(self.distinct, vectors, strict=True):
                    self.spans[batch] = self._remove_spans(space, record, v, self.options.svd_dim)
        self.model.steps[batch] = step
        self._grow(batch, step, vectors, refs, distances, f"correcting {which}")
        logger.info(
            "batch %r: %d pairs, %d anchors", self.model.names[batch], len(record.new_rows), len(anchors)
        )

    def _used_reference(self, n_reference: int) -> Rows | None:
        """Cells of the accumulated reference that a step uses, None for all; so steps cost the same."""
        if not self.options.bounded_reference or n_reference <= REFERENCE_CELLS:
            return None
        rng = np.random.default_rng([self.options.solver.seed, n_reference])
        return np.sort(rng.choice(n_reference, REFERENCE_CELLS, replace=False))

    def _reference(self, batch: int, space: Space, used: Rows | None) -> Points:
        """Reference cells that a step uses."""
        if used is None:
            return space.ref()
        return self.work.gather(f"reference-{self.distinct.index(space)}-{batch}", space.ref(), used)

    def _room_for_distances(self, new: Points, ref: Points) -> Floats | None:
        """Of all new cells to the reference, where both the pairs and the variance adjustment need them."""
        needed = self.options.var_adj and self.spaces.coincide
        return self.work.distances(new, ref, self.options.k) if needed else None

    def _pairs(self, batch: int, ref: Points, used: Rows | None, distances: Floats | None) -> MergeRecord:
        space = self.space_in
        new, ref_sizes = space.new[batch], space.ref_sizes()
        ties = [
            self.tolerances.squared_distance * sizes**2
            for sizes in (space.sizes[batch], ref_sizes if used is None else ref_sizes[used])
        ]
        of_new, of_ref = self.work.neighbours(new, ref, self.options.k, ties, distances)
        ref_rows, new_rows = mutual(of_new, of_ref, (len(new), len(ref)))
        if used is not None:
            ref_rows = used[ref_rows]
        return MergeRecord(batch, ref_rows, new_rows, len(ref_sizes), len(ref))

    def _anchor_vectors(self, name: str, space: Space, record: MergeRecord) -> Matrix:
        """Mean difference of each anchor to its partners; exactly zero where it is only rounding."""
        means = pair_means(record.ref_rows, record.new_rows, record.n_reference)
        anchors, new, ref = record.anchors, space.new[record.batch], space.ref()
        shortest = self.tolerances.vector * space.sizes[record.batch][anchors]
        out = self.work.matrix(name, (len(anchors), new.X.shape[1]))

        def one(at: slice) -> None:
            vectors = -new.X[anchors[at]].astype(np.float64)
            for tile in pieces(len(ref), ref.tile):
                own = means[at][:, tile]
                partners = np.unique(own.indices)
                if len(partners):
                    vectors += own[:, partners] @ ref.X[tile][partners]
            drop_rounding(vectors, shortest[at])
            out[at] = vectors

        self.work.map("vectors", len(anchors), out.shape[1], one)
        return out

    def _span(self, X: Matrix, n_dims: int, scale: float) -> Span:
        return Span.of(X, n_dims, self.options.solver, scale, self.work.tile)

    def _remove_spans(
        self, space: Space, record: MergeRecord, vectors: Matrix, n_dims: int
    ) -> list[RemovedSpan]:
        """Take the paired cells' biology out of the anchors' vectors: as smoothing is linear, out of all."""
        paired = np.unique(record.ref_rows)
        sides = (space.ref(), paired, paired), (space.new[record.batch], record.anchors, None)
        removed = []
        for side, (points, cells, rows) in enumerate(sides):
            name = f"paired-{side}-{self.distinct.index(space)}-{record.batch}"
            span = self._span(self.work.gather(name, points, cells).X, n_dims, space.scale)
            along = remove_span(self.work, span, vectors, 10 * self.tolerances.vector)
            removed.append(RemovedSpan(span, along, rows))
        return removed

    def _grow(
        self,
        batch: int,
        step: MergeStep,
        vectors: list[Matrix],
        refs: list[Points],
        distances: Floats | None,
        title: str,
    ) -> None:
        """Correct the batch's sketched cells, and let the reference grow by them."""
        growth = Growth(batch, self.distinct, vectors, refs, step, self.options.sigma, self.work, distances)
        with stage(title, len(self.space_in.new[batch]), passes=growth.passes):
            corrected, factors = growth.in_memory() if self.work.tile is None else growth.on_disk()
        if self.options.var_adj:
            step.factors[self.sketches[batch].rows] = factors
        for space, moved in zip(self.distinct, corrected, strict=True):
            space.grow(batch, moved)
