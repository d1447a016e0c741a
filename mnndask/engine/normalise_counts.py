"""Rows of a file as they are read: counts normalised over all genes, and the genes that all batches share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from mnndask._typing import Block, Rows
from mnndask.engine.chunks import dense_or_csr
from mnndask.errors import InputError


@dataclass(frozen=True)
class PreparedRows:
    """What is done to each block of rows of one file.

    Parameters
    ----------
    label
        Name of the matrix in messages.
    columns
        Columns to keep, in their order; None for all.
    target_sum
        Sum over all genes to which the counts of a cell are scaled before ``log(1 + x)``; None leaves values
        as they are.
    """

    label: str
    columns: Rows | None = None
    target_sum: float | None = None

    def dtype(self, given: np.dtype) -> np.dtype:
        """Type of the results."""
        if self.target_sum is None or given == np.float64:
            return given
        return np.dtype(np.float32)

    def __call__(self, block: Any, first: int) -> Block:
        """Return the rows of a block whose first row has the number `first`.

        Raises
        ------
        InputError
            If there are negative counts.
        """
        X: Any = dense_or_csr(block)
        if self.target_sum is not None:
            X = self._normalised(X, first)
        return X if self.columns is None else self._selected(X)

    def _selected(self, X: Any) -> Any:
        out = X[:, self.columns]
        if sparse.issparse(out):
            out.sort_indices()
        return out

    def _normalised(self, X: Any, first: int) -> Any:
        assert self.target_sum is not None
        self.check(X, first)
        dtype = self.dtype(X.dtype)
        sums = np.asarray(X.sum(axis=1, dtype=np.float64)).ravel()
        factors = self.target_sum / np.where(sums == 0, 1.0, sums)
        if not sparse.issparse(X):
            return np.log1p(X * factors[:, None]).astype(dtype, copy=False)
        values = X.data * np.repeat(factors, np.diff(X.indptr))
        return sparse.csr_matrix((np.log1p(values).astype(dtype), X.indices, X.indptr), shape=X.shape)

    def check(self, X: Any, first: int) -> None:
        """Refuse negative counts."""
        values = X.data if sparse.issparse(X) else X
        if values.dtype.kind in "fi" and values.size and values.min() < 0:
            row = first + int(sparse.csr_matrix(X < 0).nonzero()[0][0])
            what = f"{self.label} has negative values, e.g. in row {row}, so they are no counts."
            remedy = "Name the layer that has counts (layer=...), or leave out counts if there are none."
            raise InputError(what, remedy)
