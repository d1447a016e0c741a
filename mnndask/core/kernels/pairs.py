"""Compiled loops over pairs of cells.

They visit each pair once, where NumPy visits it once for each operation. They work in place, on blocks that
fit into the processor's cache, and release the interpreter's lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mnndask.core.kernels.exponential import exp_below, least_of
from mnndask.core.kernels.jit import FAST_MATH, FAST_SUMS, STRIP, compiled


@compiled(FAST_MATH)
def weigh_row(row: Any, rate: Any, bits: Any) -> Any:  # pragma: no cover
    """Turn squared distances to a line into weights up to 1, in place; return the smallest distance."""
    lowest = least_of(row, bits)
    exp_below(row, lowest, rate, bits)
    return lowest


@compiled(FAST_MATH)
def weigh_by_lines(
    projections: Any,
    weights: Any,
    are_squared: bool,
    own: Any,
    squared: Any,
    others_squared: Any,
    rate: Any,
    least: Any,
    bits: Any,
) -> None:  # pragma: no cover
    """Turn inner products into projections on each cell's line, relative to the cell, and weights; in place.

    A row's largest weight is 1.

    Parameters
    ----------
    projections
        Inner products of directions and others, shape ``(n_cells, n_others)``.
    weights
        Inner products of cells and others, same shape.
    are_squared
        Whether `weights` are squared distances already.
    own
        Each cell's own projection.
    squared, others_squared
        Squared norms.
    rate
        Factor of squared distances in the exponent.
    least
        Filled with the smallest squared distance to each line.
    bits
        Buffer of ``n_others`` integers of the values' size.
    """
    for i in range(projections.shape[0]):
        p, w = projections[i], weights[i]
        start, square = own[i], squared[i]
        for j in range(p.size):
            projection = p[j] - start
            distance = w[j] if are_squared else square + others_squared[j] - (w[j] + w[j])
            p[j] = projection
            w[j] = max(distance - projection * projection, w.dtype.type(0))
        least[i] = weigh_row(w, rate, bits)


@compiled(FAST_SUMS)
def dots_of_rows(A: Any, B: Any, out: Any) -> None:  # pragma: no cover
    """Row-wise inner products, summed in double precision."""
    for i in range(A.shape[0]):
        a, b = A[i], B[i]
        total = 0.0
        for j in range(a.size):
            total += np.float64(a[j]) * np.float64(b[j])
        out[i] = total


@compiled(FAST_SUMS)
def distances_of(cells: Any, rows: Any, found: Any, out: Any) -> None:  # pragma: no cover
    """Euclidean distances from some cells to others, by their numbers, summed in double precision."""
    for i in range(found.shape[0]):
        cell = cells[rows[i]]
        for j in range(found.shape[1]):
            other, total = cells[found[i, j]], 0.0
            for d in range(cell.size):
                away = np.float64(other[d]) - np.float64(cell[d])
                total += away * away
            out[i, j] = np.sqrt(total)


@compiled(FAST_SUMS)
def weights_up_to(values: Any, weights: Any, first: Any, second: Any) -> Any:  # pragma: no cover
    """Sum the weights of values up to each of two limits, in double precision."""
    one, other = 0.0, 0.0
    for j in range(values.size):
        weight = np.float64(weights[j])
        one += weight if values[j] <= first else 0.0
        other += weight if values[j] <= second else 0.0
    return one, other


@compiled(FAST_SUMS)
def sum_weights(
    projections: Any, weights: Any, limit: Any, near: Any, total: Any, below: Any, doubtful: Any
) -> None:  # pragma: no cover
    """Sum each row's weights, all and those of values up to a limit, in double precision.

    A row is doubtful if a value other than 0 is so near to 0, and so to the limit, that rounding decides.
    """
    kind = projections.dtype.type
    for i in range(projections.shape[0]):
        p = projections[i]
        below[i], total[i] = weights_up_to(p, weights[i], limit, kind(np.inf))
        some = np.int32(0)
        for j in range(p.size):
            some |= np.int32(abs(p[j]) < near) & np.int32(p[j] != 0)
        doubtful[i] = some != 0


@compiled(FAST_SUMS)
def weigh_by_distance(
    weights: Any,
    squared: Any,
    others_squared: Any,
    rate: Any,
    log_density: Any,
    top: Any,
    total: Any,
    shrink: Any,
    bits: Any,
) -> None:  # pragma: no cover
    """Turn inner products of cells and anchors into weights, in place, relative to the largest so far.

    Parameters
    ----------
    weights
        Inner products of cells and anchors, shape ``(n_cells, n_anchors)``.
    squared, others_squared
        Squared norms.
    rate
        Factor of squared distances in the exponent.
    log_density
        Logarithm of the anchors' density, at least 0.
    top
        Logarithm of the largest weight of each cell so far; updated.
    total
        Sum of weights of each cell so far; updated.
    shrink
        Filled with the factors that rescale earlier sums, in double precision: rounded, they would shift the
        balance between tiles.
    bits
        Buffer of ``n_anchors`` integers of the values' size.
    """
    kind = weights.dtype.type
    for i in range(weights.shape[0]):
        w, square = weights[i], squared[i]
        for j in range(w.size):
            distance = max(square + others_squared[j] - (w[j] + w[j]), kind(0))
            w[j] = distance * rate + log_density[j]
        largest = max(top[i], -least_of(w, bits))
        exp_below(w, -largest, kind(1), bits)
        own = 0.0
        for j in range(w.size):
            own += w[j]
        shrink[i] = np.exp(np.float64(top[i]) - np.float64(largest))
        total[i] = total[i] * shrink[i] + own
        top[i] = largest


@compiled(FAST_MATH)
def _settle(a: Any, doubtful: Any, cell: Any, direction: Any, others: Any) -> None:  # pragma: no cover
    for j in range(a.size):
        if abs(a[j]) < doubtful:
            exact = 0.0
            for g in range(cell.size):
                exact += (np.float64(others[j, g]) - cell[g]) * direction[g]
            a[j] = exact


@compiled(FAST_MATH)
def settle_small(
    projections: Any, doubtful: Any, lengths: Any, cells: Any, directions: Any, others: Any
) -> None:  # pragma: no cover
    """Compute projections smaller than `doubtful` again in double precision, in place.

    Projections on vectors of length 0 do not matter.
    """
    n = projections.shape[1]
    whole = n - n % STRIP
    for i in range(projections.shape[0]):
        a = projections[i]
        if lengths[i] == 0:
            continue
        for start in range(0, whole, STRIP):
            some = np.int32(0)
            for j in range(STRIP):
                some |= np.int32(abs(a[start + j]) < doubtful)
            if some:
                at = slice(start, start + STRIP)
                _settle(a[at], doubtful, cells[i], directions[i], others[at])
        _settle(a[whole:], doubtful, cells[i], directions[i], others[whole:])
