"""Annotations of a result: those of its inputs, converted to types that both file formats support."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import pandas as pd
from anndata import AnnData

from mnndask.io.anndata_compat import is_mapping, layer_names, to_memory
from mnndask.io.changes import Changes, at
from mnndask.io.checked_graphs import guarded
from mnndask.io.elements import LEFT_OUT, note_renamed, storable_element, storable_mapping, storable_table
from mnndask.io.keys import storable_keys
from mnndask.stores.read_errors import reading

JOINED_SLOTS = ("layers", "obsm")  # joined along cells
PAIRWISE_SLOTS = ("obsp", "varp")  # kept only in the result of a single AnnData


@dataclass(frozen=True)
class Annotations:
    """Annotations of one AnnData, or of several joined: all but ``X`` and ``raw``.

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
    def of(
        cls, adata: AnnData, without: Collection[tuple[str, Any]] = (), *, layers: bool = True
    ) -> Annotations:
        """Return the annotations of an AnnData, in memory, backed or lazy. Reads tables; copies nothing.

        Elements `without`, given by slot and key, are neither read nor returned, nor layers unless asked for.
        """
        names = layer_names(adata) if layers else ()
        slots = {"layers": {name: to_memory(adata.layers[name]) for name in names}}
        for slot in ("obsm", "varm", *PAIRWISE_SLOTS):
            values = getattr(adata, slot)
            slots[slot] = {key: to_memory(values[key]) for key in values if (slot, key) not in without}
        uns = {key: value for key, value in adata.uns.items() if ("uns", key) not in without}
        return cls(to_memory(adata.obs), to_memory(adata.var), slots, uns)

    def around(self, X: Any) -> AnnData:
        """Return an AnnData of a matrix and these annotations."""
        return AnnData(X, obs=self.obs, var=self.var, uns=self.uns, **self.slots)


def storable_annotations(
    given: Annotations, label: str, batch_key: str | None, changes: Changes, *, copied: bool
) -> Annotations:
    """Convert annotations of one AnnData to types that both file formats support.

    Parameters
    ----------
    given
        Annotations of the input.
    label
        Name of the input in messages.
    batch_key
        Column of obs that the result has in any case; None if it has only those of the input.
    changes
        Record to which elements that are left out or changed are added.
    copied
        Whether arrays must be copies of those given.
    """
    first = [] if batch_key is None else [batch_key]
    columns = storable_keys([first, given.obs.columns])[1]
    colours = {f"{key}_colors": f"{name}_colors" for key, name in zip(given.obs, columns, strict=True)}
    with reading(label, "uns"):
        uns = {colours.get(key, key): value for key, value in computed(given.uns).items()}
    note_renamed(changes, "uns", given.uns, [colours.get(key, key) for key in given.uns])
    slots: dict[str, dict[Any, Any]] = {}
    for slot, values in given.slots.items():
        names = storable_keys([values])[0]
        note_renamed(changes, slot, values, names)
        slots[slot] = {}
        for (key, value), name in zip(values.items(), names, strict=True):
            kept = storable_in_slot(slot, value, at(slot, key), changes)
            if kept is not LEFT_OUT:
                slots[slot][name] = detached(kept, label) if copied and kept is value else kept
    obs = storable_table(given.obs, "obs", changes, annotates=True, first=first)
    var = storable_table(given.var, "var", changes, annotates=True)
    _drop_ambiguous_name(obs, slots["obsm"])
    _drop_ambiguous_name(var, slots["varm"])
    return Annotations(
        obs,
        var,
        slots,
        storable_mapping(uns, "uns", changes, copied=copied, first=["mnn"]),
    )


def _drop_ambiguous_name(table: pd.DataFrame, others: Mapping[Any, Any]) -> None:
    """Remove the name of a table's index if another table with the same index has a column of that name."""
    columns = {column for other in others.values() for column in getattr(other, "columns", ())}
    if table.index.name in columns:
        table.index = table.index.rename(None)


def storable_in_slot(slot: str, value: Any, where: str, changes: Changes) -> Any:
    """Convert an element of a slot to a type that both file formats support; layers need two dimensions."""
    if slot == "layers" and len(getattr(value, "shape", ())) != 2:
        changes.left_out[where] = "layers must have two dimensions"
        return LEFT_OUT
    return storable_element(value, where, changes)


def computed(value: Any) -> Any:
    """Load ``uns`` into memory: lazy elements in it cannot be written."""
    if is_mapping(value):
        return {key: computed(part) for key, part in value.items()}
    return value.compute() if isinstance(value, da.Array) else to_memory(value)


def detached(value: Any, label: str) -> Any:
    """Copy a value so that changes do not affect the input; guard a lazy array, which never changes."""
    if isinstance(value, da.Array):
        return guarded(value, label)
    return value.copy() if hasattr(value, "copy") else value
