"""Results for users who gave AnnData: corrected values and annotations."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique
from numpy.typing import NDArray

from mnndask.engine.apply import Corrected, Wanted
from mnndask.engine.chunks import stack_cells
from mnndask.errors import InputError, warn
from mnndask.io.anndata_compat import layer_names, quiet_anndata
from mnndask.io.annotations import detached, storable_annotations
from mnndask.io.changes import Changes
from mnndask.io.columns import is_text
from mnndask.io.elements import LEFT_OUT, storable_element
from mnndask.io.inputs import backed_matrix
from mnndask.io.joined import joined_annotations, joined_colours, joined_records
from mnndask.io.matrix_results import stacked
from mnndask.io.opened_inputs import Inputs
from mnndask.io.packing import Given, Packing
from mnndask.io.raw import joined_raw, raw_of_one, with_raw
from mnndask.io.record import EMBEDDING_KEY


@dataclass(frozen=True)
class Added:
    """Columns that a correction adds.

    Parameters
    ----------
    of_cells
        Columns of obs, for all rows of the result, or of its list.
    of_genes
        Columns of var; None if genes were not measured.
    """

    of_cells: Mapping[str, NDArray[Any]]
    of_genes: pd.DataFrame | None


def check_annotations(inputs: Inputs, packing: Packing, wanted: Wanted) -> None:
    """Warn of all elements that results cannot contain unchanged, before the fit; see :class:`Changes`.

    Raises
    ------
    InputError
        If names of cells or genes are missing, or names of cells, genes or batches cannot be stored as text.
    """
    if not is_text(inputs.names):
        what = f"Names of batches cannot be stored as text: {inputs.names}."
        raise InputError(what, "Give other names: batch_categories=[...], one name per batch.")
    frames: list[Any] = [source.frame for source in inputs.sources]
    for frame, label in zip(frames, inputs.labels, strict=True):
        for slot in ("obs", "var"):
            _check_names(getattr(frame, f"{slot}_names"), slot, label)
        if packing.layer_added in layer_names(frame):
            what = f"{label} already has a layer {packing.layer_added!r}, which layer_added names."
            raise InputError(what, "Give another name, or remove the layer.")
    changes = Changes()
    with quiet_anndata():
        given = Given.of(inputs, frames, packing, wanted)
        (_joined if packing.joins(inputs) else _each)(given, None, changes)
    if packing.joins(inputs):
        _warn_of_recurring_names([frame.obs_names for frame in frames], packing.index_unique)
    changes.warn()


def pack_anndata(
    inputs: Inputs,
    parts: Sequence[Corrected],
    uns: dict[str, Any],
    packing: Packing,
    added: Added,
) -> AnnData | list[AnnData]:
    """Return AnnData with corrected values in ``X``, annotations in memory, and other elements unchanged.

    Without corrected genes, results have neither ``X`` nor layers nor ``raw``, which the inputs have.
    """
    with quiet_anndata():
        wanted = Wanted(parts[0].genes is not None, parts[0].embedding is not None)
        given = Given.of(inputs, [source.annotated() for source in inputs.sources], packing, wanted)
        if given.key != packing.batch_key:
            uns = uns | {"parameters": uns["parameters"] | {"batch_key": given.key}}
        if packing.joins(inputs):
            return _recorded([_joined(given, parts, Changes())], uns, added)[0]
        each = _recorded(_each(given, parts, Changes()), uns, added)
        if inputs.codes is None:
            return each
        if packing.do_concatenate:
            return each[0]
        return [each[0][inputs.codes == b].copy() for b in range(len(inputs.categories))]


def _recorded(results: list[AnnData], uns: dict[str, Any], added: Added) -> list[AnnData]:
    """Add the record of the correction, and its columns."""
    ends = np.cumsum([adata.n_obs for adata in results])[:-1]
    for adata in results:
        adata.uns["mnn"] = uns if len(results) == 1 else copy.deepcopy(uns)
    if added.of_genes is not None:
        for adata in results:
            for name, column in added.of_genes.items():
                if adata.n_vars == len(column):  # not of embeddings alone
                    adata.var[name] = column.to_numpy()
    for name, values in added.of_cells.items():
        for adata, own in zip(results, np.split(values, ends), strict=True):
            adata.obs[name] = own
    return results


def _check_names(names: pd.Index, slot: str, label: str) -> None:
    if names.hasnans:
        what = f"{label} has {np.count_nonzero(names.isna())} missing name(s) in {slot}_names."
        raise InputError(what, f"Give them names, e.g. adata.{slot}_names = adata.{slot}_names.fillna('?').")
    if not is_text(map(str, names)):
        what = f"{label} has names in {slot}_names that cannot be stored as text."
        raise InputError(what, f"Rename those with NUL or invalid Unicode: adata.{slot}_names = ...")


def _each(given: Given, parts: Sequence[Corrected] | None, changes: Changes) -> list[AnnData]:
    """Return a result for each AnnData, without its record; without `parts`, only note changes."""
    dry_run, packing, out = parts is None, given.packing, []
    several = len(given.frames) > 1
    colours = given.colours() if several else {}
    for i, (source, frame) in enumerate(zip(given.inputs.sources, given.frames, strict=True)):
        kept = storable_annotations(
            given.annotations[i], source.label, packing.batch_key, changes, copied=not dry_run
        )
        kept.obs[given.key] = given.labels[i]
        if several:
            others = {key: value for key, value in kept.uns.items() if key != f"{given.key}_colors"}
            kept = replace(kept, uns=others | colours)
        own = (
            None if packing.layer_added is None else _values(frame, source.label, changes, copied=not dry_run)
        )
        adata = packing.around(kept, None if parts is None else parts[i].genes, own)
        if parts is not None and parts[i].embedding is not None:
            adata.obsm[EMBEDDING_KEY] = parts[i].embedding
        if not given.wanted.genes:
            raw = None
        elif not packing.save_raw:
            raw = raw_of_one(frame, source.label, changes, copied=not dry_run)
        else:
            raw = None if dry_run else (detached(source.X, source.label), adata.var, {})
        out.append(adata if dry_run else with_raw(adata, raw))
    given.note(changes)
    return out


def _joined(given: Given, parts: Sequence[Corrected] | None, changes: Changes) -> AnnData:
    """Return one result for all AnnData, without its record; without `parts`, only note changes."""
    inputs, packing, labels = given.inputs, given.packing, given.inputs.labels
    dry_run, separator = parts is None, packing.index_unique
    names = [one.obs.index for one in given.annotations]
    if separator is not None and not dry_run:  # names of all cells take memory
        names = [
            pd.Index([f"{cell}{separator}{name}" for cell in cells])
            for cells, name in zip(names, inputs.names, strict=True)
        ]
    joined = joined_annotations(given.annotations, labels, names, packing.batch_key, changes, dry_run=dry_run)
    codes = np.concatenate([one.codes for one in given.labels])
    joined.obs[given.key] = pd.Categorical.from_codes(codes, dtype=given.labels[0].dtype)
    given.note(changes)
    colours = joined_colours(given.annotations, joined.obs, packing.batch_key)
    joined = replace(joined, uns=joined_records(given.annotations, changes) | colours)
    raw = None
    if given.wanted.genes and not packing.save_raw:
        raw = joined_raw(given.frames, labels, changes, dry_run=dry_run)
    own = None if packing.layer_added is None else _joined_values(given, changes, copied=not dry_run)
    if parts is None:
        return joined.around(None)
    if separator is not None and not joined.obs.index.is_unique:
        joined.obs.index = pd.Index(make_index_unique(joined.obs.index, join=separator))
    out = packing.around(joined, _stacked([part.genes for part in parts]), own)
    if given.wanted.embedding:
        out.obsm[EMBEDDING_KEY] = _stacked([part.embedding for part in parts])
    if packing.save_raw:
        raw = stack_cells([detached(source.X, source.label) for source in inputs.sources]), out.var, {}
    return with_raw(out, raw)


def _stacked(parts: Sequence[Any]) -> Any:
    """Stack what was computed of each source; None if it was not wanted."""
    if parts[0] is None:
        return None
    lazy = any(isinstance(part, da.Array) for part in parts)
    return da.concatenate([da.asarray(part) for part in parts]) if lazy else stacked(parts)


def _values(frame: AnnData, label: str, changes: Changes, *, copied: bool) -> Any:
    """Return ``X`` of an input for a result in which corrected values are a layer; None if there is none."""
    X = backed_matrix(frame, "X", label) if frame.isbacked and "X" in frame.file else frame.X
    kept = None if X is None else storable_element(X, "X", changes)
    if kept is None or kept is LEFT_OUT:
        return None
    return detached(kept, label) if copied else kept


def _joined_values(given: Given, changes: Changes, *, copied: bool) -> Any:
    """Return the stacked ``X`` of all inputs; None, which is noted, if one has none."""
    labels = given.inputs.labels
    values = [
        _values(frame, label, changes, copied=copied)
        for frame, label in zip(given.frames, labels, strict=True)
    ]
    lacking = [label for label, value in zip(labels, values, strict=True) if value is None]
    if lacking:
        changes.left_out["X"] = f"{lacking[0]} has none"
        return None
    return stack_cells(values) if copied else None


def _warn_of_recurring_names(names: Sequence[pd.Index], separator: str | None) -> None:
    what = "Cell names are not unique over the batches"
    if separator is not None:
        if not all(cells.is_unique for cells in names):
            warn(
                f"{what} and are made unique: {separator}1, {separator}2, ... is appended to repeated names.",
                "Name the cells of each batch uniquely to avoid this.",
            )
    elif not names[0].append(list(names[1:])).is_unique:
        warn(f"{what} and are left unchanged.", "Give index_unique='-' to append the batch to each name.")
