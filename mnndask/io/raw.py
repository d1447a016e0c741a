"""``raw`` of a result: that of the inputs, joined by anndata, in types that both file formats support."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mnndask.io.anndata_compat import quiet_anndata, to_memory
from mnndask.io.annotations import Annotations, detached, storable_annotations
from mnndask.io.changes import Changes
from mnndask.io.elements import LEFT_OUT, storable_element, storable_mapping, storable_table
from mnndask.io.inputs import backed_matrix
from mnndask.io.joined import joined_gene_tables, joined_matrices

Raw = tuple[Any, pd.DataFrame, dict[str, Any]]  # values of all cells, table of genes, varm


def with_raw(adata: AnnData, raw: Raw | None) -> AnnData:
    """Set ``raw`` of an AnnData, if there is one, and return the AnnData."""
    if raw is not None:
        adata.raw = AnnData(raw[0], obs=adata.obs[[]], var=raw[1], varm=raw[2])
    return adata


def raw_of_one(frame: AnnData, label: str, changes: Changes, *, copied: bool) -> Raw | None:
    """Return ``raw`` of one AnnData, lazily if it is backed; None if it has none that can be kept."""
    if frame.raw is None:
        return None
    var = storable_table(to_memory(frame.raw.var), "raw.var", changes, annotates=True)
    X = storable_element(_values(frame, label), "raw", changes)
    varm = storable_mapping(dict(frame.raw.varm), "raw.varm", changes, copied=copied)
    if X is LEFT_OUT:
        return None
    return detached(X, label) if copied else X, var, varm


def storable(adata: AnnData) -> AnnData:
    """Convert an AnnData to types that both file formats support; warn of changes."""
    changes = Changes()
    with quiet_anndata():
        annotations = storable_annotations(Annotations.of(adata), "the data", None, changes, copied=False)
        X = backed_matrix(adata, "X") if adata.isbacked and "X" in adata.file else adata.X
        out = with_raw(annotations.around(X), raw_of_one(adata, "the data", changes, copied=False))
    changes.warn()
    return out


def joined_raw(
    frames: Sequence[AnnData], labels: Sequence[str], changes: Changes, *, dry_run: bool
) -> Raw | None:
    """Join ``raw`` of all batches on their common genes; None if that is impossible.

    If `dry_run`, only note changes.
    """
    lacking = [label for frame, label in zip(frames, labels, strict=True) if frame.raw is None]
    if lacking:
        if len(lacking) < len(frames):
            changes.left_out["raw"] = f"{lacking[0]} has none"
        return None
    tables = [to_memory(frame.raw.var) for frame in frames]
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
        changes.left_out["raw"] = "its gene names are not unique"
        return None
    if len(shared) == 0:
        changes.left_out["raw"] = "batches have no genes of it in common"
        return None
    genes = joined_gene_tables([table.loc[shared] for table in tables], "raw.var", changes)
    var = storable_table(genes, "raw.var", changes, annotates=True)
    if dry_run:
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
