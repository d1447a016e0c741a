"""Principal components of several batches, each of which weighs the same however many cells it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnndask.kernels.distances import Floats, Matrix, Stacked
from mnndask.kernels.subspace import CentredRows, SvdSolver, mean_cell


@dataclass(frozen=True)
class Components:
    """Leading directions in which cells vary, and the point from which they do.

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
        """Components of batches, shape ``(n_cells, n_genes)`` each; fewer than `n` where there are fewer.

        Every batch is taken around the mean of all batches' means and divided by the root of its number of
        cells, as fastMNN does (``batchelor::multiBatchPCA``). With a `tile`, no more cells than that are in
        memory at once, and the solver is Lanczos'. `scale` is the largest norm of a cell.
        """
        dtype = batches[0].dtype
        mean = np.mean([mean_cell(X, tile) for X in batches], axis=0).astype(dtype)
        weights = [np.full(len(X), len(X) ** -0.5, dtype) for X in batches]
        if tile is None:
            rows = np.concatenate([(X - mean) * w[:, None] for X, w in zip(batches, weights, strict=True)])
            basis, _, _ = solver(rows.T, n, scale)
        else:
            rows = CentredRows(Stacked(tuple(batches)), tile, mean, np.concatenate(weights))
            basis, _, _ = rows.leading(solver, n, scale)
        return cls(mean, np.ascontiguousarray(basis))

    def project(self, X: Floats) -> Floats:
        """Coordinates of cells, shape ``(n_cells, n_components)``."""
        out: Floats = X @ self.basis
        out -= self.mean @ self.basis
        return out
