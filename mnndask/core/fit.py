"""The merge loop (definition, step 2): batches merge into a reference, which grows by them.

Pairs, weights and factors are computed from the genes used for distances. The other genes only need anchor
vectors, which are computed afterwards (see :mod:`mnndask.core.other_genes`).
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mnndask._progress import advance, in_one_stage, stage
from mnndask._typing import Matrix, Rows
from mnndask.core.distances import Tolerances
from mnndask.core.held_once import held_once
from mnndask.core.history import Merge, MergeHistory
from mnndask.core.known_factors import KnownFactors
from mnndask.core.merge_order import MergeOrder
from mnndask.core.node import Node, Side
from mnndask.core.normalisation import NormalisedCells
from mnndask.core.pairs import Pairs, find_pairs, memory_for_distances
from mnndask.core.parameters import Parameters
from mnndask.core.reference_growth import BatchInSpace, corrected_cells, correction_passes, grown, with_others
from mnndask.core.refined_pairs import n_compared
from mnndask.core.refinement import Refinement
from mnndask.core.shrinkage import Smoothing
from mnndask.core.smoothing import anchor_vectors, log_densities
from mnndask.core.span import RemovedSpan, Span, remove_span
from mnndask.core.step import MergeStep
from mnndask.core.support import with_support
from mnndask.core.workspace import Workspace

logger = logging.getLogger(__name__)

ANGLE_DIMS = 2  # directions of the reference to which angles are taken
REFERENCE_CELLS = 20_000  # `max_reference` where batches are sketched
MANY_MERGES = 20
KEYS = 2  # what cells' random keys are seeded with, beside the seed and the batch


def fit(
    cells: NormalisedCells,
    order: MergeOrder,
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
        Says which batches merge next.
    parameters
        What the method is asked to do.
    work
        Where matrices live, and how loops run.
    max_reference
        Maximum number of cells of either side that a merge uses, drawn at random; None for no limit.
    """
    history, n_merges = begin(cells, parameters, max_reference=max_reference), len(order.leaves) - 1
    many = n_merges > MANY_MERGES  # whose stages nobody would read one by one
    with stage("merging", n_merges, "batches") if many else nullcontext():
        while (sides := order.following(history, work)) is not None:
            with in_one_stage(wanted=many):
                history = extend(history, *sides, work, again=order.moves_again)
            if many:
                advance(1)
    for node in history.nodes:  # batches that were merged with none
        history, _ = history.with_reference(node, work)
    return with_support(history) if parameters.refine else history


def begin(
    cells: NormalisedCells, parameters: Parameters, *, max_reference: int | None = None
) -> MergeHistory:
    """The history before any merge."""
    nodes = [Node((b,), n) for b, n in enumerate(cells.n_fitted)]
    seeds = [[parameters.random_state, KEYS, b] for b in range(len(nodes))]
    keys = [np.random.default_rng(seed).random(n) for seed, n in zip(seeds, cells.n_fitted, strict=True)]
    return MergeHistory(cells, parameters, tuple(nodes), tuple(keys), max_reference=max_reference)


def extend(
    history: MergeHistory, left: Node, right: Node, work: Workspace, *, again: bool = False
) -> MergeHistory:
    """Merge one side into the other (definition, steps 3 to 9; with `refine`, 3', 4' and 4'', too).

    The biological span (7) is removed before smoothing (5): as smoothing is linear, the result is the same.

    Parameters
    ----------
    history
        The merges so far.
    left
        The reference: a batch, or batches that are merged with each other.
    right
        What moves.
    work
        Where matrices live, and how loops run.
    again
        Whether what moves may move again, by a later merge.

    Returns
    -------
    The history with one merge more.
    """
    cells, parameters, sigma = history.cells, history.parameters, history.parameters.sigma
    history, left = history.with_reference(left, work)
    new, ref = _sides(history, left, right, work)
    number, n_spaces = len(history.merges), len(cells.distinct)
    which = f"batch {len(left.batches) + 1} of {len(cells.names)}"
    if again:
        which = f"merge {number + 1} of {number + len(history.nodes) - 1}"

    # 3: mutual pairs. If variance adjustment works in the same space, keep all squared distances for it.
    variance_in_same_space = parameters.var_adj and cells.spaces.coincide
    in_space = new.points[0], ref.points[0]
    distances = memory_for_distances(work, *in_space, parameters.k) if variance_in_same_space else None
    with stage(f"finding pairs of {which}", len(new)):
        tolerances = _tie_tolerances(new, work), _tie_tolerances(ref, work)
        both = parameters.k, parameters.k
        ref_rows, new_rows = find_pairs(work, *in_space, both, tolerances, distances)
    refinement = None
    if parameters.refine:  # 3': pairs are found again after the batch has moved by them.
        refinement = Refinement(parameters, cells.space_in, new, ref, tolerances, number, which)
        ref_rows, new_rows = refinement.pairs(work, (ref_rows, new_rows))
    pairs = Pairs(ref_rows, new_rows, len(ref), len(ref))

    # 4: anchors and their vectors; refined, between means of both sides (4'), shrunk by their noise (4'').
    anchors = work.gather(f"anchors-{number}", new.points[0], pairs.anchors)
    log_density, averaged, shrink_factors = log_densities(work, anchors, sigma), None, None
    support = None
    shortest = [_rounding(new, s, pairs, work) for s in range(n_spaces)]
    if refinement is None:
        vectors = [
            anchor_vectors(work, f"vectors-{s}-{number}", new.points[s], ref.points[s], pairs, shortest[s])
            for s in range(n_spaces)
        ]
    else:
        averaged, support = refinement.averaged(work, pairs)
        smoothing = Smoothing(anchors, log_density, sigma)
        vectors, shrink_factors = refinement.vectors(work, averaged, smoothing, shortest)
    step = MergeStep(
        batches=list(right.batches),
        anchors=anchors,
        log_density=log_density,
        near_vectors=vectors[-1],
        rest_vectors=np.empty((len(anchors), 0), cells.spaces.dtype),  # see mnndask.core.other_genes
        new=new.points[-1] if parameters.var_adj else None,
        ref=ref.points[-1] if parameters.var_adj else None,
        scale=cells.space_out.scale,
        anchor_rows=pairs.anchors if variance_in_same_space else None,
    )

    # 6: for angles, keep the vectors before any span is removed, and the reference's leading plane.
    if parameters.compute_angle:
        step.angle_vectors = work.copy(f"angles-{number}", vectors[0])
        step.angle_basis = Span.of(ref.points[0], ANGLE_DIMS, parameters.solver, cells.space_in.scale).basis

    # 7: remove the biological spans from the vectors.
    removed: list[RemovedSpan] = []
    if parameters.svd_dim:
        with stage(f"finding biology of {which}", len(anchors), passes=2 * n_spaces):
            by_space = [_remove_spans(history, s, (new, ref), pairs, v, work) for s, v in enumerate(vectors)]
        removed = by_space[-1]

    # 5, 8 and 9: the cells of the batch are corrected, and the reference grows by them.
    spaces = [
        BatchInSpace(new.points[s], vectors[s], ref.points[s], space.scale)
        for s, space in enumerate(cells.distinct)
    ]
    with stage(f"correcting {which}", len(new), passes=correction_passes(step, n_spaces, work)):
        corrected, factors = corrected_cells(work, step, spaces, sigma, distances, number)
    if new.used is not None:
        corrected, factors = with_others(history, new, step, spaces, (corrected, factors), work)
    references = [
        grown(work, before, space.centre, norms, X)
        for before, space, norms, X in zip(
            history.references, cells.distinct, _norms(history, right), corrected, strict=True
        )
    ]
    if not cells.spaces.coincide and (parameters.n_components is not None or again):
        step.in_space = _step_in_space(step, spaces[0])
    if parameters.var_adj:
        _keep_factors(history, right, step, factors)
        for s, own in ((n_spaces - 1, step), (0, step.in_space)):
            _hold_once(history, s, own, (new, ref))
    logger.info("%s: %d pairs, %d anchors", _names(history, right), len(new_rows), len(anchors))
    pairs = Pairs(ref.of_node(ref_rows), new.of_node(new_rows), left.n_cells, len(ref))
    averaged = averaged and averaged.of_nodes(pairs, ref, new)
    removed = [span.of_node(ref) for span in removed]
    first_row = history.n_reference
    done = Merge(left, right, first_row, pairs, step, removed, averaged, shrink_factors, support)
    return history.merged(done, tuple(references))


def _hold_once(history: MergeHistory, s: int, step: MergeStep | None, sides: tuple[Side, Side]) -> None:
    """Have a step in a distinct space share its cells with other steps."""
    if step is not None:
        new, ref = (held_once(side, history.references[s], side.points[s]) for side in sides)
        step.new, step.ref = new, ref


def _sides(history: MergeHistory, left: Node, right: Node, work: Workspace) -> tuple[Side, Side]:
    """The cells that a merge uses: of what moves, and of the reference. Samples keep its cost constant."""
    most, number = history.max_reference, len(history.merges)
    of_new = None if right.rows is None or work.tile is not None else most
    new = history.side(right, of_new, work, f"new-{number}")
    if history.parameters.refine:
        compared = n_compared(len(new))
        most = compared if most is None else min(most, compared)
    return new, history.side(left, most, work, f"reference-{number}")


def _names(history: MergeHistory, node: Node) -> str:
    return "batch " + ", ".join(repr(history.cells.names[b]) for b in node.batches)


def _step_in_space(step: MergeStep, batch: BatchInSpace) -> MergeStep:
    """A step with vectors of *in* space, where that of *out* space has others."""
    adjusted = step.new is not None
    return replace(
        step,
        near_vectors=batch.vectors,
        new=batch.cells if adjusted else None,
        ref=batch.ref if adjusted else None,
        scale=batch.scale,
        factors={},
        angle_vectors=None,
        angle_basis=None,
    )


def _keep_factors(
    history: MergeHistory, right: Node, step: MergeStep, factors: list[NDArray[np.float64]]
) -> None:
    """Keep the variance factors of the cells that moved, so that they are not computed again."""
    start = 0
    for batch in right.batches:
        raw = history.cells.raw[batch]
        own = slice(start, start + len(raw.rows))
        for target, found in ((step, factors[-1]), (step.in_space, factors[0])):
            if target is not None:
                target.factors[batch] = KnownFactors.of(raw.rows, found[own], raw.n_cells)
        start = own.stop


def _norms(history: MergeHistory, node: Node) -> list[NDArray[np.float64]]:
    """Norms of all cells of a node, in each distinct space."""
    if node.rows is None:
        return [space.tolerance_norms[node.batches[0]] for space in history.cells.distinct]
    return [reference.tolerance_norms[node.rows] for reference in history.references]


def _tie_tolerances(side: Side, work: Workspace) -> NDArray[np.float64]:
    """Differences of squared distances of a side's cells that count as ties."""
    return Tolerances.of(work.dtype).squared_distance * side.tolerance_norms[0] ** 2


def _rounding(new: Side, s: int, pairs: Pairs, work: Workspace) -> NDArray[np.float64]:
    """Lengths up to which anchor vectors are rounding, in a distinct space."""
    return Tolerances.of(work.dtype).vector * new.tolerance_norms[s][pairs.anchors]


def _remove_spans(
    history: MergeHistory, s: int, both: tuple[Side, Side], pairs: Pairs, vectors: Matrix, work: Workspace
) -> list[RemovedSpan]:
    """Remove the spans of the paired reference cells and of the anchors from the anchors' vectors."""
    parameters, (new, ref), number = history.parameters, both, len(history.merges)
    rounding = 10 * Tolerances.of(work.dtype).vector
    paired = np.unique(pairs.ref_rows)
    sides: tuple[tuple[Side, Rows, Rows | None], ...] = (ref, paired, paired), (new, pairs.anchors, None)
    removed = []
    for side, (cells, rows, ref_rows) in enumerate(sides):
        own = work.gather(f"paired-{side}-{s}-{number}", cells.points[s], rows)
        span = Span.of(own, parameters.svd_dim or 0, parameters.solver, history.cells.distinct[s].scale)
        removed.append(remove_span(work, span, vectors, rounding, ref_rows))
    return removed
