"""All cells of a fit, normalised (definition, step 1): on genes, or on their components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Floats, Matrix
from mnndask.core.arrays import Points, row_dots, row_norms, weighted_sum
from mnndask.core.components import Components
from mnndask.core.cosine import SHORTEST
from mnndask.core.fit_cells import FitCells
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.svd import SvdSolver
from mnndask.core.workspace import Workspace
from mnndask.errors import warn

CENTRE_DIGITS = 12  # binary digits of the centre's largest coordinate


@dataclass(frozen=True)
class CellsInSpace:
    """Fitted cells of all batches in one of the two spaces.

    Parameters
    ----------
    points
        Each batch's cells, around ``centre``.
    tolerance_norms
        Norm of each cell over the genes, or the median norm, whichever is larger: rounding errors are
        proportional to it.
    scale
        Largest norm.
    centre
        Point near the cells' mean that is subtracted from all of them, so that squared distances lose no
        digits, shape ``(n_dims,)``.
    components
        Principal components that are the dimensions; None where these are genes.
    """

    points: list[Points]
    tolerance_norms: list[NDArray[np.float64]]
    scale: float
    centre: Floats
    components: Components | None


@dataclass(frozen=True)
class NormalisedCells:
    """Fitted cells of all batches.

    Parameters
    ----------
    raw
        Each batch's raw expression.
    names
        Names of the batches.
    spaces
        How raw expression becomes the two spaces.
    distinct
        The cells in each distinct space: in *in* space, then in *out* space; once if these coincide.
    lengths
        Each batch's cosine lengths, shape ``(n_cells, 1)``.
    """

    raw: list[FitCells]
    names: list[str]
    spaces: GeneSpaces
    distinct: tuple[CellsInSpace, ...]
    lengths: list[Floats]

    @property
    def space_in(self) -> CellsInSpace:
        """The cells in the space of distances."""
        return self.distinct[0]

    @property
    def space_out(self) -> CellsInSpace:
        """The cells in the space of corrected values, on the genes used for distances."""
        return self.distinct[-1]

    @property
    def n_fitted(self) -> list[int]:
        """Number of fitted cells of each batch."""
        return [len(cells.rows) for cells in self.raw]


def normalise(
    raw: Sequence[FitCells],
    names: Sequence[str],
    spaces: GeneSpaces,
    solver: SvdSolver,
    work: Workspace,
    *,
    pooled: bool = False,
) -> NormalisedCells:
    """Divide cells by their lengths, project them on components if asked for, and subtract their centre.

    Once for each distinct space. Components are those of `pooled` cells, or of batches that weigh the same.
    For progress, each cell counts :func:`normalisation_passes` times.

    Raises
    ------
    InputError
        If the norm of a cell is so large that squared distances would overflow.
    """
    divide = [spaces.cos_norm_in] if spaces.coincide else [spaces.cos_norm_in, spaces.cos_norm_out]
    matrices: list[list[Matrix]] = [[] for _ in divide]
    norms: list[list[NDArray[np.float64]]] = [[] for _ in divide]
    lengths: list[Floats] = []
    for b, (cells, name) in enumerate(zip(raw, names, strict=True)):
        targets = [
            work.matrix(f"cells-{s}-{b}", (len(cells.rows), spaces.n_near)) for s in range(len(divide))
        ]
        own_lengths, own_norms = _divided(cells, name, spaces, divide, targets, work)
        lengths.append(own_lengths)
        for s, target in enumerate(targets):
            matrices[s].append(target)
            norms[s].append(own_norms[s])
    distinct = []
    for s, (own, sizes) in enumerate(zip(matrices, norms, strict=True)):
        components = None
        if spaces.n_components is not None:
            largest = max(float(n.max()) for n in sizes)
            components = Components.of(own, spaces.n_components, solver, largest, work.tile, pooled=pooled)
            own = [_projected(components, X, f"components-{s}-{b}", work) for b, X in enumerate(own)]
        distinct.append(_centred(own, sizes, components, work))
    return NormalisedCells(list(raw), list(names), spaces, tuple(distinct), lengths)


def normalisation_passes(spaces: GeneSpaces) -> int:
    """How often each cell counts for progress in :func:`normalise`."""
    n_spaces = 1 if spaces.coincide else 2
    return 1 + n_spaces * (2 + (spaces.n_components is not None))


def _divided(
    cells: FitCells,
    name: str,
    spaces: GeneSpaces,
    divide: Sequence[bool],
    targets: Sequence[Matrix],
    work: Workspace,
) -> tuple[Floats, list[NDArray[np.float64]]]:
    """Fill matrices with a batch's cells, divided by their lengths or not; returns lengths and norms."""

    def one(at: slice) -> tuple[Floats, list[NDArray[np.float64]]]:
        near = cells.near(spaces, at)
        lengths, norms = spaces.lengths(near, name), []
        for divided, target in zip(divide, targets, strict=True):
            own = near / lengths if divided else near
            target[at] = own
            norms.append(row_norms(own))
        return lengths, norms

    found = work.map("cosine", len(cells.rows), spaces.n_near, one, counts=1)
    lengths = np.concatenate([own for own, _ in found])
    return lengths, [np.concatenate([norms[s] for _, norms in found]) for s in range(len(targets))]


def _projected(components: Components, X: Matrix, name: str, work: Workspace) -> Matrix:
    """Coordinates on components in the place of genes."""
    out = work.matrix(name, (len(X), components.basis.shape[1]))

    def one(at: slice) -> None:
        out[at] = components.project(X[at])

    work.map("components", len(X), X.shape[1], one, counts=1)
    return out


def _centred(
    matrices: Sequence[Matrix],
    norms: Sequence[NDArray[np.float64]],
    components: Components | None,
    work: Workspace,
) -> CellsInSpace:
    """Subtract the common centre of all cells, in place."""
    every = np.concatenate(norms)
    typical = float(np.median(every))
    sizes = [np.maximum(own, typical) for own in norms]
    centre = _centre(matrices, sizes, typical, work).astype(work.dtype)

    def points_of(X: Matrix) -> Points:
        def one(at: slice) -> Floats:
            moved = X[at] - centre
            X[at] = moved
            return row_dots(moved, moved).astype(moved.dtype)

        squared = work.map("centre", len(X), X.shape[1], one, counts=1)
        return Points(X, np.concatenate(squared), work.tile)

    return CellsInSpace([points_of(X) for X in matrices], sizes, float(every.max()), centre, components)


def _centre(
    matrices: Sequence[Matrix], sizes: Sequence[NDArray[np.float64]], typical: float, work: Workspace
) -> NDArray[np.float64]:
    """Mean of all cells, those above the typical norm scaled down: a few huge ones must not shift it.

    Rounded to few binary digits, so that it is the same for any blocks: what is subtracted decides ties.
    """
    total = np.zeros(matrices[0].shape[1])
    for X, size in zip(matrices, sizes, strict=True):
        weights = np.divide(typical, size, out=np.ones(len(size)), where=size > 0)

        def one(at: slice, X: Matrix = X, weights: NDArray[np.float64] = weights) -> NDArray[np.float64]:
            return weighted_sum(X[at], weights[at])

        for part in work.map("centre", len(X), X.shape[1], one, counts=1):
            total += part
    centre = total / sum(map(len, matrices))
    unit = np.ldexp(1.0, int(np.frexp(np.abs(centre).max(initial=0))[1]) - CENTRE_DIGITS)
    rounded: NDArray[np.float64] = np.round(centre / unit) * unit
    return rounded


def warn_of_empty_cells(cells: NormalisedCells) -> None:
    """Warn of cells that express other genes only: divided by the shortest length, they become huge."""
    if cells.spaces.subset is None or not cells.spaces.cos_norm_out:
        return
    for raw, lengths, name in zip(cells.raw, cells.lengths, cells.names, strict=True):
        empty = np.flatnonzero(lengths[:, 0] <= SHORTEST * 1.01)
        n_other = raw.express_rest(cells.spaces, empty).sum() if len(empty) else 0
        if n_other:
            warn(
                f"{n_other} cell(s) of batch {name!r} express none of the genes used for distances, "
                "and are huge when divided by their length.",
                "Remove them, use more genes in var_subset, or set cos_norm_out=False.",
            )
