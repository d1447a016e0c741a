"""Leading singular vectors: exact, randomised, or by Lanczos' method, also of cells in tiles."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, svds
from sklearn.utils import extmath

from mnndask._blocks import row_blocks
from mnndask._library_state import exclusive
from mnndask._typing import Floats, Matrix

LANCZOS_OPTIONS = ("ncv", "tol", "maxiter", "v0")
OVERSAMPLES = 20
POWER_ITERATIONS = 12


class SolverError(ValueError):
    """The Lanczos solver rejects its options, or does not converge with them."""


@dataclass(frozen=True)
class SvdSolver:
    """How leading singular vectors are found.

    Parameters
    ----------
    mode
        ``"svd"`` exact (LAPACK), ``"rsvd"`` randomised (scikit-learn), ``"irlb"`` implicitly restarted
        Lanczos (ARPACK through SciPy).
    seed
        Seed of the two iterative modes.
    options
        Options of the Lanczos solver.
    """

    mode: str = "rsvd"
    seed: int = 0
    options: Mapping[str, Any] | None = None

    def __call__(self, X: Floats, n: int, scale: float) -> tuple[Floats, Floats, Floats]:
        """First `n` singular triplets of `X`; fewer, if the rest is rounding of data of that scale."""
        n = min(n, *X.shape)
        rounding = _rounding(X, scale)
        if n == 0 or np.linalg.norm(X) <= rounding:
            U, s, Wt = (
                np.zeros((X.shape[0], 0), X.dtype),
                np.zeros(0, X.dtype),
                np.zeros((0, X.shape[1]), X.dtype),
            )
        elif self.mode == "rsvd":
            U, s, Wt = randomised(X, n, self.seed, n_oversamples=OVERSAMPLES, n_iter=POWER_ITERATIONS)
        elif self.mode == "irlb" and n < min(X.shape):
            return self.lanczos(X, n, rounding)
        else:
            U, s, Wt = np.linalg.svd(X, full_matrices=False)
        kept = s[:n] > rounding
        return U[:, :n][:, kept], s[:n][kept], Wt[:n][kept]

    def lanczos(self, X: Floats | LinearOperator, n: int, rounding: float) -> tuple[Floats, Floats, Floats]:
        """The same by implicitly restarted Lanczos, for fewer triplets than there are."""
        start = np.random.default_rng(self.seed).uniform(size=min(X.shape)).astype(X.dtype)
        options = {"v0": start, **(self.options or {})}
        try:
            U, s, Wt = svds(X, n, solver="arpack", **options)
        except (ValueError, TypeError, ArpackError) as error:
            raise SolverError(str(error)) from error
        kept = s[::-1] > rounding
        return U[:, ::-1][:, kept], s[::-1][kept], Wt[::-1][kept]


def randomised(X: Matrix, n: int, seed: int, **options: int) -> tuple[Floats, Floats, Floats]:
    """Leading singular triplets by scikit-learn's randomised solver."""
    unchecked = getattr(extmath, "_randomized_svd", None)  # the checks change filters of warnings
    with nullcontext() if unchecked else exclusive():
        U, s, Wt = (unchecked or extmath.randomized_svd)(X, n, random_state=seed, **options)
    return U, s, Wt


def _rounding(X: Matrix, scale: float) -> float:
    """Singular values up to this are rounding of data of that scale."""
    return float(10 * np.sqrt(max(X.shape)) * np.finfo(X.dtype).eps * scale)


class CentredRows(LinearOperator):
    """Genes × cells, each gene centred; its products with vectors are in double precision.

    Parameters
    ----------
    X
        Cells × genes.
    tile
        Number of cells in memory at once; None for all.
    mean
        Value of each gene that is subtracted; None for its mean over the cells.
    weights
        Factor of each centred cell; None for 1.
    """

    def __init__(
        self, X: Matrix, tile: int | None, mean: Floats | None = None, weights: Floats | None = None
    ) -> None:
        super().__init__(np.dtype(np.float64), X.shape[::-1])
        self.X, self.blocks = X, row_blocks(X.shape[0], tile)
        self.mean = mean_cell(X, tile).astype(X.dtype) if mean is None else mean
        self.weights = np.ones(X.shape[0], X.dtype) if weights is None else weights

    def leading(self, solver: SvdSolver, n: int, scale: float) -> tuple[Floats, Floats, Floats]:
        """First `n` singular triplets; fewer, if the rest is rounding of data of that scale.

        Cells in tiles are decomposed by Lanczos' method: it only needs products with vectors, which are sums
        over tiles.
        """
        if len(self.blocks) == 1 or min(self.shape) <= n:
            return solver(self._block(slice(0, self.shape[1])).T, n, scale)
        n_genes, n_cells = self.shape
        found: tuple[Floats, ...] = np.zeros((n_genes, 0)), np.zeros(0), np.zeros((0, n_cells))
        rounding = _rounding(self.X, scale)
        if np.sqrt(sum(np.linalg.norm(self._block(at)) ** 2 for at in self.blocks)) > rounding:
            found = solver.lanczos(self, n, rounding)
        U, s, Wt = (part.astype(self.X.dtype) for part in found)
        return U, s, Wt

    def _block(self, at: slice) -> Floats:
        out: Floats = (self.X[at] - self.mean) * self.weights[at, None]
        return out

    def _matvec(self, of_cells: Floats) -> Floats:
        v = of_cells.ravel()
        out = np.zeros(self.shape[0], self.dtype)
        for at in self.blocks:
            out += self._block(at).T @ v[at]
        return out

    def _rmatvec(self, of_genes: Floats) -> Floats:
        v = of_genes.ravel()
        return np.concatenate([self._block(at) @ v for at in self.blocks])


def mean_cell(X: Matrix, tile: int | None) -> NDArray[np.float64]:
    """Mean over cells; a tile of them is in memory at once."""
    total = np.zeros(X.shape[1])
    for at in row_blocks(X.shape[0], tile):
        total += X[at].sum(axis=0, dtype=np.float64)
    out: NDArray[np.float64] = total / X.shape[0]
    return out
