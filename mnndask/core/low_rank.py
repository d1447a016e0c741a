"""Anchor vectors as low-rank factors, where smoothing makes that exact enough.

Smoothing weights change slowly from cell to cell, so that they lie near a space of far lower dimensions than
there are anchors. The part of the anchor vectors outside that space reaches no cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import GENES_PER_BLOCK, row_blocks
from mnndask._typing import Floats, Matrix, Rows
from mnndask.core.arrays import row_dots
from mnndask.core.kernels.buffers import products
from mnndask.core.svd import randomised

TOLERANCE = {4: 1e-4, 8: 1e-9}  # of a cell's vector, by the size of a value in bytes
COST_RATIO = 0.5  # to whole vectors, above which factors are not worth it
LEAST_RANK = 128  # the first that is tried; only as much of it is kept as accuracy needs
CUTS = 16  # ranks that are compared
POWER_ITERATIONS = 0  # more take three times as long and are no more accurate
FLOPS_OF_SVD = 2500  # cost of the decomposition for each smoothing weight, in flops of a matrix product
CHECKED = 1000  # evenly spaced cells whose vectors are compared


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

    def expanded(self, left: Floats) -> Floats:
        """Vectors of all genes, from rows in the place of `left`."""
        return products("expanded", left, self.right.T)


def is_worth_it(n_cells: int, n_fitted: int, shape: tuple[int, int]) -> bool:
    """Whether finding factors takes less time than they save in correcting so many cells."""
    n_anchors, n_genes = shape
    cost = 2 * n_anchors * (FLOPS_OF_SVD * n_fitted + 4 * CHECKED * n_genes)
    return cost < (1 - COST_RATIO) * 2 * n_cells * n_anchors * n_genes


def bytes_needed(n_fitted: int, n_anchors: int, itemsize: int) -> int:
    """Memory that finding factors takes, about."""
    return itemsize * n_anchors * (2 * n_fitted + 3 * CHECKED)


def compress(weights: Floats, vectors: Sequence[Matrix], seed: int = 0) -> list[LowRank] | None:
    """Find low-rank factors that, smoothed, give what `vectors` give; None if their rank would be too high.

    Parameters
    ----------
    weights
        Smoothing weights of fitted cells, shape ``(n_cells, n_anchors)``.
    vectors
        Matrices of shape ``(n_anchors, n_genes)``; blocks of genes are read.
    seed
        Seed of the decomposition of the weights.

    Returns
    -------
    Factors of each of `vectors`, all with the same ``left``. At a thousand of the cells, the smoothed vector
    differs from the exact one by at most ``TOLERANCE`` of its length.
    """
    n_anchors, n_genes = weights.shape[1], sum(v.shape[1] for v in vectors)
    highest = int(COST_RATIO * n_anchors * n_genes / (n_anchors + n_genes))
    some, tolerance = weights[:: -(-len(weights) // CHECKED)], TOLERANCE[weights.dtype.itemsize]
    ranks = [LEAST_RANK * 2**i for i in range(12)]
    ranks = [rank for rank in ranks if rank < highest]
    for rank in [*ranks, highest] if highest > 0 else ranks:
        _, _, Wt = randomised(weights, rank, seed, n_iter=POWER_ITERATIONS)
        found = [LowRank(Wt.T, _products(Wt, v)) for v in vectors]
        lower = np.arange(rank, 0, -max(1, rank // CUTS))
        enough = _errors(some, found, vectors, lower) <= tolerance
        if enough[0]:
            kept = lower[enough].min()
            left = np.ascontiguousarray(Wt[:kept].T)
            return [LowRank(left, of_rank.right[:kept].copy()) for of_rank in found]
    return None


def _products(Wt: Floats, vectors: Matrix) -> Floats:
    return np.concatenate(
        [Wt @ vectors[:, genes] for genes in row_blocks(vectors.shape[1], GENES_PER_BLOCK)], axis=1
    )


def _errors(
    weights: Floats, found: Sequence[LowRank], vectors: Sequence[Matrix], ranks: Rows
) -> NDArray[np.float64]:
    """Largest error of a cell's vector, relative to its length, for each of the (descending) ranks."""
    along = weights @ found[0].left
    outside = weights - along @ found[0].left.T
    out = np.zeros(len(ranks))
    for factors, matrix in zip(found, vectors, strict=True):
        missed, total = np.zeros((len(ranks), len(weights))), np.zeros(len(weights))
        for genes in row_blocks(matrix.shape[1], GENES_PER_BLOCK):
            block = matrix[:, genes]
            error, smoothed = outside @ block, weights @ block
            total += row_dots(smoothed, smoothed)
            for own, rank, before in zip(missed, ranks, [len(factors.right), *ranks[:-1]], strict=True):
                error += along[:, rank:before] @ factors.right[rank:before, genes]
                own += row_dots(error, error)
        relative = missed / np.where(total > 0, total, 1)
        out = np.maximum(out, np.sqrt(np.max(relative, axis=1, initial=0)))
    return out
