"""Compiled loops that keep the smallest distances, in heaps.

They work in place, and release the interpreter's lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mnndask.core.kernels.jit import FAST_MATH, STRIP, compiled


@compiled(FAST_MATH)
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


@compiled(FAST_MATH)
def _any_below(values: Any, limit: Any, limits: Any) -> Any:  # pragma: no cover
    """Whether any of ``STRIP`` values is below one limit or its own; a whole vector is compared at once."""
    some = np.int32(0)
    for j in range(STRIP):
        some |= np.int32(values[j] < limit) | np.int32(values[j] < limits[j])
    return some


@compiled(FAST_MATH)
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
        Inner products of cells and others, shape ``(n_cells, n_others)``; turned into squared distances.
    squared, others_squared
        Squared norms.
    first
        Number of the first cell.
    rows, row_cells
        Heap of each cell: squared distances, and the others' rows, shape ``(n_cells, n_kept)``.
    columns, column_cells
        Heap of each of the others: squared distances, and the cells' rows, shape ``(n_others, n_kept)``.
    limits
        Largest value of each column's heap.
    """
    for i in range(products.shape[0]):
        p, square = products[i], squared[i]
        for j in range(p.size):
            p[j] = max(square + others_squared[j] - (p[j] + p[j]), p.dtype.type(0))
        limit, whole = rows[i, 0], p.size - p.size % STRIP
        for start in range(0, p.size, STRIP):
            if start < whole and not _any_below(p[start:], limit, limits[start:]):
                continue
            for j in range(start, min(start + STRIP, p.size)):
                distance = p[j]
                if distance < limit:
                    _put_into_heap(rows[i], row_cells[i], distance, j)
                    limit = rows[i, 0]
                if distance < limits[j]:
                    _put_into_heap(columns[j], column_cells[j], distance, first + i)
                    limits[j] = columns[j, 0]


@compiled(FAST_MATH)
def keep_nearest(
    products: Any, squared: Any, others_squared: Any, first: int, rows: Any, row_cells: Any
) -> None:  # pragma: no cover
    """Keep the smallest squared distances of each row of a block.

    Parameters
    ----------
    products
        Inner products of cells and others, shape ``(n_cells, n_others)``; turned into squared distances.
    squared, others_squared
        Squared norms.
    first
        Number of the first of the others.
    rows, row_cells
        Heap of each cell: squared distances, and the others' numbers, shape ``(n_cells, n_kept)``.
    """
    for i in range(products.shape[0]):
        p, square = products[i], squared[i]
        for j in range(p.size):
            p[j] = max(square + others_squared[j] - (p[j] + p[j]), p.dtype.type(0))
        limit, whole = rows[i, 0], p.size - p.size % STRIP
        for start in range(0, p.size, STRIP):
            if start < whole and not _any_below(p[start:], limit, p[start:]):
                continue
            for j in range(start, min(start + STRIP, p.size)):
                if p[j] < limit:
                    _put_into_heap(rows[i], row_cells[i], p[j], first + j)
                    limit = rows[i, 0]
