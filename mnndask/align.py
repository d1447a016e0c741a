"""Lining batches up: genes that all share, genes used for distances, and what names the batches."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from anndata import AnnData
from numpy.typing import NDArray

from mnndask.errors import GenesError, InputError, InputKeyError, InputTypeError
from mnndask.io.anndata_compat import in_memory
from mnndask.kernels.neighbors import Rows
from mnndask.sources import Source


def common_genes(sources: list[Source], kind: str, var_index: Sequence[Hashable] | None) -> pd.Index | None:
    """Names of the genes, the same in every batch; `var_index` speaks for matrices only, as in scanpy."""
    first, n_genes = sources[0], sources[0].X.shape[1]
    for source in sources[1:]:
        if source.X.shape[1] != n_genes:
            what = f"{source.label} has {source.X.shape[1]} genes, {first.label} has {n_genes}."
            raise GenesError(
                what, "Select the genes that all batches share, in one order, before correcting."
            )
    if kind != "anndata" and var_index is not None:
        given = _names(var_index, "var_index", "Give one name per column.")
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
            remedy = "Align it first: batch = batch[:, reference.var_names]"
            if isinstance(source.frame, xr.DataArray):
                remedy = "Align it first: batch = batch.reindex_like(reference) along the genes."
            raise GenesError(what, remedy)
        odd = [str(g) for g in names if g not in set(reference)][:3]
        what = f"{source.label} has other genes than {first.label}, e.g. {', '.join(odd)}."
        raise GenesError(what, "Select the genes that all batches share, in one order, before correcting.")
    return reference


def _gene_names(source: Source) -> pd.Index | None:
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
        double = [str(g) for g in names[names.duplicated()].unique()[:3]]
        what = f"{label} has duplicate gene names, e.g. {', '.join(double)}."
        raise GenesError(what, remedy)


def _names(given: Sequence[Hashable], label: str, remedy: str) -> pd.Index:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        what = f"{label} is {'one string' if isinstance(given, str | bytes) else repr(given)}."
        raise InputTypeError(what, remedy)
    names = list(given)
    if not all(isinstance(name, Hashable) for name in names):
        what = f"{label} is nested, not a flat list of names."
        raise InputTypeError(what, remedy)
    return pd.Index(names)


def resolve_subset(genes: pd.Index | None, var_subset: Sequence[Hashable] | None) -> Rows | None:
    """Columns of the genes used for distances, ascending; None for all."""
    if var_subset is None:
        return None
    if np.asarray(var_subset).dtype == bool:
        what = "var_subset is a boolean mask."
        raise InputTypeError(what, "Give the names: adata.var_names[mask], or a list of them.")
    wanted = _names(var_subset, "var_subset", "Give the names: adata.var_names[mask], or a list of them.")
    if genes is None:
        what = "var_subset was given for matrices whose genes have no names."
        raise InputError(what, "Name the columns: var_index=...")
    if len(wanted) == 0:
        what = "var_subset is empty."
        raise InputError(what, "Name the genes to use for distances, or leave it out to use all.")
    if not wanted.is_unique:
        double = [str(g) for g in wanted[wanted.duplicated()].unique()[:3]]
        what = f"var_subset names genes twice, e.g. {', '.join(double)}."
        raise InputError(what, "Name each once: pandas.unique(var_subset).")
    columns = genes.get_indexer(wanted)
    if (columns < 0).any():
        missing = wanted[columns < 0]
        what = f"var_subset names {len(missing)} unknown gene(s): {', '.join(str(g) for g in missing[:3])}."
        raise InputKeyError(what, "Use names from the batches' genes (var_names, or var_index).")
    return None if len(columns) == len(genes) else np.sort(columns).astype(np.intp)


def _batch_column(source: Source, batch_key: str) -> pd.Series | None:
    if not isinstance(source.frame, AnnData) or batch_key not in source.frame.obs:
        return None
    obs = in_memory(source.frame.obs)
    if list(obs.columns).count(batch_key) > 1:
        what = f"{source.label} has the column {batch_key!r} more than once in obs."
        remedy = "Keep one: adata.obs = adata.obs.loc[:, ~adata.obs.columns.duplicated()]"
        raise InputError(what, remedy)
    column: pd.Series = obs[batch_key]
    if column.dtype == np.float16:  # of which pandas makes no index
        column = column.astype(np.float32)
    if column.isna().any():
        what = f"{source.label} has {int(column.isna().sum())} missing value(s) in obs[{batch_key!r}]."
        raise InputError(what, "Fill them, or drop these cells.")
    if column.dtype == object and any(_nested(value) for value in column):
        what = f"{source.label} holds lists or the like in obs[{batch_key!r}]."
        raise InputTypeError(what, "Make them strings or numbers.")
    if column.nunique() > column.astype(str).nunique():
        what = f"{source.label} has values in obs[{batch_key!r}] that differ but print alike."
        raise InputError(what, "Give each batch its own name, or name another batch_key.")
    return column


def _nested(value: Any) -> bool:
    return isinstance(value, tuple) or not isinstance(value, Hashable)


def name_batches(
    sources: list[Source], batch_key: str, batch_categories: Sequence[Hashable] | None
) -> tuple[list[Hashable], bool]:
    """Categories: those of a constant, distinct `batch_key` column, else as given, else counted.

    Also says whether they are names, rather than counted.
    """
    columns = [_batch_column(source, batch_key) for source in sources]
    own = []
    for source, column in zip(sources, columns, strict=True):
        if column is None:
            continue
        values = column.unique()
        if len(values) > 1:
            what = f"{source.label} has {len(values)} values in obs[{batch_key!r}], so it is not one batch."
            raise InputError(
                what, "Pass the AnnData that holds all batches alone, or name another batch_key."
            )
        own.append(values[0])
    given = _given_categories(batch_categories, len(sources))
    if len(set(map(str, own))) < len(set(own)):
        what = f"obs[{batch_key!r}] has values that differ but print alike: {own}."
        raise InputError(what, "Give each batch its own name, or name another batch_key.")
    if len(own) == len(sources) and len(set(own)) == len(own):
        if given is not None and [str(c) for c in given] != [str(c) for c in own]:
            what = f"batch_categories {given} disagree with obs[{batch_key!r}], which says {own}."
            raise InputError(what, "Leave batch_categories out, or name another batch_key.")
        return own, True
    if own:
        message = (
            f"obs[{batch_key!r}] does not tell the batches apart and is replaced.\n"
            "Name another batch_key to keep it."
        )
        warnings.warn(message, UserWarning, stacklevel=2)
    return (given, True) if given is not None else ([str(i) for i in range(len(sources))], False)


def _given_categories(categories: Sequence[Hashable] | None, n: int) -> list[Hashable] | None:
    if categories is None:
        return None
    given = list(_names(categories, "batch_categories", "Give one per batch, in input order."))
    if pd.isna(np.array(given, dtype=object)).any():
        what = f"batch_categories has a missing name: {given}."
        raise InputError(what, "Give one per batch, in input order.")
    if len(given) != n:
        what = f"batch_categories has {len(given)} name(s) for {n} batches."
        raise InputError(what, "Give one per batch, in input order.")
    if len(set(map(str, given))) != n:
        what = f"batch_categories names a batch twice: {given}."
        raise InputError(what, "Give each batch its own name.")
    return given


def split_batches(
    source: Source, batch_key: str, batch_categories: Sequence[Hashable] | None
) -> tuple[list[Hashable], NDArray[np.intp]]:
    """Batches of one AnnData, in order of appearance or of `batch_categories`."""
    column = _batch_column(source, batch_key)
    if column is None:
        assert isinstance(source.frame, AnnData)
        what = f"The only data set given has no obs[{batch_key!r}] to split it by."
        raise InputKeyError(
            what, f"Name the column: batch_key=... (one of: {', '.join(source.frame.obs) or 'none'})."
        )
    values = list(pd.unique(np.asarray(column)))
    given = _given_categories(batch_categories, len(values))
    if given is not None:
        if {str(v) for v in given} != {str(v) for v in values}:
            what = f"batch_categories {given} disagree with obs[{batch_key!r}], which says {values}."
            raise InputError(what, "Name its values, in the order in which the batches are to count.")
        by_name = {str(v): v for v in values}
        values = [by_name[str(v)] for v in given]
    return values, pd.Index(values).get_indexer(np.asarray(column)).astype(np.intp)
