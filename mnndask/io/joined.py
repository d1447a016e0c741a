"""Annotations of several AnnData, joined like ``anndata.concat`` and converted to storable types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from anndata import AnnData

from mnndask.engine.chunks import stack_cells
from mnndask.io.anndata_compat import concatenated, is_mapping
from mnndask.io.annotations import JOINED_SLOTS, Annotations, computed, storable_in_slot
from mnndask.io.changes import Changes, at
from mnndask.io.checked_graphs import guarded
from mnndask.io.elements import (
    LEFT_OUT,
    is_matrix,
    note_renamed,
    storable_element,
    storable_mapping,
    storable_table,
)
from mnndask.io.keys import storable_keys


def joined_annotations(
    given: Sequence[Annotations],
    labels: Sequence[str],
    names: Sequence[pd.Index],
    batch_key: str,
    changes: Changes,
    *,
    dry_run: bool,
) -> Annotations:
    """Join annotations of several AnnData along cells, and convert them to types that both formats support.

    Parameters
    ----------
    given, labels
        Annotations of the inputs, and their names in messages.
    names
        Names of the cells of each input in the result.
    batch_key
        Column of obs that the result has in any case.
    changes
        Record to which elements that are left out or changed are added.
    dry_run
        Whether only `changes` matter: matrices, which can always be joined, are then left out.
    """
    tables = _joined_tables(given, names, batch_key, changes)
    slots: dict[str, dict[Any, Any]] = {slot: {} for slot in JOINED_SLOTS}
    for slot in JOINED_SLOTS:
        for name, (key, values) in _shared([one.slots[slot] for one in given], slot, labels, changes).items():
            parts = values  # tables are converted after joining
            if not all(isinstance(value, pd.DataFrame) for value in values):
                parts = [storable_in_slot(slot, value, at(slot, key), changes) for value in values]
            if any(part is LEFT_OUT for part in parts):
                continue
            if all(map(is_matrix, parts)):
                if not dry_run:
                    slots[slot][name] = joined_matrices(parts, labels)
                continue
            whole = _joined_element(values, names, at(slot, key), changes)
            if whole is not LEFT_OUT:
                slots[slot][name] = whole
    varm = {key: storable_element(value, at("varm", key), changes) for key, value in tables.varm.items()}
    slots["varm"] = {key: value for key, value in varm.items() if value is not LEFT_OUT}
    obs = storable_table(tables.obs, "obs", changes, annotates=True)
    var = storable_table(tables.var, "var", changes, annotates=True)
    return Annotations(obs, var, slots, {})


def joined_matrices(parts: Sequence[Any], labels: Sequence[str]) -> Any:
    """Stack the matrices of all batches; lazy ones refuse missing chunks."""
    lazy = [isinstance(part, da.Array) for part in parts]
    return stack_cells(
        [guarded(p, label) if d else p for p, label, d in zip(parts, labels, lazy, strict=True)]
    )


def _joined_tables(
    given: Sequence[Annotations], names: Sequence[pd.Index], batch_key: str, changes: Changes
) -> AnnData:
    """Join tables of cells, with all columns, and tables of genes, with the columns on which all agree."""
    of_cells = storable_keys([[batch_key], *(one.obs.columns for one in given)])[1:]
    of_genes = storable_keys([one.var.columns for one in given])
    of_varm = storable_keys([one.slots["varm"] for one in given])
    shells = []
    for i, (one, cells) in enumerate(zip(given, names, strict=True)):
        varm = one.slots["varm"]
        note_renamed(changes, "varm", varm, of_varm[i])
        obs = _with_keys(one.obs, "obs", of_cells[i], changes).set_axis(cells.rename(None), axis=0)
        var = _with_keys(one.var, "var", of_genes[i], changes)
        shells.append(AnnData(obs=obs, var=var, varm=dict(zip(of_varm[i], varm.values(), strict=True))))
    for key in dict.fromkeys(key for shell in shells for key in shell.obs):
        _prepare(shells, key)
    # All columns of obs; var and varm where all agree. As genes are equal, "outer" fills in nothing else.
    try:
        return concatenated(shells)
    except Exception:  # of any type, as types can be incompatible in many ways
        _drop_what_cannot_be_joined(shells, changes)
        return concatenated(shells)


def _drop_what_cannot_be_joined(shells: Sequence[AnnData], changes: Changes) -> None:
    for slot in ("obs", "var", "varm"):
        for key in dict.fromkeys(key for shell in shells for key in getattr(shell, slot)):
            holders = [shell for shell in shells if key in getattr(shell, slot)]
            try:
                concatenated([_only(shell, slot, key) for shell in holders])
            except Exception:
                changes.left_out[at(slot, key)] = "anndata cannot join it"
                for shell in holders:
                    del getattr(shell, slot)[key]


def _only(shell: AnnData, slot: str, key: str) -> AnnData:
    """Return an AnnData with one column, or with one element of ``varm``."""
    if slot == "varm":
        return AnnData(var=shell.var[[]], varm={key: shell.varm[key]})
    return AnnData(**{slot: getattr(shell, slot)[[key]]})


def joined_gene_tables(tables: Sequence[pd.DataFrame], where: str, changes: Changes) -> pd.DataFrame:
    """Return the columns on which all tables of the same genes agree."""
    keys = storable_keys([table.columns for table in tables])
    shells = [
        AnnData(var=_with_keys(table, where, names, changes))
        for table, names in zip(tables, keys, strict=True)
    ]
    out: pd.DataFrame = concatenated(shells).var
    return out


def _with_keys(table: pd.DataFrame, slot: str, keys: Sequence[str], changes: Changes) -> pd.DataFrame:
    note_renamed(changes, slot, table.columns, keys)
    return table.set_axis(pd.Index(keys, dtype=object), axis=1)


def _prepare(shells: Sequence[AnnData], key: str) -> None:
    """Change columns of different types so that anndata joins them by their values.

    The type of a column whose values are all missing must not determine that of the joined column.
    Categories of different types must not be compared: 1 equals True, and dates and numbers cannot be sorted.
    """
    columns = [shell.obs.get(key) for shell in shells]
    dtypes = {column.dtype for column in columns if column is not None}
    if len(dtypes) < 2:
        return
    categorical = [dtype for dtype in dtypes if isinstance(dtype, pd.CategoricalDtype)]
    if len({dtype.categories.dtype for dtype in categorical if len(dtype.categories)}) > 1:
        for shell, column in zip(shells, columns, strict=True):
            if column is not None and column.dtype in categorical:
                shell.obs[key] = column.astype(object)
    empty = [column is None or bool(column.isna().all()) for column in columns]
    for shell, column, drop in zip(shells, columns, empty, strict=True):
        if drop and column is not None and not all(empty):
            del shell.obs[key]


def _joined_element(values: Sequence[Any], names: Sequence[Any], where: str, changes: Changes) -> Any:
    """Join one element of all batches by anndata."""
    shells = [
        AnnData(obs=pd.DataFrame(index=cells), obsm={"one": _renamed(value, cells)})
        for value, cells in zip(values, names, strict=True)
    ]
    try:
        tables = any(isinstance(value, pd.DataFrame) for value in values)
        whole = concatenated(shells, join="outer" if tables else "inner").obsm["one"]
    except Exception:
        changes.left_out[where] = "anndata cannot join it"
        return LEFT_OUT
    return storable_element(whole, where, changes)


def _renamed(value: Any, cells: pd.Index) -> Any:
    return value.set_axis(cells, axis=0) if isinstance(value, pd.DataFrame) else value


def _shared(
    slots: Sequence[dict[Any, Any]], slot: str, labels: Sequence[str], changes: Changes
) -> dict[str, tuple[Any, list[Any]]]:
    """Return elements that all batches have in one width, by new name: the original key, and the values."""
    named = [
        dict(zip(keys, elements.items(), strict=True))
        for keys, elements in zip(storable_keys(slots), slots, strict=True)
    ]
    out: dict[str, tuple[Any, list[Any]]] = {}
    for name in dict.fromkeys(name for elements in named for name in elements):
        key = next(elements[name][0] for elements in named if name in elements)
        lacking = [label for label, elements in zip(labels, named, strict=True) if name not in elements]
        if lacking:
            changes.left_out[at(slot, key)] = f"{lacking[0]} has none"
            continue
        values = [elements[name][1] for elements in named]
        widths = {getattr(v, "shape", ())[1:] for v in values if not hasattr(v, "columns")}
        if len(widths) > 1:
            changes.left_out[at(slot, key)] = "its width differs between batches"
            continue
        note_renamed(changes, slot, [key], [name])
        out[name] = key, values
    return out


def joined_records(given: Sequence[Annotations], changes: Changes) -> dict[str, Any]:
    """Return scanpy's records of how values were computed, if all batches have the same."""
    out: dict[str, Any] = {}
    for name in ("log1p", "hvg"):
        records = [computed(one.uns.get(name)) for one in given]
        plain = is_mapping(records[0]) and all(map(_is_plain, records[0].values()))
        if plain and all(is_mapping(one) and dict(one) == dict(records[0]) for one in records[1:]):
            out[name] = records[0]
    return storable_mapping(out, "uns", changes, copied=True)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | np.number)


def joined_colours(given: Sequence[Annotations], obs: pd.DataFrame, batch_key: str) -> dict[str, Any]:
    """Return colours of categories (scanpy's ``uns["<column>_colors"]``) on which all batches agree.

    Parameters
    ----------
    given
        Annotations of the inputs.
    obs
        Table of cells of the result.
    batch_key
        Column whose name takes precedence over others.
    """
    renamed = storable_keys([[batch_key], *(one.obs.columns for one in given)])[1:]
    keys: list[dict[Any, Any]] = [
        dict(zip(names, one.obs.columns, strict=True)) for one, names in zip(given, renamed, strict=True)
    ]
    out = {}
    for column in obs.select_dtypes("category"):
        known: dict[str, str] = {}
        agree = True
        for one, key_of in zip(given, keys, strict=True):
            if column not in key_of:
                continue
            key = key_of[column]
            for category, colour in _coloured(one.obs[key], computed(one.uns.get(f"{key}_colors"))):
                agree &= known.setdefault(category, colour) == colour
        categories = [str(category) for category in obs[column].cat.categories]
        if agree and categories and all(category in known for category in categories):
            out[f"{column}_colors"] = np.array([known[category] for category in categories], object)
    return out


def _coloured(column: Any, colours: Any) -> list[tuple[str, str]]:
    """Return the categories of a column with their colours; empty unless each category has a colour."""
    dtype = getattr(column, "dtype", None)  # a duplicate column is a table and has no dtype
    named = isinstance(colours, list | tuple) or (isinstance(colours, np.ndarray) and colours.ndim == 1)
    if not isinstance(dtype, pd.CategoricalDtype) or not named or len(colours) != len(dtype.categories):
        return []
    if not all(isinstance(colour, str) for colour in colours):
        return []
    return list(zip(map(str, dtype.categories), map(str, colours), strict=True))
