"""Compiled loops over the rows of sparse matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from mnndask.core.kernels.jit import compiled

N_DIMS = 10  # of the projection in which sketches are drawn


@compiled({"contract"})
def project_rows(data: Any, indices: Any, indptr: Any, onto: Any, out: Any) -> None:  # pragma: no cover
    """Inner products of rows with ``N_DIMS`` directions, added to `out`."""
    for i in range(out.shape[0]):
        for at in range(indptr[i], indptr[i + 1]):
            value, gene = np.float64(data[at]), indices[at]
            for d in range(N_DIMS):  # a number known when this is compiled
                out[i, d] += value * onto[gene, d]


@compiled({"contract"})
def csr_row_norms(data: Any, indptr: Any, out: Any) -> None:  # pragma: no cover
    """Norms of rows, summed in double precision."""
    for i in range(out.size):
        total = 0.0
        for at in range(indptr[i], indptr[i + 1]):
            value = np.float64(data[at])
            total += value * value
        out[i] = np.sqrt(total)
