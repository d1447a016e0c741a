"""Fitting: merge the sketched cells of the batches one by one, and keep what correcting a cell needs.

Genes used for distances and the others are treated apart. Everything that decides (pairs, weights, factors)
comes from the first; the others only need anchor vectors (see :mod:`mnndask.other_genes`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.components import Components
from mnndask.kernels.cosine import SHORTEST
from mnndask.kernels.distances import Floats, Matrix, Points, Tolerances, pieces, row_lengths
from mnndask.kernels.low_rank import bytes_needed, compress, is_worth_it
from mnndask.kernels.neighbors import Rows, mutual
from mnndask.kernels.smoothing import density, pair_means, smooth, smoothing_weights
from mnndask.kernels.subspace import Span, SvdSolver
from mnndask.kernels.variance import variance_factors
from mnndask.model import PAIR_COPIES, CorrectionModel, GeneSpaces, MergeStep, tile_of
from mnndask.other_genes import OtherGenes
from mnndask.reference import MergeRecord, Sketch, Space
from mnndask.runstore import InMemory, RunStore
from mnndask.spans import RemovedSpan, drop_rounding, remove_span
from mnndask.workspace import Workspace

logger = logging.getLogger(__name__)

Norms = dict[int, NDArray[np.float64]]  # of each batch's cells

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
        matrices, norms = self._normalised()
        self._warn_of_empty_cells(names)
        components = [self._to_components(s, *of) for s, of in enumerate(zip(matrices, norms, strict=True))]
        self.space_in = Space(matrices[0], norms[0], order[0], work)
        self.space_out = self.space_in if spaces.coincide else Space(matrices[1], norms[1], order[0], work)
        # Where the two coincide, all that follows is done once.
        self.distinct = [self.space_in] if spaces.coincide else [self.space_in, self.space_out]
        self.model = CorrectionModel(
            spaces,
            options.sigma,
            names,
            order,
            self.space_in.centre,
            self.space_out.centre,
            work.block_bytes,
            components[0],
            components[-1],
        )
        self.records: list[MergeRecord] = []
        self.spans: dict[int, list[RemovedSpan]] = {}

    def _normalised(self) -> tuple[list[dict[int, Matrix]], list[Norms]]:
        """Each batch's cells on the genes used for distances, in each distinct space; and their norms there.

        Notes their cosine lengths.
        """
        spaces = self.spaces
        normalise = [spaces.cos_norm_in] if spaces.coincide else [spaces.cos_norm_in, spaces.cos_norm_out]
        self.lengths: dict[int, Floats] = {}
        matrices: list[dict[int, Matrix]] = [{} for _ in normalise]
        norms: list[Norms] = [{} for _ in normalise]
        for b, sketch in enumerate(self.sketches):
            shape = (len(sketch.rows), spaces.n_near)
            targets = [self.work.matrix(f"cells-{s}-{b}", shape) for s in range(len(normalise))]

            def one(
                at: slice, sketch: Sketch = sketch, targets: list[Matrix] = targets
            ) -> tuple[Floats, list[NDArray[np.float64]]]:
                near = sketch.near(spaces, at)
                lengths, norms = spaces.lengths(near), []
                for divide, target in zip(normalise, targets, strict=True):
                    cells = near / lengths if divide else near
                    target[at] = cells
                    norms.append(row_lengths(cells))
                return lengths, norms

            found = self.work.map("cosine", shape[0], shape[1], one)
            self.lengths[b] = np.concatenate([lengths for lengths, _ in found])
            for s, target in enumerate(targets):
                matrices[s][b], norms[s][b] = target, np.concatenate([norms[s] for _, norms in found])
        return matrices, norms

    def _to_components(self, s: int, cells: dict[int, Matrix], norms: Norms) -> Components | None:
        """Put coordinates on the leading components of all batches in the place of genes, if asked for."""
        n = self.spaces.n_components
        if n is None:
            return None
        scale = float(max(own.max() for own in norms.values()))
        components = Components.of(list(cells.values()), n, self.options.solver, scale, self.work.tile)
        for b, X in cells.items():
            out = self.work.matrix(f"components-{s}-{b}", (len(X), components.basis.shape[1]))

            def one(at: slice, X: Matrix = X, out: Matrix = out) -> None:
                out[at] = components.project(X[at])

            self.work.map("components", len(X), X.shape[1], one)
            cells[b] = out
        return components

    def _warn_of_empty_cells(self, names: list[str]) -> None:
        """Cells that express other genes only are divided by the least length there is."""
        if self.spaces.subset is None or not self.spaces.cos_norm_out:
            return
        for b, lengths in self.lengths.items():
            empty = np.flatnonzero(lengths[:, 0] <= SHORTEST * 1.01)
            n_other = self.sketches[b].express_rest(self.spaces, empty).sum() if len(empty) else 0
            if n_other:
                message = (
                    f"{n_other} cell(s) of batch {names[b]!r} express none of the genes used for distances, "
                    "and are huge when divided by their length.\n"
                    "Remove them, use more genes in var_subset, or set cos_norm_out=False."
                )
                warnings.warn(message, UserWarning, stacklevel=7)

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
            and bytes_needed(len(cells), shape[0]) <= self.options.rest_bytes
        ):
            weights = smoothing_weights(cells, step.anchors, step.log_density, self.options.sigma)
            step.rest_vectors = compress(weights, step.rest_vectors) or step.rest_vectors

    def _merge(self, batch: int) -> None:
        """Definition, steps 3 to 9, on the genes used for distances."""
        new, ref = self.space_in.new[batch], self.space_in.ref()
        used = self._used_reference(len(ref))
        refs = [self._reference(batch, space, used) for space in self.distinct]
        record = self._pairs(batch, refs[0], used)
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
            for space, v in zip(self.distinct, vectors, strict=True):
                self.spans[batch] = self._remove_spans(space, record, v, self.options.svd_dim)
        self.model.steps[batch] = step
        self._grow(batch, step, vectors, refs)
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

    def _pairs(self, batch: int, ref: Points, used: Rows | None) -> MergeRecord:
        space = self.space_in
        new, ref_sizes = space.new[batch], space.ref_sizes()
        ties = [
            self.tolerances.squared_distance * sizes**2
            for sizes in (space.sizes[batch], ref_sizes if used is None else ref_sizes[used])
        ]
        of_new, of_ref = self.work.neighbours(new, ref, self.options.k, ties)
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

    def _grow(self, batch: int, step: MergeStep, vectors: list[Matrix], refs: list[Points]) -> None:
        """Correct the batch's sketched cells, and let the reference grow by them."""
        if self.work.tile is None:
            corrected, factors = self._corrected_in_memory(batch, step, vectors, refs)
        else:
            corrected, factors = self._corrected_on_disk(batch, step, vectors, refs)
        if self.options.var_adj:
            step.factors[self.sketches[batch].rows] = factors
        for space, moved in zip(self.distinct, corrected, strict=True):
            space.grow(batch, moved)

    def _corrected_in_memory(
        self, batch: int, step: MergeStep, vectors: list[Matrix], refs: list[Points]
    ) -> tuple[list[Matrix], NDArray[np.float64]]:
        """The batch's sketched cells, corrected, in each space; and their factors in the last.

        Products with cells of the batch serve smoothing, of which anchors are some, and variance adjustment.
        """
        cells, sigma = self.space_in.new[batch], self.options.sigma
        out = [self.work.matrix(f"corrected-{s}-{batch}", cells.X.shape) for s in range(len(self.distinct))]

        def one(at: slice) -> NDArray[np.float64]:
            products = cells.X[at] @ cells.X.T if step.anchor_rows is not None else None
            of_anchors = None if products is None else products[:, step.anchor_rows]
            parts = smooth(cells[at], step.anchors, step.log_density, vectors, sigma, of_anchors)
            factors = np.ones(len(parts[0]))
            for space, moved, part, ref in zip(self.distinct, out, parts, refs, strict=True):
                new = space.new[batch]
                if self.options.var_adj:
                    factors = variance_factors(new[at], part, new, ref, sigma, space.scale, products)
                part *= factors.astype(part.dtype)[:, None]
                np.add(new.X[at], part, out=moved[at])
            return factors

        columns = (
            3 * len(cells) + PAIR_COPIES * len(refs[0]) if self.options.var_adj else 3 * len(step.anchors)
        )
        return out, np.concatenate(self.work.map("grow", len(cells), columns, one))

    def _corrected_on_disk(
        self, batch: int, step: MergeStep, vectors: list[Matrix], refs: list[Points]
    ) -> tuple[list[Matrix], NDArray[np.float64]]:
        """The same, a tile at a time."""
        cells, sigma = self.space_in.new[batch], self.options.sigma
        own = [self.work.matrix(f"corrected-{s}-{batch}", cells.X.shape) for s in range(len(self.distinct))]

        def smoothed(at: slice) -> None:
            parts = smooth(cells[at], step.anchors, step.log_density, vectors, sigma)
            for target, part in zip(own, parts, strict=True):
                target[at] = part

        self.work.map("smooth", len(cells), 3 * tile_of(step.anchors), smoothed)
        factors = np.ones(len(cells))
        for space, corrected, ref in zip(self.distinct, own, refs, strict=True):
            new = space.new[batch]
            if self.options.var_adj:
                factors = self.work.factors(new, corrected, ref, sigma, space.scale)

            def moved(
                at: slice, new: Points = new, corrected: Matrix = corrected, factors: Floats = factors
            ) -> None:
                corrected[at] = new.X[at] + factors[at].astype(new.squared.dtype)[:, None] * corrected[at]

            self.work.map("grow", len(corrected), corrected.shape[1], moved)
        return own, factors
