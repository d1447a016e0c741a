"""One object that came in, as a matrix with annotations: what both opening and aligning work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import dask.array as da
import xarray as xr
from anndata import AnnData

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
    """

    X: Matrix
    label: str
    frame: AnnData | xr.DataArray | None = None

    @property
    def lazy(self) -> bool:
        """Whether its values are yet to be read."""
        return isinstance(self.X, da.Array)


def in_memory(table: Any) -> Any:
    """Table of a lazy AnnData as pandas; anything else as it is."""
    return table.to_memory() if hasattr(table, "to_memory") else table
