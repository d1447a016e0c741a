"""Anchor vectors as a product of two thin matrices, where smoothing leaves nothing else of them.

Smoothing weights change slowly over cells, so that they lie near a space of far fewer dimensions than there
are anchors. What anchor vectors are outside of it no cell gets to see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.distances import Floats, Matrix, pieces, row_dots

GENES_AT_ONCE = 2048
TOLERANCE = {4: 1e-4, 8: 1e-9}  # of a cell's vector, by the size of a value in bytes
SHARE = 0.5  # of the cost of whole vectors, above which two matrices are not worth it
TRIALS = 3  # of a rank, about
FLOPS_OF_EIGH = 15  # times the number of anchors cubed: of eigenvectors, in double precision


@dataclass(frozen=True)
class LowRank:
    """A matrix of anchor vectors as ``left @ right``.

    Parameters
    ----------
    left
        Shape ``(n_anchors, rank)``.
    right
        Shape ``(rank, n_genes)``.
    """

    left: Floats
    right: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """Anchors and genes."""
        return len(self.left), self.right.shape[1]


def is_worth_it(n_cells: int, n_sketched: int, shape: tuple[int, int]) -> bool:
    """Whether finding a product takes less time than it saves in correcting so many cells."""
    n_anchors, n_genes = shape
    cost = 2 * n_sketched * n_anchors * (n_anchors + TRIALS * n_genes) + FLOPS_OF_EIGH * n_anchors**3
    return cost < (1 - SHARE) * 2 * n_cells * n_anchors * n_genes


def bytes_needed(n_sketched: int, n_anchors: int) -> int:
    """Memory that finding a product takes."""
    return 8 * n_anchors * (3 * n_sketched + 3 * n_anchors)


def compress(weights: Floats, vectors: Matrix) -> LowRank | None:
    """Find two thin matrices whose product smooths to what `vectors` do; None if they are not thin enough.

    Parameters
    ----------
    weights
        Smoothing weights of sketched cells, shape ``(n_cells, n_anchors)``.
    vectors
        Shape ``(n_anchors, n_genes)``; blocks of genes are read.

    Returns
    -------
    Smoothed over any of these cells they differ by no more than ``TOLERANCE`` of its vector.
    """
    (n_anchors, n_genes), dtype = vectors.shape, np.dtype(vectors.dtype)
    thickest = int(SHARE * n_anchors * n_genes / (n_anchors + n_genes))
    W = weights.astype(np.float64)
    _, basis = np.linalg.eigh(W.T @ W)
    basis = basis[:, ::-1]  # leading ones first
    allowed = TOLERANCE[dtype.itemsize]
    rank = min(32, thickest)
    while rank:
        left = basis[:, :rank]
        right, error = _fit(W, left, vectors)
        if error <= allowed:
            return LowRank(left.astype(dtype), right.astype(dtype))
        rank = min(2 * rank, thickest) if rank < thickest else 0
    return None


def _fit(W: NDArray[np.float64], left: NDArray[np.float64], vectors: Matrix) -> tuple[Floats, float]:
    """Right matrix, and the largest error of a cell's vector, relative to that."""
    n_genes = vectors.shape[1]
    right = np.empty((left.shape[1], n_genes))
    unseen = W - (W @ left) @ left.T
    missed, whole = np.zeros((2, len(W)))
    for genes in pieces(n_genes, GENES_AT_ONCE):
        block = vectors[:, genes].astype(np.float64)
        right[:, genes] = left.T @ block
        error, smoothed = unseen @ block, W @ block
        missed += row_dots(error, error)
        whole += row_dots(smoothed, smoothed)
    return right, float(np.sqrt(np.max(missed / np.where(whole > 0, whole, 1), initial=0)))
