"""Annotations of a result: those of its inputs, joined, and such as both file formats hold."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from anndata import AnnData

from mnndask.guard import guarded
from mnndask.io.anndata_compat import concatenated, in_memory, layer_names
from mnndask.io.changes import Changes, at
from mnndask.io.elements import (
    LEFT_OUT,
    is_matrix,
    note_renamed,
    storable_element,
    storable_mapping,
    storable_table,
)
from mnndask.io.keys import storable_keys
from mnndask.lazy import stack_cells

OF_CELLS = ("layers", "obsm")  # slots that batches can share
OF_ONE = ("obsp", "varp")  # slots that hold for the cells of one AnnData


@dataclass(frozen=True)
class Annotations:
    """Annotations of one AnnData, or of several that are joined: all but ``X`` and ``raw``.

    Parameters
    ----------
    obs, var
        Tables of cells and genes, in memory.
    slots
        Elements by slot and key; matrices may be lazy.
    uns
        Unstructured annotations.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    slots: dict[str, dict[Any, Any]]
    uns: Mapping[Any, Any]

    @classmethod
    def of(cls, adata: AnnData) -> Annotations:
        """Those of an AnnData in memory, backed or lazy, as they are; reads tables, and copies nothing."""
        slots = {"layers": {name: adata.layers[name] for name in layer_names(adata)}}
        slots |= {slot: dict(getattr(adata, slot)) for slot in ("obsm", "varm", *OF_ONE)}
        in_slots = {
            slot: {key: in_memory(value) for key, value in held.items()} for slot, held in slots.items()
        }
        return cls(in_memory(adata.obs), in_memory(adata.var), in_slots, adata.uns)

    def around(self, X: Any) -> AnnData:
        """An AnnData of these annotations."""
        return AnnData(X, obs=self.obs, var=self.var, uns=self.uns, **self.slots)


def storable_annotations(
    given: Annotations, label: str, batch_key: str, changes: Changes, *, copied: bool
) -> Annotations:
    """Annotations of one AnnData as files hold them.

    Parameters
    ----------
    given
        Annotations as they came.
    label
        How messages call what they came in.
    batch_key
        Column of obs that the result has in any case.
    changes
        Where to note what is left out or changed.
    copied
        Whether arrays have to be copies of those given.
    """
    slots: dict[str, dict[Any, Any]] = {}
    for slot, held in given.slots.items():
        names = storable_keys([held])[0]
        note_renamed(changes, slot, held, names)
        slots[slot] = {}
        for (key, value), name in zip(held.items(), names, strict=True):
            kept = _in_slot(slot, value, at(slot, key), changes)
            if kept is not LEFT_OUT:
                slots[slot][name] = own(kept, label) if copied and kept is value else kept
    return Annotations(
        storable_table(given.obs, "obs", changes, annotates=True, first=[batch_key]),
        storable_table(given.var, "var", changes, annotates=True),
        slots,
        storable_mapping(computed(given.uns), "uns", changes),
    )


def _in_slot(slot: str, value: Any, where: str, changes: Changes) -> Any:
    """An element as files hold it in a slot: layers have two dimensions."""
    if slot == "layers" and len(getattr(value, "shape", ())) != 2:
        changes.left_out[where] = "a layer has two dimensions"
        return LEFT_OUT
    return storable_element(value, where, changes)


def computed(value: Any) -> Any:
    """``uns`` in memory, where even lazy AnnData may hold what no file takes back."""
    if isinstance(value, Mapping) and not hasattr(value, "to_memory"):  # lazy tables are mappings, too
        return {key: computed(part) for key, part in value.items()}
    return value.compute() if isinstance(value, da.Array) else in_memory(value)


def own(value: Any, label: str) -> Any:
    """A copy that is ours to change; of lazy arrays, which nobody changes, one that reads no lost chunks."""
    if isinstance(value, da.Array):
        return guarded(value, label)
    return value.copy() if hasattr(value, "copy") else value


def joined_annotations(
    given: Sequence[Annotations],
    labels: Sequence[str],
    names: Sequence[pd.Index],
    batch_key: str,
    changes: Changes,
    *,
    tried: bool,
) -> Annotations:
    """Annotations of several AnnData, one after the other: as ``anndata.concat`` joins them, and files hold.

    Parameters
    ----------
    given, labels
        Annotations as they came, and how messages call what they came in.
    names
        Names of the cells of each in the result.
    batch_key
        Column of obs that the result has in any case.
    changes
        Where to note what is left out or changed.
    tried
        Whether this is only to see what becomes of them: matrices are left out, as they can be joined.
    """
    tables = _joined_tables(given, names, batch_key, changes)
    slots: dict[str, dict[Any, Any]] = {slot: {} for slot in OF_CELLS}
    for slot in OF_CELLS:
        for name, (key, values) in _shared([one.slots[slot] for one in given], slot, changes).items():
            parts = [_in_slot(slot, value, at(slot, key), changes) for value in values]
            if any(part is LEFT_OUT for part in parts):
                continue
            if all(map(is_matrix, parts)):
                if not tried:
                    slots[slot][name] = joined_matrices(parts, labels)
                continue
            whole = _joined_element(values, names, at(slot, key), changes)
            if whole is not LEFT_OUT:
                slots[slot][name] = whole
    varm = {key: storable_element(value, at("varm", key), changes) for key, value in tables.varm.items()}
    slots["varm"] = {key: value for key, value in varm.items() if value is not LEFT_OUT}
    obs = storable_table(tables.obs, "obs", changes, annotates=True)
    var = storable_table(tables.var, "var", changes, annotates=True)
    return Annotations(obs, var, slots, _colours(given, obs))


def joined_matrices(parts: Sequence[Any], labels: Sequence[str]) -> Any:
    """Matrices of all batches stacked; lazy ones read no lost chunks."""
    lazy = [isinstance(part, da.Array) for part in parts]
    return stack_cells([guarded(p, at) if d else p for p, at, d in zip(parts, labels, lazy, strict=True)])


def _joined_tables(
    given: Sequence[Annotations], names: Sequence[pd.Index], batch_key: str, changes: Changes
) -> AnnData:
    """Tables of cells with all columns, and of genes with those on which all agree."""
    of_cells = storable_keys([[batch_key], *(one.obs.columns for one in given)])[1:]
    of_genes = storable_keys([one.var.columns for one in given])
    of_varm = storable_keys([one.slots["varm"] for one in given])
    shells = []
    for i, (one, cells) in enumerate(zip(given, names, strict=True)):
        held = one.slots["varm"]
        note_renamed(changes, "varm", held, of_varm[i])
        obs = _with_keys(one.obs, "obs", of_cells[i], changes).set_axis(cells.rename(None), axis=0)
        var = _with_keys(one.var, "var", of_genes[i], changes)
        shells.append(AnnData(obs=obs, var=var, varm=dict(zip(of_varm[i], held.values(), strict=True))))
    for key in dict.fromkeys(key for shell in shells for key in shell.obs):
        _prepare(shells, key)
    for slot in ("obs", "var", "varm"):
        for key in dict.fromkeys(key for shell in shells for key in getattr(shell, slot)):
            holders = [shell for shell in shells if key in getattr(shell, slot)]
            if not _can_be_joined(holders, slot, key):
                changes.left_out[at(slot, key)] = "anndata cannot join it"
                for shell in holders:
                    del getattr(shell, slot)[key]
    # obs of all columns; var and varm where all agree. As genes are the same, "outer" fills nothing else.
    return concatenated(shells)


def _with_keys(table: pd.DataFrame, slot: str, keys: Sequence[str], changes: Changes) -> pd.DataFrame:
    note_renamed(changes, slot, table.columns, keys)
    return table.set_axis(pd.Index(keys, dtype=object), axis=1)


def _prepare(shells: Sequence[AnnData], key: str) -> None:
    """Make columns of different types such that anndata joins them by their values.

    Where all of a column is missing, its type must not decide that of the joined one. Categories of different
    types are not to be compared: 1 would be taken for True, and dates cannot be sorted among numbers.
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


def _can_be_joined(holders: Sequence[AnnData], slot: str, key: Any) -> bool:
    """Whether anndata joins an element of several AnnData; columns of a plain type always are."""
    values = [getattr(holder, slot)[key] for holder in holders]
    dtypes = {getattr(value, "dtype", None) for value in values}
    if len(dtypes) == 1 and None not in dtypes and len({type(value) for value in values}) == 1:
        return True
    alone = []
    for holder in holders:
        only = {slot: getattr(holder, slot)[[key]] if slot != "varm" else {key: holder.varm[key]}}
        rest = {"var": holder.var[[]]} if slot != "var" else {}
        alone.append(AnnData(**only, **rest))
    try:
        concatenated(alone)
    except Exception:  # of whatever kind: there are many ways in which types do not go together
        return False
    return True


def _joined_element(values: Sequence[Any], names: Sequence[Any], where: str, changes: Changes) -> Any:
    """One element of all batches, as anndata joins it."""
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


def _shared(held: Sequence[dict[Any, Any]], slot: str, changes: Changes) -> dict[str, tuple[Any, list[Any]]]:
    """Elements that all batches hold in one width, by new name: the key that they came with, and values."""
    named = [
        dict(zip(keys, elements.items(), strict=True))
        for keys, elements in zip(storable_keys(held), held, strict=True)
    ]
    out: dict[str, tuple[Any, list[Any]]] = {}
    for name in dict.fromkeys(name for elements in named for name in elements):
        key = next(elements[name][0] for elements in named if name in elements)
        lacking = [i for i, elements in enumerate(named) if name not in elements]
        if lacking:
            changes.left_out[at(slot, key)] = f"batch {lacking[0]} has none"
            continue
        values = [elements[name][1] for elements in named]
        widths = {getattr(v, "shape", ())[1:] for v in values if not hasattr(v, "columns")}
        if len(widths) > 1:
            changes.left_out[at(slot, key)] = "batches hold it in different widths"
            continue
        note_renamed(changes, slot, [key], [name])
        out[name] = key, values
    return out


def _colours(given: Sequence[Annotations], obs: pd.DataFrame) -> dict[str, Any]:
    """Colours of categories (scanpy's ``uns["<column>_colors"]``) on which all batches agree."""
    out = {}
    for column in obs.select_dtypes("category"):
        known: dict[Hashable, str] = {}
        agree = True
        for one in given:
            colours = computed(one.uns.get(f"{column}_colors"))
            dtype = one.obs[column].dtype if colours is not None and column in one.obs else None
            if isinstance(dtype, pd.CategoricalDtype) and len(dtype.categories) == len(colours):
                for category, colour in zip(dtype.categories, map(str, colours), strict=True):
                    agree &= known.setdefault(category, colour) == colour
        categories = list(obs[column].cat.categories)
        if agree and categories and all(category in known for category in categories):
            out[f"{column}_colors"] = np.array([known[category] for category in categories], object)
    return out


def storable(adata: AnnData) -> AnnData:
    """An AnnData as files hold it; warns of what they cannot hold as it is."""
    changes = Changes()
    out = storable_annotations(Annotations.of(adata), "the data", "", changes, copied=False).around(adata.X)
    if adata.raw is not None:
        var = storable_table(in_memory(adata.raw.var), "raw.var", changes, annotates=True)
        out.raw = AnnData(adata.raw.X, obs=out.obs[[]], var=var)
    changes.warn()
    return out
