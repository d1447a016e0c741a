"""Compiled loops of refined pairs: nearest cells of one side, their means, and the weights put on cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from mnndask.core.kernels.jit import FAST_MATH, FAST_SUMS, compiled
from mnndask.core.kernels.pairs import put_into_heap

LANES = 32  # vectors whose weights are spread over cells at once: a constant, so that the loop is unrolled


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
def sum_squared_weights(weights: Any, members: Any, spread: Any, out: Any) -> None:  # pragma: no cover
    """Spread weights of neighbourhoods over their cells, and sum the squares of what each cell gets.

    Parameters
    ----------
    weights
        Of each neighbourhood, for each of ``LANES`` vectors, shape ``(n_neighborhoods, LANES)``.
    members
        Cells of each neighbourhood, shape ``(n_neighborhoods, n_members)``.
    spread
        Buffer of shape ``(n_cells, LANES)``.
    out
        Filled with the sums, shape ``(LANES,)``.
    """
    spread[:] = 0
    for a in range(members.shape[0]):
        w = weights[a]
        for m in range(members.shape[1]):
            cell = spread[members[a, m]]
            for v in range(LANES):
                cell[v] += w[v]
    out[:] = 0
    for i in range(spread.shape[0]):
        cell = spread[i]
        for v in range(LANES):
            out[v] += np.float64(cell[v]) * np.float64(cell[v])
