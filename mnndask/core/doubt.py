"""Variance factors that rounding may decide, computed again in double precision.

A factor jumps where the cumulative weight of the reference equals a cell's rank. In single precision, the
vector and the weights are rounded in ways that depend on how the work is divided: into blocks, tiles, tasks.
For the few cells so near to a jump that rounding matters, steps 5 and 8 of the definition are computed in
double precision from the same cells, so that they are decided in one way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask._typing import Floats, Matrix
from mnndask.core.arrays import DoublePoints, Points
from mnndask.core.batch_weights import add_batch_weights
from mnndask.core.distances import SINGLE
from mnndask.core.kernels.quantiles import weighted_quantiles
from mnndask.core.low_rank import LowRank
from mnndask.core.quantile_search import rescaling
from mnndask.core.smoothing import smooth
from mnndask.core.variance import Lines

PAIRS_AT_ONCE = 2**19  # of cells and reference cells whose projections are in memory together

EXACT = replace(SINGLE, doubtful=0, beside=0, share=0)  # ties are ties of single precision


class StepInSpace(Protocol):
    """What smoothing and variance adjustment take from a merge step; see :class:`.step.MergeStep`."""

    anchors: Points
    log_density: NDArray[np.float64]
    near_vectors: Matrix
    new: Points | None
    ref: Points | None
    scale: float


def factors_in_double(cells: Points, own: Points, step: StepInSpace, sigma: float) -> NDArray[np.float64]:
    """Variance factors of a few cells; see :func:`mnndask.core.variance.variance_factors`.

    Parameters
    ----------
    cells, own
        The cells in *in* space, in which they are smoothed, and in the space of the vectors.
    step
        The merge step.
    sigma
        Bandwidth: Gaussian weights are ``exp(-squared distance / sigma)``.
    """
    assert step.new is not None
    assert step.ref is not None
    out = np.empty(len(cells))
    for at in row_blocks(len(cells), max(1, PAIRS_AT_ONCE // len(step.ref))):
        near, mine = DoublePoints.around(cells)[at], DoublePoints.around(own)[at]
        lines = Lines.of(mine, _smoothed(near, step, sigma), sigma, step.scale, EXACT)
        tiles = DoublePoints.around(step.new).tiles()
        weights = add_batch_weights((lines.batch_weights(tile) for _, tile in tiles), sigma)
        out[at] = lines.factors(_quantiles(lines, lines.target_rank(weights), step.ref))
    return out


def _smoothed(cells: Points, step: StepInSpace, sigma: float) -> Floats:
    """Correction vectors of cells."""
    vectors = step.near_vectors
    left = _InDouble(vectors.left if isinstance(vectors, LowRank) else vectors)
    (means,) = smooth(cells, DoublePoints.around(step.anchors), step.log_density, [left], sigma)
    return means @ vectors.right.astype(np.float64) if isinstance(vectors, LowRank) else means


def _quantiles(lines: Lines, shares: NDArray[np.float64], ref: Points) -> NDArray[np.float64]:
    """Projections at which the reference's weight reaches the shares."""
    n_cells = len(lines.cells)
    projections, weights = np.empty((2, n_cells, len(ref)))
    tiles, nearest = [], []
    for at, tile in DoublePoints.around(ref).tiles():
        projections[:, at], weights[:, at], least = lines.project(tile)
        tiles.append(at)
        nearest.append(least)
    smallest = np.min(nearest, axis=0)
    for at, least in zip(tiles, nearest, strict=True):
        weights[:, at] *= rescaling(least, smallest, lines.sigma)[:, None]
    return weighted_quantiles(projections, weights, shares, lines.lengths)[0]


@dataclass(frozen=True)
class _InDouble:
    """A matrix whose slices are in double precision."""

    matrix: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.matrix.shape[1]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float64)

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, key: object) -> Floats:
        out: Floats = self.matrix[key].astype(np.float64)
        return out
