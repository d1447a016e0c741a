"""Variance adjustment (definition, step 8): how far a correction must reach to keep a cell's rank."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.distances import (
    Floats,
    Points,
    Tolerances,
    row_dots,
    squared_distances,
    to_log_weights,
)

PAIRS_AT_ONCE = 4096


def variance_factors(
    cells: Points, vectors: Floats, new: Points, ref: Points, sigma: float, scale: float
) -> NDArray[np.float64]:
    """Factor by which each cell's correction vector is lengthened.

    A cell's share of the batch below it, along its correction vector, is looked up in the reference: the
    vector must reach at least to the reference's quantile of that share. Other cells count by their distance
    from the line on which the cell moves.

    Parameters
    ----------
    cells
        Cells to correct.
    vectors
        Their correction vectors, shape ``(n_cells, n_genes)``.
    new, ref
        Sketched cells of the batch and of the reference, in the same space.
    sigma
        Divisor of the squared distance to the line.
    scale
        Largest norm among sketched cells; tolerances are relative to it.

    Returns
    -------
    Factors of at least 1, shape ``(n_cells,)``.

    References
    ----------
    Haghverdi et al. (2018), Methods, "Variance adjustment"; with the two undefined cases settled: a vector of
    no length keeps it, and a cell below all of its batch aims at the reference's lowest projection.
    """
    tolerances = Tolerances.of(vectors.dtype)
    directions, lengths = unit_rows(vectors)
    own = row_dots(cells.X, directions)

    ahead, weights = projections_and_weights(cells, directions, own, new, sigma)
    _settle(ahead, cells, directions, new, tolerances.doubtful * scale)
    below = ahead <= tolerances.projection * scale
    total = weights.sum(axis=1, dtype=np.float64)
    share = np.where(below, weights, 0).sum(axis=1, dtype=np.float64) / total

    ahead, weights = projections_and_weights(cells, directions, own, ref, sigma)
    reach = weighted_quantiles(ahead, weights, share - tolerances.reach)
    return np.maximum(1.0, np.divide(reach, lengths, out=np.ones_like(lengths), where=lengths > 0))


def unit_rows(vectors: Floats) -> tuple[Floats, NDArray[np.float64]]:
    """Directions and lengths of row vectors, also of those whose squares would underflow."""
    largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)
    safe = np.where(largest > 0, largest, 1)
    directions = vectors / safe
    relative = np.sqrt(row_dots(directions, directions))
    directions /= np.where(relative > 0, relative, 1).astype(vectors.dtype)[:, None]
    return directions, relative * largest[:, 0]


def projections_and_weights(
    cells: Points, directions: Floats, own: NDArray[np.float64], others: Points, sigma: float
) -> tuple[Floats, Floats]:
    """How far ahead of each cell the others lie on its line, and their weights (the largest of a row is 1).

    Returns
    -------
    Both of shape ``(n_cells, n_others)``.
    """
    ahead: Floats = directions @ others.X.T
    ahead -= own.astype(ahead.dtype)[:, None]
    weights = squared_distances(cells, others)
    weights -= ahead**2
    np.maximum(weights, 0, out=weights)
    weights -= weights.min(axis=1, keepdims=True)
    return ahead, np.exp(to_log_weights(weights, sigma), out=weights)


def _settle(ahead: Floats, cells: Points, directions: Floats, others: Points, doubtful: float) -> None:
    """Take small differences again in double precision: products in single cannot tell whose is the lower."""
    rows, cols = np.nonzero(np.abs(ahead) < doubtful)
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        r, c = rows[start : start + PAIRS_AT_ONCE], cols[start : start + PAIRS_AT_ONCE]
        ahead[r, c] = row_dots(others.X[c].astype(np.float64) - cells.X[r], directions[r])


def weighted_quantiles(values: Floats, weights: Floats, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """First value of each row at which the cumulative weight reaches its share; the largest if none does."""
    ranked = np.argsort(values, axis=1)
    cumulative = np.cumsum(np.take_along_axis(weights, ranked, axis=1), axis=1, dtype=np.float64)
    target = shares * cumulative[:, -1]
    first = np.minimum((cumulative < target[:, None]).sum(axis=1), values.shape[1] - 1)
    rows = np.arange(len(values))
    out: NDArray[np.float64] = values[rows, ranked[rows, first]].astype(np.float64)
    return out
