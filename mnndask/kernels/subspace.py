"""Gene-space singular vectors: the biological span and the angle to it (definition, steps 6 and 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, svds
from sklearn.utils.extmath import randomized_svd

from mnndask.kernels.distances import Floats, Matrix, pieces
from mnndask.kernels.variance import unit_rows

SvdMode = Literal["svd", "rsvd", "irlb"]
SVD_MODES: tuple[str, ...] = get_args(SvdMode)
LANCZOS_OPTIONS = ("ncv", "tol", "maxiter", "v0")

OVERSAMPLES = 20
POWER_ITERATIONS = 12


class SolverError(ValueError):
    """The Lanczos solver refuses its options, or does not converge with them."""


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
        """First `n` singular triplets of `X`, fewer where the rest is rounding of data of that scale."""
        n = min(n, *X.shape)
        rounding = _rounding(X, scale)
        if n == 0 or np.linalg.norm(X) <= rounding:
            U, s, Wt = (
                np.zeros((X.shape[0], 0), X.dtype),
                np.zeros(0, X.dtype),
                np.zeros((0, X.shape[1]), X.dtype),
            )
        elif self.mode == "rsvd":
            U, s, Wt = randomized_svd(
                X, n, n_oversamples=OVERSAMPLES, n_iter=POWER_ITERATIONS, random_state=self.seed
            )
        elif self.mode == "irlb" and n < min(X.shape):
            return self.lanczos(X, n, scale)
        else:
            U, s, Wt = np.linalg.svd(X, full_matrices=False)
        kept = s[:n] > rounding
        return U[:, :n][:, kept], s[:n][kept], Wt[:n][kept]

    def lanczos(self, X: Floats | LinearOperator, n: int, scale: float) -> tuple[Floats, Floats, Floats]:
        """The same by implicitly restarted Lanczos, for fewer triplets than there are."""
        start = np.random.default_rng(self.seed).uniform(size=min(X.shape)).astype(X.dtype)
        options = {"v0": start, **(self.options or {})}
        try:
            U, s, Wt = svds(X, n, solver="arpack", **options)
        except (ValueError, TypeError, ArpackError) as error:
            raise SolverError(str(error)) from error
        kept = s[::-1] > _rounding(X, scale)
        return U[:, ::-1][:, kept], s[::-1][kept], Wt[::-1][kept]


def _rounding(X: Floats | LinearOperator, scale: float) -> float:
    """Singular values up to this are rounding of data of that scale."""
    return float(10 * np.sqrt(max(X.shape)) * np.finfo(X.dtype).eps * scale)


class CentredRows(LinearOperator):
    """Genes × cells, each gene around a mean over the cells, of which a tile is in memory at once.

    Parameters
    ----------
    X
        Cells × genes.
    tile
        Cells to have in memory.
    mean
        Of each gene; None for that over the cells.
    weights
        What each cell's difference to the mean is multiplied by; None for 1.
    """

    def __init__(
        self, X: Matrix, tile: int, mean: Floats | None = None, weights: Floats | None = None
    ) -> None:
        super().__init__(np.dtype(X.dtype), X.shape[::-1])
        self.X, self.blocks = X, list(pieces(X.shape[0], tile))
        self.mean = mean_cell(X, tile).astype(self.dtype) if mean is None else mean
        self.weights = np.ones(X.shape[0], self.dtype) if weights is None else weights

    def leading(self, solver: SvdSolver, n: int, scale: float) -> tuple[Floats, Floats, Floats]:
        """First `n` singular triplets, fewer than there are, of data of that scale."""
        norm = np.sqrt(sum(np.linalg.norm(self._block(at)) ** 2 for at in self.blocks))
        if norm > _rounding(self, scale):
            return solver.lanczos(self, n, scale)
        n_genes, n_cells = self.shape
        return np.zeros((n_genes, 0), self.dtype), np.zeros(0, self.dtype), np.zeros((0, n_cells), self.dtype)

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
    """Mean over cells, of which a tile is in memory at once."""
    total = np.zeros(X.shape[1])
    for at in pieces(X.shape[0], tile):
        total += X[at].sum(axis=0, dtype=np.float64)
    out: NDArray[np.float64] = total / X.shape[0]
    return out


@dataclass(frozen=True)
class Span:
    """Directions in gene space along which paired cells vary.

    Parameters
    ----------
    basis
        Orthonormal on the genes of the decomposition, shape ``(n_genes, n_dims)``.
    cell_loadings
        Takes centred cells × other genes to the other genes' loadings, shape ``(n_paired, n_dims)``.
    """

    basis: Floats
    cell_loadings: Floats

    @classmethod
    def of(cls, X: Matrix, n_dims: int, solver: SvdSolver, scale: float, tile: int | None = None) -> Span:
        """Span of cells, shape ``(n_cells, n_genes)``, whose norms are up to `scale`.

        With a `tile`, no more cells than that are in memory at once, and the solver is Lanczos' whatever was
        asked for: it needs nothing but products with vectors.
        """
        few = min(X.shape) <= n_dims
        if tile is None or few:
            cells = X[: X.shape[0]]
            U, s, Wt = solver((cells - cells.mean(axis=0)).T, n_dims, scale)
        else:
            U, s, Wt = CentredRows(X, tile).leading(solver, n_dims, scale)
        return cls(U, Wt.T / s)

    def loadings(self, X_rest: Floats) -> Floats:
        """Loadings of genes outside the decomposition from the same cells, shape ``(n_rest, n_dims)``."""
        out: Floats = (X_rest - X_rest.mean(axis=0)).T @ self.cell_loadings
        return out


def angles_to_span(vectors: Floats, basis: Floats) -> NDArray[np.float64]:
    """Angle of each vector to the span of an orthonormal basis, in degrees; NaN for a vector of no length."""
    directions, lengths = unit_rows(vectors)
    inside = directions @ basis
    outside = np.linalg.norm(directions - inside @ basis.T, axis=1)
    degrees = np.degrees(np.arctan2(outside, np.linalg.norm(inside, axis=1)))
    return np.where(lengths > 0, degrees, np.nan).astype(np.float64)
