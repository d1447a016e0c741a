"""Packing corrected matrices as what came in, and the tables that go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from mnndask import __version__
from mnndask.inputs import Inputs
from mnndask.reference import MergeRecord, Sketch

PAIR_COLUMNS = ("new cell", "ref cell", "original batch")


def pair_tables(
    records: Sequence[MergeRecord], sketches: Sequence[Sketch], order: Sequence[int]
) -> list[pd.DataFrame]:
    """One table of pairs per batch in input order, in mnnpy's columns; rows count all cells."""
    offsets = np.cumsum([0] + [sketches[b].n_cells for b in order])
    ref_row = np.concatenate([sketches[b].rows + at for b, at in zip(order, offsets[:-1], strict=True)])
    ref_batch = np.repeat(order, [len(sketches[b].rows) for b in order])
    empty = np.empty(0, np.intp)
    tables = [_pair_table(empty, empty, empty)] * len(order)
    for record in records:
        tables[record.batch] = _pair_table(
            sketches[record.batch].rows[record.new_rows], ref_row[record.ref_rows], ref_batch[record.ref_rows]
        )
    return tables


def _pair_table(new: np.ndarray, ref: np.ndarray, batch: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(dict(zip(PAIR_COLUMNS, (new, ref, batch), strict=True)))


def summary(
    parameters: Mapping[str, Any],
    inputs: Inputs,
    records: Sequence[MergeRecord],
    sketches: Sequence[Sketch],
    order: Sequence[int],
    *,
    sketch_size: int | None,
) -> dict[str, Any]:
    """What ``uns["mnn"]`` records: parameters that were set, and a row per batch in merge order.

    Only what both file formats can hold: strings, numbers, flat arrays and one table. Parameters that are
    None or empty are left out. ``"sketch"`` is there only if the fit used one: the most cells of a batch, and
    how they were drawn.
    """
    pairs = {record.batch: record for record in records}
    table = pd.DataFrame(
        {
            "batch": [inputs.names[b] for b in order],
            "n_cells": [sketches[b].n_cells for b in order],
            "n_used": [len(sketches[b].rows) for b in order],
            "n_reference": [pairs[b].n_reference if b in pairs else 0 for b in order],
            "n_reference_used": [pairs[b].n_reference_used if b in pairs else 0 for b in order],
            "n_pairs": [len(pairs[b].new_rows) if b in pairs else 0 for b in order],
            "n_paired_cells": [len(pairs[b].anchors) if b in pairs else 0 for b in order],
            "n_paired_reference": [len(np.unique(pairs[b].ref_rows)) if b in pairs else 0 for b in order],
        },
        index=pd.Index([str(i) for i in range(len(order))], name="step"),
    )
    given = {key: _storable(value) for key, value in parameters.items() if value is not None}
    kept = {key: value for key, value in given.items() if not isinstance(value, dict) or value}
    out = {
        "version": __version__,
        "parameters": kept,
        "batches": np.array(inputs.names),
        "steps": table,
    }
    if sketch_size is not None:
        out["sketch"] = {"size": sketch_size, "method": parameters["sketch_method"]}
    return out


def _storable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _storable(v) for k, v in value.items()}
    if isinstance(value, str | bool | int | float | np.generic):
        return value
    array = np.asarray(list(value))
    return array.astype(str) if array.dtype.kind in "OUS" else array


def pack_matrices(parts: Sequence[Any], frames: Sequence[xr.DataArray | None], *, concatenate: bool) -> Any:
    """Give bare matrices back, or DataArrays with their coordinates."""
    if frames[0] is None:
        if not concatenate:
            return list(parts)
        return da.concatenate(parts) if isinstance(parts[0], da.Array) else stacked(parts)
    arrays = [frame.copy(data=part) for frame, part in zip(frames, parts, strict=True) if frame is not None]
    if not concatenate:
        return arrays
    shared = set.intersection(*(set(array.coords) for array in arrays))
    arrays = [array.drop_vars(set(array.coords) - shared) for array in arrays]
    return xr.concat(
        arrays,
        dim=arrays[0].dims[0],
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="override",
    )


def stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Stack matrices; without a copy where they are consecutive parts of one already."""
    base = parts[0].base
    if base is not None and all(p.base is base for p in parts) and sum(map(len, parts)) == len(base):
        return base
    return np.concatenate(parts)
