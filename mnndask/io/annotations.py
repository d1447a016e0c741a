"""Annotations of a result: those of its inputs, joined, and such as both file formats hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import pandas as pd
from anndata import AnnData

from mnndask.guard import guarded
from mnndask.io.anndata_compat import in_memory, layer_names
from mnndask.io.changes import Changes, at
from mnndask.io.elements import (
    LEFT_OUT,
    note_renamed,
    storable_element,
    storable_mapping,
    storable_table,
)
from mnndask.io.keys import storable_keys

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
    given: Annotations, label: str, batch_key: str | None, changes: Changes, *, copied: bool
) -> Annotations:
    """Annotations of one AnnData as files hold them.

    Parameters
    ----------
    given
        Annotations as they came.
    label
        How messages call what they came in.
    batch_key
        Column of obs that the result has in any case; None for no other than it has.
    changes
        Where to note what is left out or changed.
    copied
        Whether arrays have to be copies of those given.
    """
    first = [] if batch_key is None else [batch_key]
    columns = storable_keys([first, given.obs.columns])[1]
    colours = {f"{key}_colors": f"{name}_colors" for key, name in zip(given.obs, columns, strict=True)}
    uns = {colours.get(key, key): value for key, value in computed(given.uns).items()}
    note_renamed(changes, "uns", given.uns, [colours.get(key, key) for key in given.uns])
    slots: dict[str, dict[Any, Any]] = {}
    for slot, held in given.slots.items():
        names = storable_keys([held])[0]
        note_renamed(changes, slot, held, names)
        slots[slot] = {}
        for (key, value), name in zip(held.items(), names, strict=True):
            kept = in_slot(slot, value, at(slot, key), changes)
            if kept is not LEFT_OUT:
                slots[slot][name] = own(kept, label) if copied and kept is value else kept
    obs = storable_table(given.obs, "obs", changes, annotates=True, first=first)
    var = storable_table(given.var, "var", changes, annotates=True)
    _name_apart(obs, slots["obsm"])
    _name_apart(var, slots["varm"])
    return Annotations(
        obs,
        var,
        slots,
        storable_mapping(uns, "uns", changes, copied=copied, first=["mnn"]),
    )


def _name_apart(table: pd.DataFrame, others: Mapping[Any, Any]) -> None:
    """Take the name of an index that tables share from it, if a column of one of them has it."""
    columns = {column for other in others.values() for column in getattr(other, "columns", ())}
    if table.index.name in columns:
        table.index = table.index.rename(None)


def in_slot(slot: str, value: Any, where: str, changes: Changes) -> Any:
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
