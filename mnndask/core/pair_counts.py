"""Numbers of mutual pairs between some cells of one side and of each of several others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask.core.arrays import Points

COPIES = 4  # of the distances: as computed, in order twice, compared


@dataclass(frozen=True)
class Drawn:
    """Cells by which the pairs of a side are counted.

    Parameters
    ----------
    points
        The cells, in *in* space and in memory.
    tolerances
        Squared distances that differ by less are ties, shape ``(n_cells,)``.
    """

    points: Points
    tolerances: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class PairCounts:
    """Pairs between one side and each of several others.

    Parameters
    ----------
    pairs
        Number of pairs with each.
    others_paired
        Number of cells of each of the others that are in a pair.
    n_one
        Number of cells of the one side.
    n_others
        Number of cells of each of the others.
    """

    pairs: NDArray[np.float64]
    others_paired: NDArray[np.float64]
    n_one: int
    n_others: NDArray[np.intp]


def count_pairs(one: Drawn, others: Sequence[Drawn], k: int, n_bytes: int) -> PairCounts:
    """Count pairs of cells that are among each other's k nearest of the other side; of ties, all count.

    Parameters
    ----------
    one, others
        The sides.
    k
        Number of neighbours; at most all.
    n_bytes
        Memory of distances and of copies of cells.
    """
    sizes = np.array([len(own) for own in others], np.intp)
    pairs, paired = np.zeros((2, len(others)))
    most = int(sizes.max(initial=1))
    columns = COPIES * len(one) + one.points.X.shape[1]  # distances, and the cells themselves
    at_once = max(1, n_bytes // (columns * most * one.points.squared.itemsize))
    for block in row_blocks(len(others), at_once):
        near = _mutual(one, others[block], most, k)
        pairs[block] = near.sum(axis=(0, 2))
        paired[block] = near.any(axis=0).sum(axis=1)
    return PairCounts(pairs, paired, len(one), sizes)


def _mutual(one: Drawn, others: Sequence[Drawn], most: int, k: int) -> NDArray[np.bool_]:
    """Whether cells are mutual neighbours, shape ``(n_one, n_others, most)``; False beyond a side's cells."""
    dtype = one.points.squared.dtype
    X = np.zeros((len(others), most, one.points.X.shape[1]), dtype)
    squared, tolerances = np.full((2, len(others), most), np.inf)
    for i, own in enumerate(others):
        X[i, : len(own)], squared[i, : len(own)] = own.points.X, own.points.squared
        tolerances[i, : len(own)] = own.tolerances
    inner = (one.points.X @ X.reshape(-1, X.shape[2]).T).reshape(len(one), len(others), most)
    apart = np.maximum(one.points.squared[:, None, None] + squared.astype(dtype) - 2 * inner, 0)
    of_one = np.partition(apart, min(k, most) - 1, axis=2)[:, :, min(k, most) - 1]
    of_others = np.partition(apart, min(k, len(one)) - 1, axis=0)[min(k, len(one)) - 1]
    near = apart <= of_one[:, :, None] + one.tolerances[:, None, None].astype(dtype)
    near &= apart <= of_others + tolerances.astype(dtype)
    near &= np.isfinite(apart)
    out: NDArray[np.bool_] = near
    return out
