"""Genes that all batches share, and genes used for distances."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from anndata import AnnData

from mnndask._typing import Rows
from mnndask.errors import GenesError, InputError, InputKeyError, InputTypeError, warn
from mnndask.io.opened_inputs import Input

ALIGN = (
    "Select the genes that all batches share, in one order, before correcting. Of files, "
    "mnndask.pp.open_batches does so."
)


def common_genes(sources: list[Input], kind: str, var_index: Sequence[Hashable] | None) -> pd.Index | None:
    """Return the gene names, equal in all batches; `var_index` applies to matrices only, as in scanpy."""
    first, n_genes = sources[0], sources[0].X.shape[1]
    for source in sources[1:]:
        if source.X.shape[1] != n_genes:
            what = f"{source.label} has {source.X.shape[1]} genes, {first.label} has {n_genes}."
            raise GenesError(what, ALIGN)
    if kind != "anndata" and var_index is not None:
        given = flat_names(var_index, "var_index", "Give one name per column.")
        if len(given) != n_genes:
            what = f"var_index has {len(given)} names, the batches have {n_genes} genes."
            raise GenesError(what, "Give one name per column.")
        _check_unique(given, "var_index", "Make them unique: give each column its own name.")
        return given
    named = [(source, names) for source in sources if (names := _gene_names(source)) is not None]
    if not named:
        return None
    first, reference = named[0]
    for source, names in named:
        _check_unique(names, source.label, "Make them unique first, e.g. adata.var_names_make_unique().")
        if names.equals(reference):
            continue
        if set(names) == set(reference):
            what = f"{source.label} has the genes of {first.label} in another order."
            remedy = "Align it first: batch = batch[:, reference.var_names]; files: mnndask.pp.open_batches."
            if isinstance(source.frame, xr.DataArray):
                remedy = "Align it first: batch = batch.reindex_like(reference) along the genes."
            raise GenesError(what, remedy)
        others = [str(g) for g in names if g not in set(reference)][:3]
        what = f"{source.label} has other genes than {first.label}, e.g. {', '.join(others)}."
        raise GenesError(what, ALIGN)
    return reference


def _gene_names(source: Input) -> pd.Index | None:
    match source.frame:
        case AnnData() as adata:
            names = adata.var_names
        case xr.DataArray() as array if array.dims[1] in array.coords:
            names = array.indexes[array.dims[1]]
        case _:
            return None
    out: pd.Index = pd.Index(list(names))
    return out


def _check_unique(names: pd.Index, label: str, remedy: str) -> None:
    if not names.is_unique:
        duplicates = [str(g) for g in names[names.duplicated()].unique()[:3]]
        what = f"{label} has duplicate gene names, e.g. {', '.join(duplicates)}."
        raise GenesError(what, remedy)


def flat_names(given: Sequence[Hashable], label: str, remedy: str) -> pd.Index:
    """Return names as an index; refuse anything but a flat list."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        what = f"{label} is {'one string' if isinstance(given, str | bytes) else repr(given)}."
        raise InputTypeError(what, remedy)
    names = list(given)
    if not all(isinstance(name, Hashable) for name in names):
        what = f"{label} is nested, not a flat list of names."
        raise InputTypeError(what, remedy)
    return pd.Index(names)


def warn_of_unused_selection(sources: Sequence[Input], var_subset: Sequence[Hashable] | None) -> None:
    """Warn if distances use all genes although the inputs mark highly variable ones."""
    frames = [source.frame for source in sources if isinstance(source.frame, AnnData)]
    marked = [frame.var["highly_variable"] for frame in frames if "highly_variable" in frame.var]
    if var_subset is not None or not marked or len(marked) < len(frames):
        return
    if any(column.dtype.kind != "b" for column in marked):
        return
    n_genes = len(marked[0])
    n_marked = int(np.logical_and.reduce([np.asarray(column, bool) for column in marked]).sum())
    if 0 < n_marked < n_genes:
        warn(
            f"Distances use all {n_genes:,} genes, although var['highly_variable'] marks {n_marked:,}.",
            "Use these, which is usual: var_subset=adata.var_names[adata.var['highly_variable']].",
        )


def resolve_subset(genes: pd.Index | None, var_subset: Sequence[Hashable] | None) -> Rows | None:
    """Return the columns of the genes used for distances, ascending; None for all."""
    if var_subset is None:
        return None
    if np.asarray(var_subset).dtype == bool:
        what = "var_subset is a boolean mask."
        raise InputTypeError(what, "Give the names: adata.var_names[mask], or a list of them.")
    wanted = flat_names(var_subset, "var_subset", "Give the names: adata.var_names[mask], or a list of them.")
    if genes is None:
        what = "var_subset was given for matrices whose genes have no names."
        raise InputError(what, "Name the columns: var_index=...")
    if len(wanted) == 0:
        what = "var_subset is empty."
        raise InputError(what, "Name the genes to use for distances, or leave it out to use all.")
    if not wanted.is_unique:
        duplicates = [str(g) for g in wanted[wanted.duplicated()].unique()[:3]]
        what = f"var_subset names genes twice, e.g. {', '.join(duplicates)}."
        raise InputError(what, "Name each once: pandas.unique(var_subset).")
    columns = genes.get_indexer(wanted)
    if (columns < 0).any():
        missing = wanted[columns < 0]
        what = f"var_subset names {len(missing)} unknown gene(s): {', '.join(str(g) for g in missing[:3])}."
        raise InputKeyError(what, "Use names from the batches' genes (var_names, or var_index).")
    return None if len(columns) == len(genes) else np.sort(columns).astype(np.intp)
