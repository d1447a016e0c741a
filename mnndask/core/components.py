"""Principal components of several batches; each batch weighs the same, whatever its number of cells."""

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
        Mean of the batches' means, shape ``(n_genes,)``.
    basis
        Orthonormal, shape ``(n_genes, n_components)``.
    """

    mean: Floats
    basis: Floats

    @classmethod
    def of(
        cls, batches: Sequence[Matrix], n: int, solver: SvdSolver, scale: float, tile: int | None
    ) -> Components:
        """First `n` components of batches, shape ``(n_cells, n_genes)`` each, or fewer if there are fewer.

        Each batch is centred on the mean of all batches' means and divided by the square root of its number
        of cells, as in fastMNN (``batchelor::multiBatchPCA``). With a `tile`, at most that many cells are in
        memory at once. `scale` is the largest norm of a cell.

        A few components of a moderate number of genes are computed from the covariance, which is exact and
        takes half the time, unless Lanczos' solver is asked for. Others of cells in tiles are Lanczos'.
        """
        dtype = batches[0].dtype
        mean = np.mean([mean_cell(X, tile) for X in batches], axis=0).astype(dtype)
        n_cells = sum(map(len, batches))
        if solver.mode != "irlb" and 2 * n <= len(mean) <= min(n_cells, tile or MOST_GENES, MOST_GENES):
            return cls(mean, _of_covariance(batches, mean, n, scale, tile))
        weights = [np.full(len(X), len(X) ** -0.5, dtype) for X in batches]
        cells = CentredRows(Stacked(tuple(batches)), tile, mean, np.concatenate(weights))
        basis, _, _ = cells.leading(solver, n, scale)
        return cls(mean, np.ascontiguousarray(basis))

    def project(self, X: Floats) -> Floats:
        """Coordinates of cells, shape ``(n_cells, n_components)``."""
        out: Floats = X @ self.basis
        out -= self.mean @ self.basis
        return out


def _of_covariance(batches: Sequence[Matrix], mean: Floats, n: int, scale: float, tile: int | None) -> Floats:
    """Leading eigenvectors of the batches' mean covariance around a point, in double precision."""
    n_genes = len(mean)
    total = np.zeros((n_genes, n_genes))
    for X in batches:
        for at in row_blocks(len(X), min(tile or CELLS_AT_ONCE, CELLS_AT_ONCE)):
            cells = (X[at] - mean).astype(np.float64)
            total += cells.T @ cells / len(X)
    values, vectors = eigh(total, subset_by_index=[n_genes - n, n_genes - 1], overwrite_a=True)
    kept = values > n_genes * np.finfo(np.float64).eps * scale**2  # the rest is rounding
    return np.ascontiguousarray(vectors[:, kept][:, ::-1], mean.dtype)
