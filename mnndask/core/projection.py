"""Projection of cells on few dimensions, with the same result whatever block a cell comes in.

A product by BLAS rounds a row by the shape of the block that it is in. Here each row is summed on its own, in
the order of its columns, so that coordinates depend neither on chunks nor on threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask._typing import Rows
from mnndask.core.cosine import SHORTEST
from mnndask.core.kernels.csr_rows import N_DIMS, csr_row_norms, project_rows
from mnndask.core.svd import randomised

POWER_ITERATIONS = 4


def as_csr(X: Any, columns: Rows | slice) -> sparse.csr_matrix:
    """Columns (ascending) of a dense or sparse block as CSR, each row in their order.

    Single and double precision are kept, and canonical CSR is not copied; other types become double.
    """
    part = X if isinstance(columns, slice) else X[:, columns]
    dtype = part.dtype if part.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    if not sparse.issparse(part):
        return sparse.csr_matrix(part, dtype=dtype)
    if not part.has_canonical_format:
        part = part.copy()
        part.sum_duplicates()
    return part.astype(dtype, copy=False)


def csr_lengths(X: sparse.csr_matrix) -> NDArray[np.float64]:
    """Cosine length of each row, as :func:`mnndask.core.cosine.cosine_lengths` has it; shape ``(n,)``."""
    lengths = np.empty(X.shape[0])
    csr_row_norms(X.data, X.indptr, lengths)
    huge = np.flatnonzero(~np.isfinite(lengths))
    if len(huge):
        largest = abs(X[huge]).max(axis=1).toarray().ravel()
        with np.errstate(over="ignore"):
            lengths[huge] = largest * csr_lengths(_divided(X[huge], largest))
    out: NDArray[np.float64] = np.maximum(lengths, SHORTEST)
    return out


def _divided(X: sparse.csr_matrix, lengths: NDArray[np.float64]) -> sparse.csr_matrix:
    return sparse.csr_matrix((X.data / np.repeat(lengths, np.diff(X.indptr)), X.indices, X.indptr), X.shape)


def directions(pilot: sparse.csr_matrix, seed: int, *, normalise: bool) -> NDArray[np.float64]:
    """Leading directions of some cells in gene space, not centred, so that sparse cells stay sparse.

    Call it with one BLAS thread: results then do not depend on the number of cores.

    Parameters
    ----------
    pilot
        Cells, shape ``(n_pilot, n_genes)``.
    seed
        Seed of the randomised decomposition.
    normalise
        Whether to divide cells by their length first.

    Returns
    -------
    Orthonormal columns, shape ``(n_genes, N_DIMS)``; zeros where the cells have fewer dimensions.
    """
    pilot = pilot.astype(np.float64, copy=False)
    cells = _divided(pilot, csr_lengths(pilot)) if normalise else pilot
    found = min(N_DIMS, *cells.shape)
    _, _, Vt = randomised(cells, found, seed, n_iter=POWER_ITERATIONS)
    out = np.zeros((cells.shape[1], N_DIMS))
    out[:, :found] = Vt.T
    return out


def project(X: sparse.csr_matrix, onto: NDArray[np.float64], *, normalise: bool) -> NDArray[np.float64]:
    """Coordinates of cells along ``N_DIMS`` directions, shape ``(n_cells, N_DIMS)``."""
    out = np.zeros((X.shape[0], N_DIMS))
    project_rows(X.data, X.indices, X.indptr, np.ascontiguousarray(onto), out)
    return out / csr_lengths(X)[:, None] if normalise else out
