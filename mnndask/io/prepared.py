"""Files that are prepared for a correction while they are read: genes aligned, counts normalised."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from anndata import AnnData

from mnndask._blocks import CHUNK_BYTES
from mnndask._library_state import exclusive
from mnndask._typing import Rows
from mnndask.engine.chunks import whole_rows
from mnndask.engine.normalise_counts import PreparedRows
from mnndask.errors import InputError
from mnndask.io.anndata_compat import layer_names
from mnndask.io.anndata_store import open_lazily
from mnndask.stores.lazy_matrix import each_row
from mnndask.stores.location import Location

COUNTS = "counts"  # layer with the counts that were in X


@dataclass(frozen=True)
class Prepared:
    """A batch in a file, and what is done to it as it is read.

    Parameters
    ----------
    location, label
        The file, and its name in messages.
    layer
        Layer with the expression; None for ``X``.
    genes, columns
        Names of the genes to keep, and their columns in the file; None for all, in their order.
    target_sum
        Sum to which the counts of a cell are scaled before ``log(1 + x)``; None for values as they are.
    batch_key, batch
        Column of obs that the result has, and the name of the batch there; None leaves the column as it is.
    value
        Value of that column in the file for the cells of the batch; None for all cells.
    table
        Columns of ``var`` that are added.
    """

    location: Location
    label: str
    layer: str | None
    genes: pd.Index
    columns: Rows | None
    target_sum: float | None
    batch_key: str
    batch: str | None
    value: str | None = None
    table: pd.DataFrame | None = None

    @property
    def rows(self) -> PreparedRows:
        """What is done to rows of the expression."""
        slot = "X" if self.layer is None else f"layers/{self.layer}"
        return PreparedRows(f"{slot} of {self.label}", self.columns, self.target_sum)

    @exclusive()
    def opened(self, chunk_bytes: int = CHUNK_BYTES, used: Collection[str] = (), first: int = 0) -> AnnData:
        """Open the file, unprepared, with the cells of the batch only; see :func:`open_lazily`."""
        adata = open_lazily(self.location, self.layer, self.label, chunk_bytes, used, first)
        if self.value is None:
            return adata
        rows = np.flatnonzero(np.asarray(adata.obs[self.batch_key].astype(str)) == self.value)
        run = bool(len(rows)) and rows[-1] - rows[0] + 1 == len(rows)
        return _of_rows(adata, slice(int(rows[0]), int(rows[-1]) + 1) if run else rows)

    def expression(self, adata: AnnData) -> da.Array:
        """Return the expression in the opened file, in chunks of whole rows."""
        X = adata.X if self.layer is None else adata.layers[self.layer]
        if X is None:
            what = f"{self.label} has no X."
            names = ", ".join(layer_names(adata))
            raise InputError(what, f"Name the layer that contains the expression: {names}.")
        return whole_rows(X if isinstance(X, da.Array) else da.from_array(X, chunks=X.shape, asarray=False))

    @exclusive()
    def open(self, chunk_bytes: int = CHUNK_BYTES, used: Collection[str] = (), first: int = 0) -> AnnData:
        """Return an AnnData whose ``X`` is prepared when it is computed."""
        adata = self.opened(chunk_bytes, used, first)
        given, rows = self.expression(adata), self.rows
        layers = {key: self._aligned(adata.layers[key]) for key in layer_names(adata)}
        uns = dict(adata.uns)
        if self.target_sum is not None:
            uns["log1p"] = {"base": None}
            if self.layer is None:
                layers.setdefault(COUNTS, self._aligned(given))
        if self.table is not None:
            uns["hvg"] = {"flavor": "seurat"}
        stage = "read" if self.target_sum is None else "counts"
        obs = adata.obs
        if self.batch is not None:
            obs = obs.assign(**{self.batch_key: pd.Categorical([self.batch] * adata.n_obs)})
        return AnnData(
            each_row(given, rows, len(self.genes), rows.dtype(given.dtype), stage),
            obs=obs,
            var=self._table_of_genes(adata.var),
            layers=layers,
            obsm=dict(adata.obsm),
            obsp=dict(adata.obsp),
            varm={key: self._of_genes(value) for key, value in adata.varm.items()},
            uns=uns,
            raw=None if adata.raw is None else _raw(adata),
        )

    def _aligned(self, X: Any) -> Any:
        if not isinstance(X, da.Array):
            return X if self.columns is None else X[:, self.columns]
        if self.columns is None:
            return X
        return each_row(
            whole_rows(X), PreparedRows(self.label, self.columns), len(self.genes), X.dtype, "read"
        )

    def _of_genes(self, value: Any) -> Any:
        if self.columns is None:
            return value
        return value.iloc[self.columns] if isinstance(value, pd.DataFrame) else value[self.columns]

    def _table_of_genes(self, var: pd.DataFrame) -> pd.DataFrame:
        out: pd.DataFrame = self._of_genes(var).set_axis(self.genes, axis=0)
        if self.table is None:
            return out
        joined: pd.DataFrame = out.drop(columns=[name for name in self.table if name in out]).join(self.table)
        return joined


def _of_rows(adata: AnnData, rows: slice | Rows) -> AnnData:
    """Return some cells of an AnnData, without anything between pairs of cells."""
    return AnnData(
        None if adata.X is None else adata.X[rows],
        obs=adata.obs.iloc[rows],
        var=adata.var,
        layers={key: adata.layers[key][rows] for key in layer_names(adata)},
        obsm={key: X.iloc[rows] if isinstance(X, pd.DataFrame) else X[rows] for key, X in adata.obsm.items()},
        varm=dict(adata.varm),
        uns=adata.uns,
        raw=None if adata.raw is None else _raw(adata, rows),
    )


def _raw(adata: AnnData, rows: slice | Rows = slice(None)) -> AnnData:
    """Return ``raw`` of some cells as an AnnData, of which another can be made."""
    raw = adata.raw
    return AnnData(raw.X[rows], obs=adata.obs.iloc[rows][[]], var=raw.var, varm=dict(raw.varm))
