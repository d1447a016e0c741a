"""``raw`` of a result: the inputs' own, joined as anndata joins it, and as both file formats hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mnndask.inputs import backed_matrix
from mnndask.io.anndata_compat import as_we_say_it, in_memory
from mnndask.io.annotations import Annotations, own, storable_annotations
from mnndask.io.changes import Changes
from mnndask.io.elements import LEFT_OUT, storable_element, storable_mapping, storable_table
from mnndask.io.joined import joined_matrices, joined_tables

Raw = tuple[Any, pd.DataFrame, dict[str, Any]]  # values of all cells, their genes, and what varm has of these


def with_raw(adata: AnnData, raw: Raw | None) -> AnnData:
    """The AnnData, given values as its ``raw``."""
    if raw is not None:
        adata.raw = AnnData(raw[0], obs=adata.obs[[]], var=raw[1], varm=raw[2])
    return adata


def raw_of_one(frame: AnnData, label: str, changes: Changes, *, copied: bool) -> Raw | None:
    """``raw`` of one AnnData, left in its file where it is backed by one; None if there is none to keep."""
    if frame.raw is None:
        return None
    var = storable_table(in_memory(frame.raw.var), "raw.var", changes, annotates=True)
    X = storable_element(_values(frame, label), "raw", changes)
    varm = storable_mapping(dict(frame.raw.varm), "raw.varm", changes, copied=copied)
    if X is LEFT_OUT:
        return None
    return own(X, label) if copied else X, var, varm


def storable(adata: AnnData) -> AnnData:
    """An AnnData as files hold it; warns of what they cannot hold as it is."""
    changes = Changes()
    with as_we_say_it():
        made = storable_annotations(Annotations.of(adata), "the data", None, changes, copied=False)
        out = with_raw(made.around(adata.X), raw_of_one(adata, "the data", changes, copied=False))
    changes.warn()
    return out


def joined_raw(
    frames: Sequence[AnnData], labels: Sequence[str], changes: Changes, *, tried: bool
) -> Raw | None:
    """``raw`` of all batches, of the genes that all have; None if it cannot be joined.

    If `tried`, only what becomes of it is noted.
    """
    lacking = [label for frame, label in zip(frames, labels, strict=True) if frame.raw is None]
    if lacking:
        if len(lacking) < len(frames):
            changes.left_out["raw"] = f"{lacking[0]} has none"
        return None
    tables = [in_memory(frame.raw.var) for frame in frames]
    matrices = [
        storable_element(_values(frame, label), "raw", changes)
        for frame, label in zip(frames, labels, strict=True)
    ]
    if any(X is LEFT_OUT for X in matrices):
        return None
    shared = tables[0].index
    for table in tables[1:]:
        shared = shared[shared.isin(table.index)]
    if not all(table.index.is_unique for table in tables):
        changes.left_out["raw"] = "some of its genes have the same name"
        return None
    if len(shared) == 0:
        changes.left_out["raw"] = "batches share none of its genes"
        return None
    genes = joined_tables([table.loc[shared] for table in tables], "raw.var", changes)
    var = storable_table(genes, "raw.var", changes, annotates=True)
    if tried:
        return None
    columns = [table.index.get_indexer(shared) for table in tables]
    parts = [_columns(X, genes) for X, genes in zip(matrices, columns, strict=True)]
    return joined_matrices(parts, labels), var, {}


def _values(frame: AnnData, label: str) -> Any:
    if not frame.isbacked:
        return frame.raw.X
    return backed_matrix(frame, "raw/X", label)


def _columns(X: Any, genes: np.ndarray) -> Any:
    return X if np.array_equal(genes, np.arange(X.shape[1])) else X[:, genes]
