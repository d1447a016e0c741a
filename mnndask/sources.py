"""One object that came in, as a matrix with annotations: what both opening and aligning work on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
import xarray as xr
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from mnndask.errors import nonfinite

Matrix: TypeAlias = Any  # NumPy, CSR, or a dask array of either


@dataclass(frozen=True)
class Source:
    """One object that came in.

    Parameters
    ----------
    X
        Expression, shape ``(n_cells, n_genes)``: dense, CSR, or a dask array chunked along cells only.
    label
        How messages call it.
    frame
        The AnnData or DataArray it came in, annotations in memory; None for bare matrices.
    reopen
        Opens the AnnData anew, where it is a file and its annotations are not kept in memory meanwhile.
    """

    X: Matrix
    label: str
    frame: AnnData | xr.DataArray | None = None
    reopen: Callable[[], AnnData] | None = None

    def annotated(self) -> AnnData | xr.DataArray | None:
        """``frame``, read again if need be; of that the first reading has warned."""
        if self.reopen is None:
            return self.frame
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return self.reopen()

    @property
    def lazy(self) -> bool:
        """Whether its values are yet to be read."""
        return isinstance(self.X, da.Array)


def check_finite(X: Matrix, name: str, first_row: int = 0, rows: NDArray[np.integer] | None = None) -> None:
    """Raise if a block of a batch holds NaN or infinity: names the rows, or genes of which all rows do."""
    values = X.data if sparse.issparse(X) else X
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    if sparse.issparse(X):
        coordinates = X.tocoo()
        at = ~np.isfinite(coordinates.data)
        bad = np.unique(coordinates.row[at])
        in_all = np.bincount(coordinates.col[at], minlength=X.shape[1]) == X.shape[0]
    else:
        finite = np.isfinite(values)
        bad, in_all = np.flatnonzero(~finite.all(axis=1)), ~finite.any(axis=0)
    genes = np.flatnonzero(in_all) if X.shape[0] > 1 else ()
    raise nonfinite(name, rows[bad] if rows is not None else bad + first_row, genes)
