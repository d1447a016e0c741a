"""Principal components of several batches: each batch weighs the same, or each cell does.

If batches weigh the same, the components fit the noise of a small batch, so that its cells spread more in
them than those of a large batch of the same kind. Refined corrections would take that for a batch effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from mnndask._blocks import row_blocks
from mnndask._typing import Floats, Matrix
from mnndask.core.arrays import Stacked
from mnndask.core.svd import CentredRows, SvdSolver, mean_cell

MOST_GENES = 4000  # of a covariance matrix
CELLS_AT_ONCE = 2048


@dataclass(frozen=True)
class Components:
    """Leading directions in which cells vary, and their common mean.

    Parameters
    ----------
    mean
        Mean of the batches' means, or of the cells, shape ``(n_genes,)``.
    basis
        Orthonormal, shape ``(n_genes, n_components)``.
    """

    mean: Floats
    basis: Floats

    @classmethod
    def of(
        cls,
        batches: Sequence[Matrix],
        n: int,
        solver: SvdSolver,
        scale: float,
        tile: int | None,
        *,
        pooled: bool = False,
    ) -> Components:
        """First `n` components of batches, shape ``(n_cells, n_genes)`` each, or fewer if there are fewer.

        Each batch is centred on the mean of all batches' means and divided by the square root of its number
        of cells, as in fastMNN (``batchelor::multiBatchPCA``). If they are `pooled`, all cells are centred on
        their mean and weigh the same. With a `tile`, at most that many cells are in memory at once. `scale`
        is the largest norm of a cell.

        A few components of a moderate number of genes are computed from the covariance, which is exact and
        takes half the time, unless Lanczos' solver is asked for. Others of cells in tiles are Lanczos'.
        """
        dtype = batches[0].dtype
        sizes = [len(X) for X in batches]
        n_cells = sum(sizes)
        means = [mean_cell(X, tile) for X in batches]
        mean = np.average(means, axis=0, weights=sizes) if pooled else np.mean(means, axis=0)
        mean = mean.astype(dtype)
        divisors = [n_cells] * len(sizes) if pooled else sizes
        if solver.mode != "irlb" and 2 * n <= len(mean) <= min(n_cells, tile or MOST_GENES, MOST_GENES):
            return cls(mean, _of_covariance(batches, divisors, mean, n, scale, tile))
        weights = [np.full(len(X), by**-0.5, dtype) for X, by in zip(batches, divisors, strict=True)]
        cells = CentredRows(Stacked(tuple(batches)), tile, mean, np.concatenate(weights))
        basis, _, _ = cells.leading(solver, n, scale)
        return cls(mean, np.ascontiguousarray(basis))

    def project(self, X: Floats) -> Floats:
        """Coordinates of cells, shape ``(n_cells, n_components)``."""
        out: Floats = X @ self.basis
        out -= self.mean @ self.basis
        return out


def _of_covariance(
    batches: Sequence[Matrix], divisors: Sequence[int], mean: Floats, n: int, scale: float, tile: int | None
) -> Floats:
    """Leading eigenvectors of the sum of the batches' scatter around a point, each divided by a number.

    In double precision.
    """
    n_genes = len(mean)
    total = np.zeros((n_genes, n_genes))
    for X, by in zip(batches, divisors, strict=True):
        for at in row_blocks(len(X), min(tile or CELLS_AT_ONCE, CELLS_AT_ONCE)):
            cells = (X[at] - mean).astype(np.float64)
            total += cells.T @ cells / by
    values, vectors = eigh(total, subset_by_index=[n_genes - n, n_genes - 1], overwrite_a=True)
    kept = values > n_genes * np.finfo(np.float64).eps * scale**2  # the rest is rounding
    return np.ascontiguousarray(vectors[:, kept][:, ::-1], mean.dtype)
