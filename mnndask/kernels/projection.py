"""Cells in few dimensions, each computed alike whatever block it comes in.

A product by BLAS rounds a row by the shape of the block that it is in. SciPy's sparse products sum each row
on its own, in the order of its columns, so that coordinates depend neither on chunks nor on threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from mnndask.kernels.cosine import SHORTEST
from mnndask.kernels.neighbors import Rows

POWER_ITERATIONS = 4


def as_csr(X: Any, columns: Rows | slice) -> sparse.csr_matrix:
    """Columns (ascending) of a dense or sparse block as CSR in double precision, each row in their order.

    A sparse block shares its indices with the result, where they are in order.
    """
    part = X if isinstance(columns, slice) else X[:, columns]
    if not sparse.issparse(part):
        return sparse.csr_matrix(part, dtype=np.float64)
    if not part.has_canonical_format:
        part = part.copy()
        part.sum_duplicates()
    return sparse.csr_matrix(
        (part.data.astype(np.float64, copy=False), part.indices, part.indptr), part.shape
    )


def csr_lengths(X: sparse.csr_matrix) -> NDArray[np.float64]:
    """Cosine length of each row, as :func:`mnndask.kernels.cosine.cosine_lengths` has it; shape ``(n,)``."""
    with np.errstate(over="ignore"):
        squares = sparse.csr_matrix((X.data**2, X.indices, X.indptr), X.shape)
        lengths = np.sqrt(squares @ np.ones(X.shape[1]))
    huge = np.flatnonzero(~np.isfinite(lengths))
    if len(huge):
        largest = abs(X[huge]).max(axis=1).toarray().ravel()
        with np.errstate(over="ignore"):
            lengths[huge] = largest * csr_lengths(_divided(X[huge], largest))
    out: NDArray[np.float64] = np.maximum(lengths, SHORTEST)
    return out


def _divided(X: sparse.csr_matrix, lengths: NDArray[np.float64]) -> sparse.csr_matrix:
    return sparse.csr_matrix((X.data / np.repeat(lengths, np.diff(X.indptr)), X.indices, X.indptr), X.shape)


def directions(pilot: sparse.csr_matrix, n: int, seed: int, *, normalise: bool) -> NDArray[np.float64]:
    """Leading directions of some cells in gene space, not centred, so that sparse cells stay sparse.

    Call it with one BLAS thread for equal results on any machine's number of them.

    Parameters
    ----------
    pilot
        Cells, shape ``(n_pilot, n_genes)``.
    n
        Number of directions.
    seed
        Seed of the randomised decomposition.
    normalise
        Whether to divide cells by their length first.

    Returns
    -------
    Orthonormal columns, shape ``(n_genes, n)``; zeros where the cells have fewer dimensions.
    """
    cells = _divided(pilot, csr_lengths(pilot)) if normalise else pilot
    found = min(n, *cells.shape)
    _, _, Vt = randomized_svd(cells, found, n_iter=POWER_ITERATIONS, random_state=seed)
    out = np.zeros((cells.shape[1], n))
    out[:, :found] = Vt.T
    return out


def project(X: sparse.csr_matrix, onto: NDArray[np.float64], *, normalise: bool) -> NDArray[np.float64]:
    """Coordinates of cells along directions, shape ``(n_cells, n_dims)``."""
    out: NDArray[np.float64] = X @ onto
    return out / csr_lengths(X)[:, None] if normalise else out
