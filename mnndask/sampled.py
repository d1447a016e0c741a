"""Some sketched cells of every batch, before and after correction, on principal components of both.

It is what a correction is judged by: small whatever was fitted, and made in two passes over a few cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask.fit import Fit
from mnndask.kernels.distances import Floats, pieces, row_dots, row_lengths
from mnndask.kernels.neighbors import Rows
from mnndask.kernels.subspace import SvdSolver
from mnndask.reference import Space

CELLS_OF_BATCH = 2_000
CELLS = 10_000  # of all batches
N_DIMS = 15
VALUES = 2**22  # of cells on all genes at a time
EXACT_UP_TO = 256  # cells or genes: the randomised solver is no quicker


@dataclass(frozen=True)
class Sampled:
    """Cells of the sketches, batch after batch in input order.

    Parameters
    ----------
    batch
        Batch of each, shape ``(n_cells,)``.
    cell
        Which of the batch's sketched cells it is, ascending.
    length
        Length of its correction: the distance it moved, in the space and units of the corrected values on the
        genes used for distances (or on their components, if the fit used these).
    factor
        Its variance factor; 1 in the reference and without variance adjustment.
    before, after
        Coordinates on the leading components of both states together, shape ``(n_cells, n_dims)``.
    lost
        Of each batch, the variance lost; see :func:`lost_variance`. NaN where that is not defined.
    """

    batch: NDArray[np.int32]
    cell: Rows
    length: NDArray[np.float64]
    factor: NDArray[np.float32]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    lost: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.batch)

    @classmethod
    def of(cls, fit: Fit) -> Sampled:
        """Draw cells of a fit that has run; the same cells for the same seed and sizes of the sketches."""
        states = [_States.of(fit, b) for b in range(len(fit.sketches))]
        moves = [own.moves() for own in states]
        mean, basis = _components(states, fit.options.solver.seed, fit.space_out.scale)
        projected = [own.project(mean, basis) for own in states]
        counts = [len(own) for own in states]
        return cls(
            np.repeat(np.arange(len(states), dtype=np.int32), counts),
            np.concatenate([own.cells for own in states]),
            np.concatenate([move.length for move in moves]).astype(np.float64),
            np.concatenate([_factors(fit, b, own.cells) for b, own in enumerate(states)]),
            np.concatenate([before for before, _ in projected]),
            np.concatenate([after for _, after in projected]),
            np.array([lost_variance(*pair) for pair in zip(states, moves, strict=True)]),
        )


def lost_variance(states: _States, moves: _Moves) -> float:
    """Share of a batch's variance that its correction took away.

    With g the direction of the mean correction: the variance of the cells' projections on g before minus that
    after, over the variance of all genes (used for distances) before. ``lost.var`` of batchelor's ``fastMNN``
    is the same of a correction that leaves no variance along g. Negative where variance was added.
    """
    shift = float(np.linalg.norm(moves.shift))
    if len(states) < 2 or not moves.variance > 0 or not shift > 0:
        return np.nan
    direction = moves.shift / shift
    along = [(before @ direction, after @ direction) for _, before, after in states.blocks()]
    before, after = (np.concatenate(parts) for parts in zip(*along, strict=True))
    return float((before.var() - after.var()) / moves.variance)


@dataclass(frozen=True)
class _Moves:
    """How a batch's cells were moved: how far each, the mean move, and their variance of all genes before."""

    length: NDArray[np.float64]
    shift: NDArray[np.float64]
    variance: float


@dataclass(frozen=True)
class _States:
    """Cells of one batch, read a block at a time.

    Parameters
    ----------
    space
        Where they are.
    batch
        Whose they are.
    cells
        Which.
    first
        Where the batch begins in the reference that has grown by all batches.
    """

    space: Space
    batch: int
    cells: Rows
    first: int

    @classmethod
    def of(cls, fit: Fit, batch: int) -> _States:
        space, n = fit.space_out, len(fit.sketches[batch].rows)
        earlier = fit.order[: fit.order.index(batch)]
        wanted = min(n, CELLS_OF_BATCH, max(1, CELLS // len(fit.sketches)))
        rng = np.random.default_rng([fit.options.solver.seed, batch])
        cells = np.sort(rng.choice(n, wanted, replace=False))
        return cls(space, batch, cells, sum(len(fit.sketches[b].rows) for b in earlier))

    def __len__(self) -> int:
        return len(self.cells)

    def blocks(self) -> Iterator[tuple[slice, Floats, Floats]]:
        """Cells before and after, and which these are."""
        n_genes = self.space.new[self.batch].X.shape[1]
        for at in pieces(len(self), max(1, VALUES // (4 * max(1, n_genes)))):
            yield at, *self.some(self.cells[at])

    def some(self, cells: Rows) -> tuple[Floats, Floats]:
        """Some sketched cells, before and after."""
        return self.space.new[self.batch].X[cells], self.space.ref().X[self.first + cells]

    def moves(self) -> _Moves:
        length, squares = np.zeros(len(self)), 0.0
        total, shift = np.zeros((2, self.space.new[self.batch].X.shape[1]))
        for at, before, after in self.blocks():
            moved = after - before
            length[at] = row_lengths(moved)
            shift += moved.sum(axis=0, dtype=np.float64)
            total += before.sum(axis=0, dtype=np.float64)
            squares += float(row_dots(before, before).sum())
        mean = total / len(self)
        return _Moves(length, shift / len(self), max(0.0, squares / len(self) - float(mean @ mean)))

    def project(self, mean: Floats, basis: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        out = np.empty((2, len(self), basis.shape[1]), np.float32)
        for at, *both in self.blocks():
            for target, cells in zip(out, both, strict=True):
                target[at] = _single((cells - mean) @ basis)
        return out[0], out[1]


def _components(states: list[_States], seed: int, scale: float) -> tuple[Floats, Floats]:
    """Mean and leading directions of cells before and after, of fewer where genes are many."""
    n_genes = states[0].space.centre.size
    most = max(N_DIMS, VALUES // max(1, n_genes) // 2)
    step = -(-sum(map(len, states)) // most)
    X = np.concatenate([part for own in states for part in own.some(own.cells[::step])])
    mean = X.mean(axis=0)
    X -= mean
    solver = SvdSolver("svd" if min(X.shape) <= EXACT_UP_TO else "rsvd", seed)
    basis, _, _ = solver(X.T, N_DIMS, scale)
    return mean, basis


def _factors(fit: Fit, batch: int, cells: Rows) -> NDArray[np.float32]:
    step = fit.model.steps.get(batch)
    if step is None:
        return np.ones(len(cells), np.float32)
    return _single(step.factors[fit.sketches[batch].rows[cells]])


def _single(values: Floats) -> NDArray[np.float32]:
    """In single precision; what is beyond its range, at its end."""
    largest = float(np.finfo(np.float32).max)
    return np.clip(values, -largest, largest).astype(np.float32)
