"""Gene-space singular vectors: the biological span and the angle to it (definition, steps 6 and 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import svds
from sklearn.utils.extmath import randomized_svd

from mnndask.kernels.distances import Floats
from mnndask.kernels.variance import unit_rows

SvdMode = Literal["svd", "rsvd", "irlb"]
SVD_MODES: tuple[str, ...] = get_args(SvdMode)
LANCZOS_OPTIONS = ("ncv", "tol", "maxiter", "v0")

OVERSAMPLES = 20
POWER_ITERATIONS = 12


class SolverError(ValueError):
    """Options that the Lanczos solver refuses."""


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
        rounding = 10 * np.sqrt(max(X.shape)) * np.finfo(X.dtype).eps * scale
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
            start = np.random.default_rng(self.seed).uniform(size=min(X.shape)).astype(X.dtype)
            options = {"v0": start, **(self.options or {})}
            try:
                U, s, Wt = svds(X, n, solver="arpack", **options)
            except (ValueError, TypeError) as error:
                raise SolverError(str(error)) from error
            U, s, Wt = U[:, ::-1], s[::-1], Wt[::-1]
        else:
            U, s, Wt = np.linalg.svd(X, full_matrices=False)
        kept = s[:n] > rounding
        return U[:, :n][:, kept], s[:n][kept], Wt[:n][kept]


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
    def of(cls, X: Floats, n_dims: int, solver: SvdSolver, scale: float) -> Span:
        """Span of cells, shape ``(n_cells, n_genes)``, whose norms are up to `scale`."""
        U, s, Wt = solver((X - X.mean(axis=0)).T, n_dims, scale)
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
