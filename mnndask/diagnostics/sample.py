"""A sample of the fitted cells, before and after correction, on principal components of both states.

A correction is judged by this sample. It is small however many cells were fitted, and takes two passes over
these few cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask._typing import Floats, Rows
from mnndask.core.arrays import Points, row_dots, row_norms
from mnndask.core.history import MergeHistory
from mnndask.core.svd import SvdSolver

CELLS_OF_BATCH = 2_000
CELLS = 10_000  # of all batches
SAMPLE_DIMS = 15
VALUES = 2**22  # of the cells, on all genes, in memory at once
EXACT_UP_TO = 256  # cells or genes: the randomised solver is not faster


@dataclass(frozen=True)
class SampledCells:
    """Some fitted cells, batch after batch in input order.

    Parameters
    ----------
    batch
        Batch of each cell, shape ``(n_cells,)``.
    cell
        Index of each cell among the fitted cells of its batch, ascending within the batch.
    length
        Length of its correction: the distance it moved, in the units of the corrected values, over the genes
        used for distances (or their components, if the fit used these).
    factor
        Its variance factor; 1 for the reference and without variance adjustment.
    before, after
        Coordinates on the leading components of both states, shape ``(n_cells, n_dims)``.
    lost
        Variance lost by each batch; see :func:`lost_variance`. NaN where undefined.
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
    def of(cls, history: MergeHistory) -> SampledCells:
        """Draw cells. The draw depends only on the seed and the numbers of cells."""
        states = [_States.of(history, b) for b in range(len(history.cells.names))]
        moves = [own.moves() for own in states]
        mean, basis = _components(states, int(history.parameters.random_state), history.cells.space_out.scale)
        projected = [own.project(mean, basis) for own in states]
        counts = [len(own) for own in states]
        return cls(
            np.repeat(np.arange(len(states), dtype=np.int32), counts),
            np.concatenate([own.cells for own in states]),
            np.concatenate([move.length for move in moves]).astype(np.float64),
            np.concatenate([_factors(history, b, own.cells) for b, own in enumerate(states)]),
            np.concatenate([before for before, _ in projected]),
            np.concatenate([after for _, after in projected]),
            np.array([lost_variance(*pair) for pair in zip(states, moves, strict=True)]),
        )


def lost_variance(states: _States, moves: _Moves) -> float:
    """Return the share of a batch's variance that its correction removed.

    With g the direction of the mean correction: the variance of the cells' projections on g before, minus
    that after, over the total variance before of the genes used for distances. Equals ``lost.var`` of
    batchelor's ``fastMNN`` if the correction leaves no variance along g. Negative if variance was added.
    """
    shift = float(np.linalg.norm(moves.shift))
    if len(states) < 2 or not moves.variance > 0 or not shift > 0:
        return np.nan
    direction = moves.shift / shift
    projections = [(before @ direction, after @ direction) for _, before, after in states.blocks()]
    before, after = (np.concatenate(blocks) for blocks in zip(*projections, strict=True))
    return float((before.var() - after.var()) / moves.variance)


@dataclass(frozen=True)
class _Moves:
    """Moves of a batch's cells: each length, the mean move, and the total variance before."""

    length: NDArray[np.float64]
    shift: NDArray[np.float64]
    variance: float


@dataclass(frozen=True)
class _States:
    """Sampled cells of one batch, read a block at a time.

    Parameters
    ----------
    before
        All fitted cells of the batch.
    after
        The grown reference, which contains the final cells of all batches.
    cells
        Indices of the sampled cells among the fitted cells of the batch.
    first
        Position in the reference at which the batch begins.
    """

    before: Points
    after: Points
    cells: Rows
    first: int

    @classmethod
    def of(cls, history: MergeHistory, batch: int) -> _States:
        sizes = history.cells.n_fitted
        wanted = min(sizes[batch], CELLS_OF_BATCH, max(1, CELLS // len(sizes)))
        rng = np.random.default_rng([history.parameters.random_state, batch])
        cells = np.sort(rng.choice(sizes[batch], wanted, replace=False))
        first = history.rows_of(batch).start
        before, after = history.cells.space_out.points[batch], history.references[-1].points
        return cls(before, after, cells, first)

    @property
    def n_dims(self) -> int:
        return int(self.before.X.shape[1])

    def __len__(self) -> int:
        return len(self.cells)

    def blocks(self) -> Iterator[tuple[slice, Floats, Floats]]:
        """Yield blocks of the sample: its slice, and the cells before and after."""
        for at in row_blocks(len(self), max(1, VALUES // (4 * max(1, self.n_dims)))):
            yield at, *self.states_of(self.cells[at])

    def states_of(self, cells: Rows) -> tuple[Floats, Floats]:
        """Return some fitted cells of the batch, before and after."""
        return self.before.X[cells], self.after.X[self.first + cells]

    def moves(self) -> _Moves:
        length, squares = np.zeros(len(self)), 0.0
        total, shift = np.zeros((2, self.n_dims))
        for at, before, after in self.blocks():
            moved = after - before
            length[at] = row_norms(moved)
            shift += moved.sum(axis=0, dtype=np.float64)
            total += before.sum(axis=0, dtype=np.float64)
            squares += float(row_dots(before, before).sum())
        mean = total / len(self)
        return _Moves(length, shift / len(self), max(0.0, squares / len(self) - float(mean @ mean)))

    def project(self, mean: Floats, basis: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        out = np.empty((2, len(self), basis.shape[1]), np.float32)
        for at, *states in self.blocks():
            for target, cells in zip(out, states, strict=True):
                target[at] = _as_float32((cells - mean) @ basis)
        return out[0], out[1]


def _components(states: list[_States], seed: int, scale: float) -> tuple[Floats, Floats]:
    """Return the mean and leading directions of cells in both states, of fewer cells if genes are many."""
    most = max(SAMPLE_DIMS, VALUES // max(1, states[0].n_dims) // 2)
    step = -(-sum(map(len, states)) // most)
    X = np.concatenate([part for own in states for part in own.states_of(own.cells[::step])])
    mean = X.mean(axis=0)
    X -= mean
    solver = SvdSolver("svd" if min(X.shape) <= EXACT_UP_TO else "rsvd", seed)
    basis, _, _ = solver(X.T, SAMPLE_DIMS, scale)
    return mean, basis


def _factors(history: MergeHistory, batch: int, cells: Rows) -> NDArray[np.float32]:
    merge, rows = history.last_merge_of(batch), history.cells.raw[batch].rows[cells]
    factors = None if merge is None else merge.step.known(batch, rows)
    return np.ones(len(cells), np.float32) if factors is None else _as_float32(factors)


def _as_float32(values: Floats) -> NDArray[np.float32]:
    """Convert to float32, clipped to its range."""
    largest = float(np.finfo(np.float32).max)
    return np.clip(values, -largest, largest).astype(np.float32)
