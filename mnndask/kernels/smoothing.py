"""Anchor vectors and their smoothing over a batch (definition, steps 4 and 5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask.kernels.distances import Floats, Points, squared_distances, to_log_weights


def pair_means(ref_rows: NDArray[np.intp], new_rows: NDArray[np.intp], n_ref: int) -> sparse.csr_array:
    """Give the matrix that averages, for each anchor, over its partners in the reference.

    Returns
    -------
    Shape ``(n_anchors, n_ref)``; anchors are the distinct `new_rows` in ascending order.
    """
    _, anchor, partners = np.unique(new_rows, return_inverse=True, return_counts=True)
    weight = 1.0 / partners[anchor]
    return sparse.csr_array((weight, (anchor, ref_rows)), shape=(len(partners), n_ref))


def density(anchors: Points, block: slice, sigma: float) -> NDArray[np.float64]:
    """Gaussian density of all anchors at those of a block, themselves included; at least 1."""
    kernel = to_log_weights(squared_distances(anchors[block], anchors), sigma)
    np.exp(kernel, out=kernel)
    own = np.arange(len(kernel))
    kernel[own, own + block.start] = 1  # whatever rounding made of its distance to itself
    out: NDArray[np.float64] = kernel.sum(axis=1, dtype=np.float64)
    return out


def smoothing_weights(cells: Points, anchors: Points, log_density: Floats, sigma: float) -> Floats:
    """Weight of each anchor's vector in each cell's correction.

    Parameters
    ----------
    cells, anchors
        Points of the *in* space.
    log_density
        Logarithm of the anchors' density at each anchor, shape ``(n_anchors,)``.
    sigma
        Divisor of the squared distance.

    Returns
    -------
    Rows that sum to 1, shape ``(n_cells, n_anchors)``. They are taken relative to the largest, so that a cell
    far from all anchors follows its nearest one.
    """
    weights = to_log_weights(squared_distances(cells, anchors), sigma)
    weights -= log_density.astype(weights.dtype)
    weights -= weights.max(axis=1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=1, keepdims=True, dtype=np.float64).astype(weights.dtype)
    return weights
