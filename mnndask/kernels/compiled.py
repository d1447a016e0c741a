"""Inner loops over pairs of cells, compiled by numba.

Each pair is visited once, where NumPy visits it once an operation. Functions work in place on rows that the
processor's cache holds, and release the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

# Sums may be taken in any order that suits the processor's vectors, as BLAS does. There are no NaN.
MATHS = {"contract", "nsz", "nnan", "arcp"}
SUMS = MATHS | {"reassoc"}
N_BINS = 256


def compiled(maths: set[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile when first called; what is compiled is kept beside the module, or in the user's cache."""

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(nogil=True, fastmath=maths, cache=True)(function)
        except RuntimeError:  # neither can be written
            return njit(nogil=True, fastmath=maths)(function)

    return compile_


def exp_of_row(row: Any, bits: Any) -> None:
    """Exponential of a row of values up to 0, in place; `bits` is room for as many integers of their size.

    For compiled functions only. NumPy's takes three times as long on processors without AVX-512.
    """
    raise NotImplementedError


@overload(exp_of_row, jit_options={"fastmath": MATHS})
def _exp_of_row(row: Any, bits: Any) -> Callable[..., None]:
    return _exp_single if row.dtype == types.float32 else _exp_double


def _exp_single(row: Any, bits: Any) -> None:  # pragma: no cover
    """Moshier's polynomial (Cephes, expf); within 1.5e-7 of the result."""
    powers = bits.view(np.float32)
    for j in range(row.size):
        x = max(row[j], np.float32(-88))  # whose power is 0
        k = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
        bits[j] = (np.int32(k) + np.int32(127)) << np.int32(23)
        r = (x - k * np.float32(0.693359375)) + k * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        row[j] = p * r * r + r + np.float32(1)
    for j in range(row.size):
        row[j] *= powers[j]


_TAYLOR = tuple(1 / factorial(n) for n in range(13, 1, -1))


def _exp_double(row: Any, bits: Any) -> None:  # pragma: no cover
    """Taylor's polynomial over half a power of two; within 1.3e-15 of the result."""
    powers = bits.view(np.float64)
    for j in range(row.size):
        x = max(row[j], -709.0)  # whose power is 0
        k = np.floor(x * 1.4426950408889634 + 0.5)
        bits[j] = (np.int64(k) + 1023) << 52
        r = (x - k * 0.693145751953125) - k * 1.4286068202862268e-06
        p = _TAYLOR[0]
        p = p * r + _TAYLOR[1]
        p = p * r + _TAYLOR[2]
        p = p * r + _TAYLOR[3]
        p = p * r + _TAYLOR[4]
        p = p * r + _TAYLOR[5]
        p = p * r + _TAYLOR[6]
        p = p * r + _TAYLOR[7]
        p = p * r + _TAYLOR[8]
        p = p * r + _TAYLOR[9]
        p = p * r + _TAYLOR[10]
        p = p * r + _TAYLOR[11]
        row[j] = p * r * r + r + 1.0
    for j in range(row.size):
        row[j] *= powers[j]


@compiled(MATHS)
def exp_in_place(values: Any, bits: Any) -> None:  # pragma: no cover
    """Exponential of values up to 0, shape ``(n_rows, n)``; `bits` is room for `n` integers of their size."""
    for i in range(values.shape[0]):
        exp_of_row(values[i], bits)


@compiled(MATHS)
def weigh_by_lines(
    ahead: Any, weights: Any, own: Any, squared: Any, others_squared: Any, rate: Any, least: Any, bits: Any
) -> None:  # pragma: no cover
    """Turn products of cells and others into how far ahead these lie on each cell's line, and weights.

    In place. A row's largest weight is 1.

    Parameters
    ----------
    ahead
        Directions × others, shape ``(n_cells, n_others)``.
    weights
        Cells × others.
    own
        Each cell's own projection.
    squared, others_squared
        Squared norms.
    rate
        What squared distances are multiplied by in the exponent.
    least
        Is filled with the least squared distance to each line.
    bits
        Room for ``n_others`` integers of the values' size.
    """
    for i in range(ahead.shape[0]):
        a, w = ahead[i], weights[i]
        start, square = own[i], squared[i]
        smallest = np.inf
        lowest = w.dtype.type(smallest)
        for j in range(a.size):
            far = a[j] - start
            distance = max(square + others_squared[j] - (w[j] + w[j]) - far * far, w.dtype.type(0))
            a[j] = far
            w[j] = distance
            lowest = min(lowest, distance)
        least[i] = lowest
        for j in range(a.size):
            w[j] = (lowest - w[j]) * rate
        exp_of_row(w, bits)


@compiled(SUMS)
def sum_weights(ahead: Any, weights: Any, limit: Any, total: Any, below: Any) -> None:  # pragma: no cover
    """Sum each row's weights, all and those of values up to a limit, in double precision."""
    for i in range(ahead.shape[0]):
        a, w = ahead[i], weights[i]
        every, some = 0.0, 0.0
        for j in range(a.size):
            weight = np.float64(w[j])
            every += weight
            some += weight if a[j] <= limit else 0.0
        total[i], below[i] = every, some


@compiled(SUMS)
def weighted_quantiles_of(values: Any, weights: Any, shares: Any, out: Any) -> None:  # pragma: no cover
    """See :func:`mnndask.kernels.quantiles.weighted_quantiles`.

    Only the values in the bin of a histogram in which the share is reached are sorted.
    """
    n = values.shape[1]
    sums = np.empty(N_BINS)
    bins = np.empty(n, np.int32)
    for i in range(values.shape[0]):
        v, w = values[i], weights[i]
        low, high = v[0], v[0]
        for j in range(n):
            low, high = min(low, v[j]), max(high, v[j])
        largest = np.finfo(v.dtype).max
        per_unit = (
            v.dtype.type(min(N_BINS * (1 - 1e-6) / (high - low), largest)) if high > low else v.dtype.type(0)
        )
        for j in range(n):
            bins[j] = np.int32((v[j] - low) * per_unit)
        sums[:] = 0
        for j in range(n):
            sums[bins[j]] += w[j]
        total = 0.0
        for b in range(N_BINS):
            total += sums[b]
        target = shares[i] * total
        before, chosen = 0.0, 0
        last = np.int32((high - low) * per_unit)
        while chosen < last and before + sums[chosen] < target:
            before += sums[chosen]
            chosen += 1
        held = np.flatnonzero(bins == chosen)
        order = held[np.argsort(v[held])]
        found = v[order[-1]]
        for j in order:
            before += w[j]
            if before >= target:
                found = v[j]
                break
        out[i] = found


@compiled(SUMS)
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
    """Turn products of cells and anchors into weights, in place, relative to the largest that a cell has met.

    Parameters
    ----------
    weights
        Cells × anchors, shape ``(n_cells, n_anchors)``.
    squared, others_squared
        Squared norms.
    rate
        What squared distances are multiplied by in the exponent.
    log_density
        Of the anchors.
    top
        Logarithm of the largest weight of each cell so far; is brought up to date.
    total
        Each cell's sum of weights so far; likewise.
    shrink
        Is filled with what sums so far are to be multiplied by.
    bits
        Room for ``n_anchors`` integers of the values' size.
    """
    kind = weights.dtype.type
    for i in range(weights.shape[0]):
        w, square = weights[i], squared[i]
        largest = top[i]
        for j in range(w.size):
            distance = max(square + others_squared[j] - (w[j] + w[j]), kind(0))
            logarithm = -distance * rate - log_density[j]
            w[j] = logarithm
            largest = max(largest, logarithm)
        for j in range(w.size):
            w[j] -= largest
        exp_of_row(w, bits)
        own = 0.0
        for j in range(w.size):
            own += w[j]
        shrink[i] = np.exp(top[i] - largest)
        total[i] = total[i] * shrink[i] + own
        top[i] = largest


@compiled(MATHS)
def settle_small(
    ahead: Any, doubtful: Any, lengths: Any, cells: Any, directions: Any, others: Any
) -> None:  # pragma: no cover
    """Take differences along lines that are smaller than `doubtful` again in double precision, in place.

    Where a cell does not move (a length of 0) they do not matter.
    """
    n = ahead.shape[1]
    for i in range(ahead.shape[0]):
        a = ahead[i]
        if lengths[i] == 0:
            continue
        for start in range(0, n, 64):
            stop = min(start + 64, n)
            smallest = doubtful
            for j in range(start, stop):
                smallest = min(smallest, abs(a[j]))
            if smallest >= doubtful:
                continue
            for j in range(start, stop):
                if abs(a[j]) < doubtful:
                    exact = 0.0
                    for g in range(cells.shape[1]):
                        exact += (np.float64(others[j, g]) - cells[i, g]) * directions[i, g]
                    a[j] = exact


@compiled(MATHS)
def _put_into_heap(values: Any, which: Any, value: Any, index: Any) -> None:  # pragma: no cover
    """Replace the root, which is a heap's largest value, by a smaller one."""
    at, n = 0, values.size
    while 2 * at + 1 < n:
        child = 2 * at + 1
        if child + 1 < n and values[child + 1] > values[child]:
            child += 1
        if values[child] <= value:
            break
        values[at], which[at] = values[child], which[child]
        at = child
    values[at], which[at] = value, index


@compiled(MATHS)
def keep_smallest(
    products: Any,
    squared: Any,
    others_squared: Any,
    first: int,
    rows: Any,
    row_cells: Any,
    columns: Any,
    column_cells: Any,
    limits: Any,
) -> None:  # pragma: no cover
    """Keep the smallest squared distances of each row and of each column of a block.

    Parameters
    ----------
    products
        Cells × others, shape ``(n_cells, n_others)``; become squared distances.
    squared, others_squared
        Squared norms.
    first
        Number of the first cell.
    rows, row_cells
        Heap of each cell, shape ``(n_cells, n_kept)``: squared distances, and to which of the others.
    columns, column_cells
        Heap of each of the others, shape ``(n_others, n_kept)``, and to which cells.
    limits
        Largest value of each column's heap.
    """
    for i in range(products.shape[0]):
        p, square = products[i], squared[i]
        for j in range(p.size):
            p[j] = max(square + others_squared[j] - (p[j] + p[j]), p.dtype.type(0))
        limit = rows[i, 0]
        for j in range(p.size):
            distance = p[j]
            if distance < limit:
                _put_into_heap(rows[i], row_cells[i], distance, j)
                limit = rows[i, 0]
            if distance < limits[j]:
                _put_into_heap(columns[j], column_cells[j], distance, first + i)
                limits[j] = columns[j, 0]
