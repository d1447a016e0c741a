"""Variance adjustment in few dimensions, compiled: inner products and weights in one loop.

A matrix product with short sums is bound by the memory that its result is written to, not by arithmetic.
Here, a tile of the product is computed in the processor's first cache and turned into weights there. With
many dimensions, BLAS is faster, although its products go through memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mnndask._typing import Floats
from mnndask.core.kernels.buffers import buffer
from mnndask.core.kernels.jit import FAST_MATH, compiled
from mnndask.core.kernels.pairs import weigh_row

MOST_DIMS = 128
WIDTH = 128  # other cells in a tile: with some 50 dimensions, half of a first cache
ROWS = 4  # cells at a time
STEP = 5  # dimensions at a time: with ROWS, as many factors as fit into registers


def has_few_dims(X: Floats) -> bool:
    """Whether cells have so few dimensions that these loops are faster than BLAS."""
    return bool(0 < X.shape[1] <= MOST_DIMS)


def padded(name: str, X: Floats) -> Floats:
    """Copy of a matrix, padded with zeros to whole multiples of :data:`ROWS` and :data:`STEP`."""
    out = buffer(name, (_whole(len(X), ROWS), _whole(X.shape[1], STEP)), X.dtype)
    out[: len(X), : X.shape[1]] = X
    out[len(X) :] = 0
    out[:, X.shape[1] :] = 0
    return out


def packed(name: str, X: Floats) -> Floats:
    """Cells in tiles of :data:`WIDTH`; in each tile, one dimension of all cells follows the other."""
    n_tiles, dims = -(-len(X) // WIDTH), _whole(X.shape[1], STEP)
    out = buffer(name, (n_tiles, dims * WIDTH), X.dtype)
    pack(X, out)
    return out


def _whole(n: int, step: int) -> int:
    return -(-n // step) * step


@compiled(FAST_MATH)
def pack(X: Any, out: Any) -> None:  # pragma: no cover
    """Copy cells into tiles, as :func:`packed` has them."""
    n, dims = X.shape
    out[:] = 0
    for t in range(out.shape[0]):
        tile = out[t]
        for j in range(min(WIDTH, n - t * WIDTH)):
            for d in range(dims):
                tile[d * WIDTH + j] = X[t * WIDTH + j, d]


@compiled(FAST_MATH)
def _multiply(cells: Any, tile: Any, out: Any) -> None:  # pragma: no cover
    """Inner products of padded cells and a tile of the others; written out for ROWS = 4 and STEP = 5."""
    a, b, c, d = cells[0], cells[1], cells[2], cells[3]
    out[:] = 0
    for k in range(0, a.size, STEP):
        x = tile[k * WIDTH : (k + STEP) * WIDTH]
        a0, a1, a2, a3, a4 = a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4]
        b0, b1, b2, b3, b4 = b[k], b[k + 1], b[k + 2], b[k + 3], b[k + 4]
        c0, c1, c2, c3, c4 = c[k], c[k + 1], c[k + 2], c[k + 3], c[k + 4]
        d0, d1, d2, d3, d4 = d[k], d[k + 1], d[k + 2], d[k + 3], d[k + 4]
        for j in range(WIDTH):
            x0, x1, x2 = x[j], x[WIDTH + j], x[2 * WIDTH + j]
            x3, x4 = x[3 * WIDTH + j], x[4 * WIDTH + j]
            out[j] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3 + a4 * x4
            out[WIDTH + j] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3 + b4 * x4
            out[2 * WIDTH + j] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3 + c4 * x4
            out[3 * WIDTH + j] += d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3 + d4 * x4


@compiled(FAST_MATH)
def weigh_by_lines_in_few_dims(
    directions: Any,
    cells: Any,
    others: Any,
    own: Any,
    squared: Any,
    others_squared: Any,
    rate: Any,
    projections: Any,
    weights: Any,
    least: Any,
    bits: Any,
) -> None:  # pragma: no cover
    """How far projections others lie on each cell's line, and their weights; a row's largest is 1.

    Parameters
    ----------
    directions, cells
        Padded; at least as many rows as `projections`.
    others
        Packed.
    own, squared, others_squared, rate, least, bits
        As for :func:`mnndask.core.kernels.pairs.weigh_by_lines`.
    projections, weights
        Filled; shape ``(n_cells, n_others)``.
    """
    n_cells, n = projections.shape
    along = np.empty(ROWS * WIDTH, projections.dtype)
    near = np.empty(ROWS * WIDTH, projections.dtype)
    for t in range(others.shape[0]):
        start = t * WIDTH
        width = min(WIDTH, n - start)
        theirs = others_squared[start : start + width]
        for first in range(0, n_cells, ROWS):
            _multiply(directions[first : first + ROWS], others[t], along)
            _multiply(cells[first : first + ROWS], others[t], near)
            for r in range(min(ROWS, n_cells - first)):
                i = first + r
                p, w = projections[i, start : start + width], weights[i, start : start + width]
                along_r, near_r = along[r * WIDTH : (r + 1) * WIDTH], near[r * WIDTH : (r + 1) * WIDTH]
                before, square = own[i], squared[i]
                for j in range(width):
                    projection = along_r[j] - before
                    distance = square + theirs[j] - (near_r[j] + near_r[j])
                    p[j] = projection
                    w[j] = max(distance - projection * projection, w.dtype.type(0))
    for i in range(n_cells):
        least[i] = weigh_row(weights[i], rate, bits)
