"""The merge loop (definition, step 2): batches merge one by one into a reference, which grows by them.

Pairs, weights and factors are computed from the genes used for distances. The other genes only need anchor
vectors, which are computed afterwards (see :mod:`mnndask.core.other_genes`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mnndask._progress import stage
from mnndask._typing import Matrix, Rows
from mnndask.core.arrays import Points
from mnndask.core.distances import Tolerances
from mnndask.core.history import Merge, MergeHistory
from mnndask.core.normalisation import NormalisedCells
from mnndask.core.pairs import Pairs, find_pairs, memory_for_distances
from mnndask.core.parameters import Parameters
from mnndask.core.reference import ReferenceInSpace
from mnndask.core.reference_growth import BatchInSpace, corrected_cells, correction_passes, grown
from mnndask.core.refined_pairs import n_compared
from mnndask.core.refinement import Refinement
from mnndask.core.shrinkage import Smoothing
from mnndask.core.smoothing import anchor_vectors, log_densities
from mnndask.core.span import RemovedSpan, Span, remove_span
from mnndask.core.step import MergeStep
from mnndask.core.workspace import Workspace

logger = logging.getLogger(__name__)

ANGLE_DIMS = 2  # directions of the reference to which angles are taken
REFERENCE_CELLS = 20_000  # `max_reference` where batches are sketched


def fit(
    cells: NormalisedCells,
    order: Sequence[int],
    parameters: Parameters,
    work: Workspace,
    *,
    max_reference: int | None = None,
) -> MergeHistory:
    """Merge all batches, on the genes used for distances.

    Parameters
    ----------
    cells
        Fitted cells of all batches.
    order
        Order in which the batches merge; the first is the reference.
    parameters
        What the method is asked to do.
    work
        Where matrices live, and how loops run.
    max_reference
        Maximum number of reference cells that a merge uses, drawn at random; None for no limit.
    """
    history = begin(cells, order[0], parameters, work, max_reference=max_reference)
    for batch in order[1:]:
        history = extend(history, batch, work)
    return history


def begin(
    cells: NormalisedCells,
    first: int,
    parameters: Parameters,
    work: Workspace,
    *,
    max_reference: int | None = None,
) -> MergeHistory:
    """The history before any merge: the first batch is the reference."""
    n_cells = sum(cells.n_fitted)
    references = [
        ReferenceInSpace(work.reference(space.points[first], n_cells), space.tolerance_norms[first])
        for space in cells.distinct
    ]
    return MergeHistory(cells, parameters, first, tuple(references), max_reference=max_reference)


def extend(history: MergeHistory, batch: int, work: Workspace) -> MergeHistory:
    """Merge a batch into the reference (definition, steps 3 to 9; with `refine`, 3', 4' and 4'', too).

    The biological span (7) is removed before smoothing (5): as smoothing is linear, the result is the same.

    Parameters
    ----------
    history
        The merges so far.
    batch
        The batch to merge, one of those whose cells the history has.
    work
        Where matrices live, and how loops run.

    Returns
    -------
    The history with one merge more.
    """
    cells, parameters, sigma = history.cells, history.parameters, history.parameters.sigma
    new = cells.space_in.points[batch]
    used = _used_reference(history, len(new))
    refs = [_reference(history, s, used, batch, work) for s in range(len(cells.distinct))]
    which = f"batch {len(history.order) + 1} of {len(cells.names)}"

    # 3: mutual pairs. If variance adjustment works in the same space, keep all squared distances for it.
    variance_in_same_space = parameters.var_adj and cells.spaces.coincide
    distances = memory_for_distances(work, new, refs[0], parameters.k) if variance_in_same_space else None
    with stage(f"finding pairs of {which}", len(new)):
        tolerances = _tie_tolerances(history, batch, used)
        both = parameters.k, parameters.k
        ref_rows, new_rows = find_pairs(work, new, refs[0], both, tolerances, distances)
    refinement = None
    if parameters.refine:  # 3': pairs are found again after the batch has moved by them.
        refinement = Refinement(history, batch, refs[0], used, tolerances, which)
        ref_rows, new_rows = refinement.pairs(work, (ref_rows, new_rows))
    pairs = Pairs(ref_rows if used is None else used[ref_rows], new_rows, history.n_reference, len(refs[0]))

    # 4: anchors and their vectors; refined, between means of both sides (4'), shrunk by their noise (4'').
    anchors = work.gather(f"anchors-{batch}", new, pairs.anchors)
    log_density, averaged, shrink_factors = log_densities(work, anchors, sigma), None, None
    support = None
    if refinement is None:
        vectors = [_anchor_vectors(history, s, batch, pairs, work) for s in range(len(cells.distinct))]
    else:
        shortest = [_rounding(history, s, batch, pairs) for s in range(len(cells.distinct))]
        averaged, support = refinement.averaged(work, pairs)
        smoothing = Smoothing(anchors, log_density, sigma)
        vectors, shrink_factors = refinement.vectors(work, averaged, smoothing, shortest)
    step = MergeStep(
        batches=[batch],
        anchors=anchors,
        log_density=log_density,
        near_vectors=vectors[-1],
        rest_vectors=np.empty((len(anchors), 0), cells.spaces.dtype),  # see mnndask.core.other_genes
        new=cells.space_out.points[batch] if parameters.var_adj else None,
        ref=refs[-1] if parameters.var_adj else None,
        scale=cells.space_out.scale,
        factors=np.full(cells.raw[batch].n_cells, np.nan if parameters.var_adj else 1.0),
        anchor_rows=pairs.anchors if variance_in_same_space else None,
    )

    # 6: for angles, keep the vectors before any span is removed, and the reference's leading plane.
    if parameters.compute_angle:
        step.angle_vectors = work.copy(f"angles-{batch}", vectors[0])
        step.angle_basis = Span.of(refs[0], ANGLE_DIMS, parameters.solver, cells.space_in.scale).basis

    # 7: remove the biological spans from the vectors.
    removed: list[RemovedSpan] = []
    if parameters.svd_dim:
        with stage(f"finding biology of {which}", len(anchors), passes=2 * len(vectors)):
            by_space = [_remove_spans(history, s, batch, pairs, v, work) for s, v in enumerate(vectors)]
        removed = by_space[-1]

    # 5, 8 and 9: the batch's cells are corrected, and the reference grows by them.
    spaces = [
        BatchInSpace(space.points[batch], of_anchors, ref, space.scale)
        for space, of_anchors, ref in zip(cells.distinct, vectors, refs, strict=True)
    ]
    with stage(f"correcting {which}", len(new), passes=correction_passes(step, len(spaces), work)):
        corrected, factors = corrected_cells(work, step, spaces, sigma, distances)
    if parameters.n_components is not None and not cells.spaces.coincide:
        step.in_space = _step_in_space(history, step, vectors[0], refs[0])
    if parameters.var_adj:
        for own, found in ((step, factors[-1]), (step.in_space, factors[0])):
            if own is not None:
                own.factors[cells.raw[batch].rows] = found
    references = [
        grown(work, before, space, batch, X)
        for before, space, X in zip(history.references, cells.distinct, corrected, strict=True)
    ]
    logger.info("batch %r: %d pairs, %d anchors", cells.names[batch], len(new_rows), len(anchors))
    merge = Merge(batch, pairs, step, removed, averaged, shrink_factors, support)
    return history.merged(merge, tuple(references))


def _step_in_space(history: MergeHistory, step: MergeStep, vectors: Matrix, ref: Points) -> MergeStep:
    """A step with vectors of *in* space, where that of *out* space has others."""
    space, adjusted = history.cells.space_in, step.new is not None
    return replace(
        step,
        near_vectors=vectors,
        new=space.points[step.batches[0]] if adjusted else None,
        ref=ref if adjusted else None,
        scale=space.scale,
        factors=step.factors.copy(),
        angle_vectors=None,
        angle_basis=None,
    )


def _used_reference(history: MergeHistory, n_new: int) -> Rows | None:
    """Rows of the reference that a merge uses; None for all. A sample keeps the cost of merges constant."""
    n = history.n_reference
    most = n if history.max_reference is None else history.max_reference
    if history.parameters.refine:
        most = min(most, n_compared(n_new))
    if n <= most:
        return None
    rng = np.random.default_rng([history.parameters.random_state, n])
    return np.sort(rng.choice(n, most, replace=False))


def _reference(history: MergeHistory, s: int, used: Rows | None, batch: int, work: Workspace) -> Points:
    """Cells of the reference that a merge uses, in a distinct space."""
    points = history.references[s].points
    return points if used is None else work.gather(f"reference-{s}-{batch}", points, used)


def _tie_tolerances(history: MergeHistory, batch: int, used: Rows | None) -> tuple[np.ndarray, np.ndarray]:
    """Differences of squared distances that count as ties: of the batch's cells, and of the reference's."""
    tolerance = Tolerances.of(history.cells.spaces.dtype).squared_distance
    of_reference = history.references[0].tolerance_norms
    of_batch = history.cells.space_in.tolerance_norms[batch]
    return tolerance * of_batch**2, tolerance * (of_reference if used is None else of_reference[used]) ** 2


def _anchor_vectors(history: MergeHistory, s: int, batch: int, pairs: Pairs, work: Workspace) -> Matrix:
    """Anchor vectors in a distinct space."""
    space, ref = history.cells.distinct[s], history.references[s].points
    shortest = _rounding(history, s, batch, pairs)
    return anchor_vectors(work, f"vectors-{s}-{batch}", space.points[batch], ref, pairs, shortest)


def _rounding(history: MergeHistory, s: int, batch: int, pairs: Pairs) -> NDArray[np.float64]:
    """Lengths up to which anchor vectors are rounding, in a distinct space."""
    norms = history.cells.distinct[s].tolerance_norms[batch][pairs.anchors]
    return Tolerances.of(history.cells.spaces.dtype).vector * norms


def _remove_spans(
    history: MergeHistory, s: int, batch: int, pairs: Pairs, vectors: Matrix, work: Workspace
) -> list[RemovedSpan]:
    """Remove the spans of the paired reference cells and of the anchors from the anchors' vectors."""
    parameters = history.parameters
    space, ref = history.cells.distinct[s], history.references[s].points
    rounding = 10 * Tolerances.of(history.cells.spaces.dtype).vector
    paired = np.unique(pairs.ref_rows)
    sides = (ref, paired, paired), (space.points[batch], pairs.anchors, None)
    removed = []
    for side, (points, rows, ref_rows) in enumerate(sides):
        own = work.gather(f"paired-{side}-{s}-{batch}", points, rows)
        span = Span.of(own, parameters.svd_dim or 0, parameters.solver, space.scale)
        removed.append(remove_span(work, span, vectors, rounding, ref_rows))
    return removed
