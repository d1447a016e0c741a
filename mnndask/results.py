"""Packing corrected matrices as what came in, and the tables that go with them."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from anndata import AnnData
from anndata.utils import make_index_unique

from mnndask import __version__
from mnndask.guard import guarded
from mnndask.inputs import Inputs, backed_matrix
from mnndask.lazy import stack_cells
from mnndask.reference import MergeRecord, Sketch
from mnndask.sources import in_memory, layer_names

logger = logging.getLogger(__name__)

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


def pack_anndata(
    inputs: Inputs,
    parts: Sequence[Any],
    uns: dict[str, Any],
    *,
    batch_key: str,
    index_unique: str | None,
    concatenate: bool,
    save_raw: bool,
) -> AnnData | list[AnnData]:
    """Give corrected AnnData back: corrected values in ``X``, annotations in memory, the rest as it came."""
    with warnings.catch_warnings():  # ours, which names the remedy, says the same
        warnings.filterwarnings("ignore", "Observation names are not unique", UserWarning)
        shells = []
        for source, part in zip(inputs.sources, parts, strict=True):
            frame = source.annotated()
            assert isinstance(frame, AnnData)
            shells.append(_shell(frame, part, source.label))
            if save_raw:
                shells[-1].raw = AnnData(
                    _own(source.X, source.label), obs=shells[-1].obs[[]], var=shells[-1].var
                )
            elif inputs.codes is not None or not concatenate:
                shells[-1].raw = _own_raw(frame, shells[-1].obs, source.label)
        if inputs.codes is not None:
            return _pack_split(inputs, shells[0], uns, batch_key=batch_key, concatenate=concatenate)
        distinct = list(dict.fromkeys(inputs.categories))
        for shell, category in zip(shells, inputs.categories, strict=True):
            shell.obs[batch_key] = pd.Categorical([category] * shell.n_obs, categories=distinct)
        if not concatenate:
            for shell in shells:
                shell.uns["mnn"] = copy.deepcopy(uns)
            return shells
        return _concatenated(inputs, shells, parts, uns, index_unique=index_unique, save_raw=save_raw)


def _shell(frame: AnnData, X: Any, label: str) -> AnnData:
    """Annotations of an AnnData in memory, copies of its other matrices, around other values."""
    return AnnData(
        X,
        obs=_own(frame.obs, label),
        var=_own(frame.var, label),
        uns=_loaded(frame.uns),
        layers={name: _own(frame.layers[name], label) for name in layer_names(frame)},
        **{
            slot: {key: _own(value, label) for key, value in getattr(frame, slot).items()}
            for slot in ("obsm", "varm", "obsp", "varp")
        },
    )


def _own_raw(frame: AnnData, obs: pd.DataFrame, label: str) -> AnnData | None:
    """The input's own ``raw``, left in its file where it is backed by one."""
    if frame.raw is None:
        return None
    X = backed_matrix(frame, "raw/X", label) if frame.isbacked else _own(frame.raw.X, label)
    return AnnData(X, obs=obs[[]], var=_own(frame.raw.var, label))


def _loaded(value: Any) -> Any:
    """``uns`` in memory, where even lazy AnnData may hold what no file takes back."""
    if isinstance(value, Mapping) and not hasattr(value, "to_memory"):  # lazy tables are mappings, too
        return {key: _loaded(part) for key, part in value.items()}
    return value.compute() if isinstance(value, da.Array) else copy.deepcopy(in_memory(value))


def _own(value: Any, label: str) -> Any:
    """A copy that is ours to change; of lazy arrays, which nobody changes, one that reads no lost chunks."""
    return guarded(value, label) if isinstance(value, da.Array) else in_memory(value).copy()


def _pack_split(
    inputs: Inputs, whole: AnnData, uns: dict[str, Any], *, batch_key: str, concatenate: bool
) -> AnnData | list[AnnData]:
    assert inputs.codes is not None
    whole.obs[batch_key] = pd.Categorical.from_codes(inputs.codes, categories=pd.Index(inputs.categories))
    whole.uns["mnn"] = uns
    if concatenate:
        return whole
    return [whole[inputs.codes == b].copy() for b in range(len(inputs.categories))]


def _concatenated(
    inputs: Inputs,
    shells: list[AnnData],
    parts: Sequence[Any],
    uns: dict[str, Any],
    *,
    index_unique: str | None,
    save_raw: bool,
) -> AnnData:
    for shell in shells:
        shell.X, shell.uns = None, {}
        del shell.obsp, shell.varp
    for slot in ("layers", "obsm"):
        _keep_shared(shells, slot)
    raws = [shell.raw.X for shell in shells] if save_raw else []
    for shell in shells:
        shell.raw = None
    if index_unique is not None:  # one batch after the other: concat holds all names three times
        for shell, name in zip(shells, inputs.names, strict=True):
            shell.obs_names = [f"{cell}{index_unique}{name}" for cell in shell.obs_names]
    # obs of all columns; var and varm where all agree. As genes are the same, "outer" fills nothing else.
    out = ad.concat(shells, join="outer", merge="same")
    for column, values in list(out.obs.items()):
        # Of another type in each batch: no file could hold it.
        if values.dtype == object and len(set(map(type, values.dropna()))) > 1:
            out.obs[column] = values.astype(str).where(values.notna())
    if not out.obs_names.is_unique:
        out.obs_names = _unique_names(out.obs_names, index_unique)
    lazy = any(isinstance(part, da.Array) for part in parts)
    out.X = da.concatenate([da.asarray(p) for p in parts]) if lazy else stacked(list(parts))
    if save_raw:
        out.raw = AnnData(stack_cells(raws), obs=out.obs[[]], var=out.var)
    out.uns["mnn"] = uns
    return out


def _unique_names(names: pd.Index, separator: str | None) -> pd.Index:
    message = "Cell names are not unique over the batches"
    if separator is None:
        message += " and are left so.\nGive index_unique='-' to have the batch appended."
    else:
        message += (
            f", and were made so: {separator}1, {separator}2, ... was appended to those that recur.\n"
            "Name the cells of each batch uniquely to avoid this."
        )
    warnings.warn(message, UserWarning, stacklevel=2)
    return names if separator is None else pd.Index(make_index_unique(names, join=separator))


def _keep_shared(shells: list[AnnData], slot: str) -> None:
    """Drop the layers or embeddings that some batch lacks or holds in another width."""
    slots = [getattr(shell, slot) for shell in shells]
    for key in {key for slot_ in slots for key in slot_}:
        shapes = {s[key].shape[1:] for s in slots if key in s}
        if len(shapes) > 1 or not all(key in s for s in slots):
            logger.info("%s[%r] is not shared by all batches and was left out", slot, key)
            for s in slots:
                s.pop(key, None)
