"""Compiled loops of refined pairs: means of neighbourhoods, and the weights that are put on their cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from mnndask.core.kernels.jit import FAST_MATH, FAST_SUMS, compiled

LANES = 32  # vectors whose weights are spread over cells at once: a constant, so that loops are unrolled


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
