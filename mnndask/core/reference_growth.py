"""Correcting the fitted cells of a batch, by which the reference grows (definition, steps 5, 8 and 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Floats, Matrix, Rows
from mnndask.core.arrays import Points, row_dots, row_norms, tile_size
from mnndask.core.correction import lengthen, moved
from mnndask.core.doubt import factors_in_double
from mnndask.core.history import MergeHistory
from mnndask.core.node import Side
from mnndask.core.reference import ReferenceInSpace
from mnndask.core.smoothing import smooth
from mnndask.core.step import MergeStep
from mnndask.core.variance import PAIR_COPIES
from mnndask.core.workspace import Workspace


@dataclass(frozen=True)
class BatchInSpace:
    """A batch that is merged, in one distinct space.

    Parameters
    ----------
    cells
        Its fitted cells.
    vectors
        Its anchors' correction vectors.
    ref
        Cells of the reference that the merge uses.
    scale
        Largest norm of a fitted cell.
    """

    cells: Points
    vectors: Matrix
    ref: Points
    scale: float


def correction_passes(step: MergeStep, n_spaces: int, work: Workspace) -> int:
    """How often each cell counts for progress in :func:`corrected_cells`."""
    if step.shares_inner_products:
        return 1
    return 1 + n_spaces * (1 + work.variance_passes * (step.new is not None))


def corrected_cells(
    work: Workspace,
    step: MergeStep,
    spaces: Sequence[BatchInSpace],
    sigma: float,
    distances: Floats | None,
    number: int,
) -> tuple[list[Matrix], list[NDArray[np.float64]]]:
    """Correct a batch's fitted cells in each distinct space.

    Where smoothing and variance adjustment use the same inner products, a block of cells is corrected in one
    pass. Else all vectors are smoothed, then lengthened, then added. In each space, vectors are lengthened by
    factors of that space; those of *out* space, the last, are the step's.

    Parameters
    ----------
    step
        The batch's merge step; without `new` and `ref`, no vector is lengthened.
    spaces
        The batch in each distinct space.
    sigma
        Bandwidth: Gaussian weights are ``exp(-squared distance / sigma)``.
    distances
        Precomputed squared distances of the batch's cells to those of the reference; overwritten.
    number
        Number of the merge, after which the matrices are named.

    Returns
    -------
    Corrected cells and their variance factors in each space.
    """
    names = [f"corrected-{s}-{number}" for s in range(len(spaces))]
    out = [work.matrix(name, space.cells.X.shape) for name, space in zip(names, spaces, strict=True)]
    if step.shares_inner_products:
        return out, [_at_once(work, step, spaces[0], sigma, distances, out[0])]
    return out, _in_passes(work, step, spaces, sigma, out)


def _at_once(
    work: Workspace,
    step: MergeStep,
    batch: BatchInSpace,
    sigma: float,
    distances: Floats | None,
    out: Matrix,
) -> NDArray[np.float64]:
    cells = batch.cells

    def one(at: slice) -> NDArray[np.float64]:
        own = cells[at]
        near, _, factors = step.correction(
            own, own, sigma, distances=None if distances is None else distances[at]
        )
        out[at] = moved(own.X, near)
        return factors

    columns = 3 * len(cells) + PAIR_COPIES * len(batch.ref)
    return np.concatenate(work.map("grow", len(cells), columns, one, counts=1))


def _in_passes(
    work: Workspace, step: MergeStep, spaces: Sequence[BatchInSpace], sigma: float, out: Sequence[Matrix]
) -> list[NDArray[np.float64]]:
    cells = spaces[0].cells

    def smoothed(at: slice) -> None:
        vectors = [space.vectors for space in spaces]
        parts = smooth(cells[at], step.anchors, step.log_density, vectors, sigma)
        for target, part in zip(out, parts, strict=True):
            target[at] = part

    work.map("smooth", len(cells), 3 * tile_size(step.anchors), smoothed, counts=1)
    of_spaces = []
    for space, corrected in zip(spaces, out, strict=True):
        factors = np.ones(len(cells))
        if step.new is not None:
            factors, doubtful = work.variance_factors(space.cells, corrected, space.ref, sigma, space.scale)
            if doubtful.any():
                rows = np.flatnonzero(doubtful)
                factors[rows] = _in_double(work, step, cells, space, rows, sigma)

        def one(
            at: slice,
            X: Matrix = space.cells.X,
            out: Matrix = corrected,
            factors: NDArray[np.float64] = factors,
        ) -> None:
            vectors = out[at]
            lengthen(vectors, factors[at])
            out[at] = moved(X[at], vectors)

        work.map("grow", len(cells), corrected.shape[1], one, counts=1)
        of_spaces.append(factors)
    return of_spaces


def _in_double(
    work: Workspace, step: MergeStep, cells: Points, space: BatchInSpace, rows: Rows, sigma: float
) -> NDArray[np.float64]:
    """Variance factors of some cells in a space, decided in double precision."""
    in_space = replace(step, near_vectors=space.vectors, new=space.cells, ref=space.ref, scale=space.scale)

    def one(at: slice) -> NDArray[np.float64]:
        return factors_in_double(cells[rows[at]], space.cells[rows[at]], in_space, sigma)

    columns = 2 * PAIR_COPIES * len(space.ref)
    return np.concatenate(work.map("variance-double", len(rows), columns, one))


def with_others(
    history: MergeHistory,
    new: Side,
    step: MergeStep,
    spaces: Sequence[BatchInSpace],
    found: tuple[Sequence[Matrix], Sequence[NDArray[np.float64]]],
    work: Workspace,
) -> tuple[list[Matrix], list[NDArray[np.float64]]]:
    """All corrected cells of a node in each distinct space, and their factors; `found` are those used."""
    assert new.used is not None
    others = np.setdiff1d(np.arange(new.node.n_cells), new.used)
    own = [work.gather("others", reference.points, new.node.at(others)) for reference in history.references]
    matrices, factors = [], []
    for s, space in enumerate(spaces):
        sides = (space.cells, space.ref) if step.new is not None else (None, None)
        in_space = replace(
            step, near_vectors=space.vectors, new=sides[0], ref=sides[1], scale=space.scale, anchor_rows=None
        )

        def one(
            at: slice, cells: Points = own[0], mine: Points = own[s], in_space: MergeStep = in_space
        ) -> tuple[Floats, NDArray[np.float64]]:
            near, _, factors = in_space.correction(cells[at], mine[at], history.parameters.sigma)
            return moved(mine.X[at], near), factors

        blocks = work.map("grow", len(others), in_space.columns, one)
        X = work.matrix(f"moved-{s}", (new.node.n_cells, space.cells.X.shape[1]))
        every = np.ones(new.node.n_cells)
        X[new.used], every[new.used] = found[0][s], found[1][s]
        X[others] = np.concatenate([cells for cells, _ in blocks])
        every[others] = np.concatenate([some for _, some in blocks])
        matrices.append(X)
        factors.append(every)
    return matrices, factors


def grown(
    work: Workspace,
    before: ReferenceInSpace,
    centre: Floats,
    norms: NDArray[np.float64],
    corrected: Matrix,
) -> ReferenceInSpace:
    """The reference in one space with corrected cells at its end; `norms` are these cells' before."""
    points, sizes = measured(work, corrected, centre, work.tile)
    sizes = np.maximum(norms, sizes)
    return ReferenceInSpace(before.stored.extended(points), np.concatenate([before.tolerance_norms, sizes]))


def measured(
    work: Workspace, corrected: Matrix, centre: Floats, tile: int | None
) -> tuple[Points, NDArray[np.float64]]:
    """Corrected cells as points, and their norms over the genes; `centre` was subtracted from them."""

    def one(at: slice) -> tuple[Floats, NDArray[np.float64]]:
        X = corrected[at]
        return row_dots(X, X).astype(X.dtype), row_norms(X + centre)

    parts = work.map("grow", len(corrected), corrected.shape[1], one)
    squared, norms = (np.concatenate(values) for values in zip(*parts, strict=True))
    return Points(corrected, squared, tile), norms
