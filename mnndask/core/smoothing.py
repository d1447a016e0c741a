"""Anchor vectors and their smoothing over a batch (definition, steps 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask._blocks import GENES_PER_BLOCK, row_blocks
from mnndask._typing import Floats, Matrix
from mnndask.core.arrays import DoublePoints, Points, drop_rounding, tile_size
from mnndask.core.distances import (
    bits_of,
    inverse_sigma,
    squared_distance_bound,
    squared_distances,
    to_log_weights,
)
from mnndask.core.kernels.buffers import products
from mnndask.core.kernels.exponential import exp_in_place
from mnndask.core.kernels.pairs import weigh_by_distance
from mnndask.core.pairs import Pairs
from mnndask.core.workspace import Workspace


def pair_means(ref_rows: NDArray[np.intp], new_rows: NDArray[np.intp], n_ref: int) -> sparse.csr_array:
    """Matrix that averages, for each anchor, over its partners in the reference (step 4).

    Returns
    -------
    Shape ``(n_anchors, n_ref)``; anchors are the distinct `new_rows` in ascending order.
    """
    _, anchor, partners = np.unique(new_rows, return_inverse=True, return_counts=True)
    weight = 1.0 / partners[anchor]
    return sparse.csr_array((weight, (anchor, ref_rows)), shape=(len(partners), n_ref))


def anchor_vectors(
    work: Workspace, name: str, new: Points, ref: Points, pairs: Pairs, shortest: NDArray[np.float64]
) -> Matrix:
    """Mean difference of each anchor to its partners, shape ``(n_anchors, n_genes)`` (step 4).

    Exactly zero where it is no longer than `shortest`, shape ``(n_anchors,)``: that is rounding.
    """
    means, anchors = pair_means(pairs.ref_rows, pairs.new_rows, pairs.n_reference), pairs.anchors
    out = work.matrix(name, (len(anchors), new.X.shape[1]))

    def one(at: slice) -> None:
        vectors = -new.X[anchors[at]].astype(np.float64)
        for tile in row_blocks(len(ref), ref.tile):
            own = means[at][:, tile]
            partners = np.unique(own.indices)
            if len(partners):
                vectors += own[:, partners] @ ref.X[tile][partners]
        drop_rounding(vectors, shortest[at])
        out[at] = vectors

    work.map("vectors", len(anchors), out.shape[1], one)
    return out


def log_densities(
    work: Workspace, anchors: Points, sigma: float, *, in_double: bool = True
) -> NDArray[np.float64]:
    """Logarithm of the density of anchors at each anchor, shape ``(n_anchors,)``; see :func:`density`.

    In double precision, densities are the same for any blocks and tiles.
    """
    anchors = DoublePoints.around(anchors) if in_double else anchors

    def one(at: slice) -> NDArray[np.float64]:
        return density(anchors[at], at.start, anchors, sigma)

    parts = work.map("density", len(anchors), 4 * tile_size(anchors) + 2 * anchors.X.shape[1], one)
    out: NDArray[np.float64] = np.log(np.concatenate(parts))
    return out


def density(cells: Points, first: int, anchors: Points, sigma: float) -> NDArray[np.float64]:
    """Gaussian density of all anchors at a block of them, each itself included; at least 1.

    Parameters
    ----------
    cells
        A block of anchors, in memory.
    first
        Row of the first.
    anchors
        All.
    sigma
        Bandwidth: Gaussian weights are ``exp(-squared distance / sigma)``.
    """
    total = np.zeros(len(cells))
    for at, tile in anchors.tiles():
        kernel = to_log_weights(squared_distances(cells, tile), sigma)
        exp_in_place(kernel, bits_of(kernel))
        own = np.arange(max(first, at.start), min(first + len(cells), at.stop))
        kernel[own - first, own - at.start] = 1  # an anchor's distance to itself, without rounding
        total += kernel.sum(axis=1, dtype=np.float64)
    return total


def smoothing_weights(
    cells: Points, anchors: Points, log_density: NDArray[np.float64], sigma: float
) -> Floats:
    """Weight of each anchor's vector in each cell's, shape ``(n_cells, n_anchors)``; rows sum to 1.

    The cells are in memory; anchors are visited tile by tile.
    """
    sums = _Sums.none(cells)
    parts: list[Floats] = []
    for at, tile in anchors.tiles():
        weights, shrink = _weigh(cells, tile, log_density[at], sigma, sums)
        for part in parts:
            part *= shrink.astype(part.dtype)[:, None]
        parts.append(weights.copy() if len(tile) < len(anchors) else weights)  # a buffer may be used again
    out: Floats = np.hstack(parts) if len(parts) > 1 else parts[0]
    out /= sums.total.astype(out.dtype)[:, None]
    return out


def smooth(
    cells: Points,
    anchors: Points,
    log_density: NDArray[np.float64],
    vectors: Sequence[Matrix],
    sigma: float,
    inner: Floats | None = None,
) -> list[Floats]:
    """Smooth the anchors' vectors: their Gaussian-weighted mean at each cell (step 5).

    An anchor's weight is divided by the density of anchors around it, so that crowded regions do not
    dominate. Anchors are visited tile by tile. Weights are relative to the largest so far, so that a cell far
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
        Bandwidth: Gaussian weights are ``exp(-squared distance / sigma)``.
    inner
        Precomputed inner products of `cells` and all `anchors`, which must be one tile; overwritten.

    Returns
    -------
    One matrix of shape ``(n_cells, n_genes)`` for each of `vectors`.
    """
    dtype = cells.squared.dtype
    out = [np.zeros((len(cells), v.shape[1]), dtype) for v in vectors]
    sums = _Sums.none(cells)
    for at, tile in anchors.tiles():
        weights, shrink = _weigh(cells, tile, log_density[at], sigma, sums, inner)
        for mean, v in zip(out, vectors, strict=True):
            if at.start:
                mean *= shrink[:, None]
            for genes in row_blocks(v.shape[1], GENES_PER_BLOCK):
                mean[:, genes] += weights @ v[at, genes]
    for mean in out:
        mean /= sums.total.astype(dtype)[:, None]
    return out


@dataclass(frozen=True)
class _Sums:
    """Sum of weights of each cell so far, and the logarithm of the largest, to which it is relative."""

    total: NDArray[np.float64]
    top: Floats

    @classmethod
    def none(cls, cells: Points) -> _Sums:
        return cls(np.zeros(len(cells)), np.full(len(cells), -np.inf, cells.squared.dtype))


def _weigh(
    cells: Points,
    tile: Points,
    log_density: NDArray[np.float64],
    sigma: float,
    sums: _Sums,
    inner: Floats | None = None,
) -> tuple[Floats, NDArray[np.float64]]:
    """Weights of a tile of anchors relative to the largest so far, and the factors that rescale earlier sums.

    Updates the sums.
    """
    weights = products("smoothing", cells.X, tile.X) if inner is None else inner
    shrink = np.empty(len(cells))
    rate = inverse_sigma(sigma, squared_distance_bound(cells, tile), weights.dtype)
    weigh_by_distance(
        weights,
        cells.squared,
        tile.squared,
        rate,
        log_density.astype(weights.dtype),
        sums.top,
        sums.total,
        shrink,
        bits_of(weights),
    )
    return weights, shrink
