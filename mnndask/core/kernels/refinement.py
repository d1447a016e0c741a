"""Compiled loops of refined pairs: nearest cells of one side, their means, and the weights put on cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from mnndask.core.kernels.jit import FAST_MATH, FAST_SUMS, compiled
from mnndask.core.kernels.pairs import put_into_heap

LANES = 32  # vectors whose weights are spread over cells at once: a constant, so that loops are unrolled


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
        limit = rows[i, 0]
        for j in range(p.size):
            if p[j] < limit:
                put_into_heap(rows[i], row_cells[i], p[j], first + j)
                limit = rows[i, 0]


@compiled(FAST_MATH)
def add_members(X: Any, first: int, members: Any, out: Any) -> None:  # pragma: no cover
    """Add to each row of `out`, in double precision, those of its members that are rows of `X`.

    Parameters
    ----------
    X
        Some of the cells, shape ``(n_cells, n_genes)``.
    first
        Number of the first of them.
    members
        Numbers of the cells of each row, ascending.
    out
        Shape ``(n_rows, n_genes)``.
    """
    for i in range(members.shape[0]):
        total = out[i]
        for m in range(members.shape[1]):
            j = members[i, m] - first
            if 0 <= j < X.shape[0]:
                cell = X[j]
                for g in range(cell.size):
                    total[g] += cell[g]


@compiled(FAST_SUMS)
def sum_squared_weights(weights: Any, starts: Any, holders: Any, out: Any) -> None:  # pragma: no cover
    """Spread weights of neighbourhoods over their cells, and sum the squares of what each cell gets.

    Parameters
    ----------
    weights
        Of each neighbourhood, for each of ``LANES`` vectors, shape ``(n_neighborhoods, LANES)``.
    starts, holders
        The neighbourhoods that each cell is in, cell after cell, and where each cell's begin, with the end.
    out
        Filled with the sums, shape ``(LANES,)``, in double precision.
    """
    total = np.empty(LANES, weights.dtype)
    out[:] = 0
    for i in range(starts.size - 1):
        total[:] = 0
        stop = starts[i + 1]
        for h in range(starts[i], stop - 3, 4):  # fewer sums go through memory
            a, b = weights[holders[h]], weights[holders[h + 1]]
            c, d = weights[holders[h + 2]], weights[holders[h + 3]]
            for v in range(LANES):
                total[v] += (a[v] + b[v]) + (c[v] + d[v])
        for h in range(stop - (stop - starts[i]) % 4, stop):
            w = weights[holders[h]]
            for v in range(LANES):
                total[v] += w[v]
        for v in range(LANES):
            out[v] += np.float64(total[v]) * np.float64(total[v])
