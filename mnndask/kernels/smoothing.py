"""Anchor vectors and their smoothing over a batch (definition, steps 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask.kernels.compiled import weigh_by_distance
from mnndask.kernels.compiling import exp_in_place
from mnndask.kernels.distances import (
    Floats,
    Matrix,
    Points,
    bits_of,
    decay,
    farthest,
    pieces,
    squared_distances,
    to_log_weights,
)
from mnndask.kernels.rooms import products

GENES_AT_ONCE = 2048


def pair_means(ref_rows: NDArray[np.intp], new_rows: NDArray[np.intp], n_ref: int) -> sparse.csr_array:
    """Give the matrix that averages, for each anchor, over its partners in the reference.

    Returns
    -------
    Shape ``(n_anchors, n_ref)``; anchors are the distinct `new_rows` in ascending order.
    """
    _, anchor, partners = np.unique(new_rows, return_inverse=True, return_counts=True)
    weight = 1.0 / partners[anchor]
    return sparse.csr_array((weight, (anchor, ref_rows)), shape=(len(partners), n_ref))


def density(cells: Points, first: int, anchors: Points, sigma: float) -> NDArray[np.float64]:
    """Gaussian density of all anchors at some of them, themselves included; at least 1.

    Parameters
    ----------
    cells
        Anchors ``first, first + 1, ...``, in memory.
    first
        Where they begin.
    anchors
        All.
    sigma
        Divisor of the squared distance.
    """
    total = np.zeros(len(cells))
    for at, tile in anchors.tiles():
        kernel = to_log_weights(squared_distances(cells, tile), sigma)
        exp_in_place(kernel, bits_of(kernel))
        own = np.arange(max(first, at.start), min(first + len(cells), at.stop))
        kernel[own - first, own - at.start] = 1  # whatever rounding made of its distance to itself
        total += kernel.sum(axis=1, dtype=np.float64)
    return total


def smoothing_weights(
    cells: Points, anchors: Points, log_density: NDArray[np.float64], sigma: float
) -> Floats:
    """Share of each anchor's vector in each cell's, shape ``(n_cells, n_anchors)``; see :func:`smooth`."""
    dtype = cells.squared.dtype
    total, top = np.zeros(len(cells)), np.full(len(cells), -np.inf, dtype)
    weights, _ = _weigh(cells, anchors, log_density, sigma, top, total, None)
    weights /= total.astype(dtype)[:, None]
    return weights


def smooth(
    cells: Points,
    anchors: Points,
    log_density: NDArray[np.float64],
    vectors: Sequence[Matrix],
    sigma: float,
    made: Floats | None = None,
) -> list[Floats]:
    """Weighted mean of the anchors' vectors at each cell.

    Anchors are visited tile by tile. Weights are taken relative to the largest so far, so that a cell far
    from all anchors follows its nearest one.

    Parameters
    ----------
    cells, anchors
        Points of the *in* space; `cells` in memory.
    log_density
        Logarithm of the anchors' density at each anchor, shape ``(n_anchors,)``.
    vectors
        Matrices of shape ``(n_anchors, n_genes)``; blocks of genes are read.
    sigma
        Divisor of the squared distance.
    made
        Products of `cells` and `anchors`, if they are at hand; they are overwritten.

    Returns
    -------
    One matrix of shape ``(n_cells, n_genes)`` for each of `vectors`.
    """
    dtype = cells.squared.dtype
    out = [np.zeros((len(cells), v.shape[1]), dtype) for v in vectors]
    total = np.zeros(len(cells))
    top = np.full(len(cells), -np.inf, dtype)
    for at, tile in anchors.tiles():
        weights, shrink = _weigh(cells, tile, log_density[at], sigma, top, total, made)
        for sums, v in zip(out, vectors, strict=True):
            if at.start:
                sums *= shrink[:, None]
            for genes in pieces(v.shape[1], GENES_AT_ONCE):
                sums[:, genes] += weights @ v[at, genes]
    for sums in out:
        sums /= total.astype(dtype)[:, None]
    return out


def _weigh(
    cells: Points,
    tile: Points,
    log_density: NDArray[np.float64],
    sigma: float,
    top: Floats,
    total: NDArray[np.float64],
    made: Floats | None,
) -> tuple[Floats, Floats]:
    """Weights of a tile of anchors relative to the largest so far; and what earlier sums are to shrink by.

    Brings `top`, the largest logarithm of a weight, and `total`, the sum of weights, up to date.
    """
    weights = products("smoothing", cells.X, tile.X) if made is None else made
    shrink = np.empty_like(top)
    rate = decay(sigma, farthest(cells, tile), weights.dtype)
    weigh_by_distance(
        weights,
        cells.squared,
        tile.squared,
        rate,
        log_density.astype(weights.dtype),
        top,
        total,
        shrink,
        bits_of(weights),
    )
    return weights, shrink
