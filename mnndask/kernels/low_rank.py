"""Anchor vectors as a product of two thin matrices, where smoothing leaves nothing else of them.

Smoothing weights change slowly over cells, so that they lie near a space of far fewer dimensions than there
are anchors. What anchor vectors are outside of it no cell gets to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from mnndask.kernels.distances import Floats, Matrix, pieces, row_dots
from mnndask.kernels.neighbors import Rows

GENES_AT_ONCE = 2048
TOLERANCE = {4: 1e-4, 8: 1e-9}  # of a cell's vector, by the size of a value in bytes
SHARE = 0.5  # of the cost of whole vectors, above which two matrices are not worth it
LEAST_RANK = 128  # that is tried; of it, no more is kept than it takes
CUTS = 16  # steps in which the rank that is kept is chosen
POWER_ITERATIONS = 0  # more cost three times as much, and err no less
FLOPS_OF_SVD = 2500  # a weight, of those that products of matrices do meanwhile
CHECKED = 1000  # cells, evenly taken, whose vectors are compared


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
    cost = 2 * n_anchors * (FLOPS_OF_SVD * n_sketched + 4 * CHECKED * n_genes)
    return cost < (1 - SHARE) * 2 * n_cells * n_anchors * n_genes


def bytes_needed(n_sketched: int, n_anchors: int, itemsize: int) -> int:
    """Memory that finding a product takes, about."""
    return itemsize * n_anchors * (2 * n_sketched + 3 * CHECKED)


def compress(weights: Floats, vectors: Sequence[Matrix], seed: int = 0) -> list[LowRank] | None:
    """Find thin matrices whose products smooth to what `vectors` do; None if they are not thin enough.

    Parameters
    ----------
    weights
        Smoothing weights of sketched cells, shape ``(n_cells, n_anchors)``.
    vectors
        Matrices of shape ``(n_anchors, n_genes)``; blocks of genes are read.
    seed
        Seed of the decomposition of the weights.

    Returns
    -------
    One for each of `vectors`, all with the same ``left``. Smoothed over a thousand of these cells they differ
    by no more than ``TOLERANCE`` of its vector.
    """
    n_anchors, n_genes = weights.shape[1], sum(v.shape[1] for v in vectors)
    thickest = int(SHARE * n_anchors * n_genes / (n_anchors + n_genes))
    some, tolerance = weights[:: -(-len(weights) // CHECKED)], TOLERANCE[weights.dtype.itemsize]
    ranks = [LEAST_RANK * 2**i for i in range(12)]
    for rank in [*(r for r in ranks if r < thickest), *[thickest] * (thickest > 0)]:
        _, _, Wt = randomized_svd(weights, rank, n_iter=POWER_ITERATIONS, random_state=seed)
        found = [LowRank(Wt.T, _products(Wt, v)) for v in vectors]
        fewer = np.arange(rank, 0, -max(1, rank // CUTS))
        enough = _errors(some, found, vectors, fewer) <= tolerance
        if enough[0]:
            kept = fewer[enough].min()
            left = np.ascontiguousarray(Wt[:kept].T)
            return [LowRank(left, of_rank.right[:kept].copy()) for of_rank in found]
    return None


def _products(Wt: Floats, vectors: Matrix) -> Floats:
    return np.concatenate(
        [Wt @ vectors[:, genes] for genes in pieces(vectors.shape[1], GENES_AT_ONCE)], axis=1
    )


def _errors(
    weights: Floats, found: Sequence[LowRank], vectors: Sequence[Matrix], ranks: Rows
) -> NDArray[np.float64]:
    """Largest error of a cell's vector, relative to it, with so many (ever fewer) of the dimensions found."""
    along = weights @ found[0].left
    unseen = weights - along @ found[0].left.T
    out = np.zeros(len(ranks))
    for thin, whole in zip(found, vectors, strict=True):
        missed, total = np.zeros((len(ranks), len(weights))), np.zeros(len(weights))
        for genes in pieces(whole.shape[1], GENES_AT_ONCE):
            block = whole[:, genes]
            error, smoothed = unseen @ block, weights @ block
            total += row_dots(smoothed, smoothed)
            for own, rank, before in zip(missed, ranks, [len(thin.right), *ranks[:-1]], strict=True):
                error += along[:, rank:before] @ thin.right[rank:before, genes]
                own += row_dots(error, error)
        relative = missed / np.where(total > 0, total, 1)
        out = np.maximum(out, np.sqrt(np.max(relative, axis=1, initial=0)))
    return out
