"""Results for users: corrected matrices and annotations, of the same kind as the inputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from anndata import AnnData
from anndata.utils import make_index_unique

from mnndask._library_state import exclusive
from mnndask.core.parameters import check_flag
from mnndask.engine.chunks import stack_cells
from mnndask.errors import InputError, warn
from mnndask.io.anndata_compat import quiet_anndata
from mnndask.io.annotations import Annotations, detached, storable_annotations
from mnndask.io.batch_column import batch_column
from mnndask.io.changes import Changes, at
from mnndask.io.columns import is_text
from mnndask.io.joined import joined_annotations, joined_colours
from mnndask.io.opened_inputs import Inputs, check_text
from mnndask.io.raw import joined_raw, raw_of_one, with_raw
from mnndask.stores.read_errors import reading


@exclusive()
def pack_matrices(parts: Sequence[Any], frames: Sequence[xr.DataArray | None], *, concatenate: bool) -> Any:
    """Return corrected matrices, or DataArrays with the coordinates of the inputs."""
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
    """Stack matrices, without a copy if they are consecutive rows of one matrix."""
    base = parts[0].base
    if base is not None and all(p.base is base for p in parts) and sum(map(len, parts)) == len(base):
        return base
    return np.concatenate(parts)


@dataclass(frozen=True)
class Packing:
    """Options for assembling results; see :func:`mnndask.mnn_correct`."""

    batch_key: str = "batch"
    index_unique: str | None = "-"
    do_concatenate: bool = True
    save_raw: bool = False

    def __post_init__(self) -> None:
        check_text("batch_key", self.batch_key)
        check_text("index_unique", self.index_unique, optional=True)
        check_flag("do_concatenate", self.do_concatenate)
        check_flag("save_raw", self.save_raw)

    def joins(self, inputs: Inputs) -> bool:
        """Whether several AnnData become one."""
        return self.do_concatenate and inputs.codes is None


def check_annotations(inputs: Inputs, packing: Packing) -> None:
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
    changes = Changes()
    with quiet_anndata():
        given = _Given.of(inputs, frames, packing)
        (_joined if packing.joins(inputs) else _each)(given, None, changes)
    if packing.joins(inputs):
        _warn_of_recurring_names([frame.obs_names for frame in frames], packing.index_unique)
    changes.warn()


def pack_anndata(
    inputs: Inputs, parts: Sequence[Any], uns: dict[str, Any], packing: Packing
) -> AnnData | list[AnnData]:
    """Return AnnData with corrected values in ``X``, annotations in memory, and other elements unchanged."""
    with quiet_anndata():
        given = _Given.of(inputs, [source.annotated() for source in inputs.sources], packing)
        if given.key != packing.batch_key:
            uns = uns | {"parameters": uns["parameters"] | {"batch_key": given.key}}
        if packing.joins(inputs):
            out = _joined(given, parts, Changes())
            out.uns["mnn"] = uns
            return out
        each = _each(given, parts, Changes())
        if inputs.codes is not None:
            each[0].uns["mnn"] = uns
            if packing.do_concatenate:
                return each[0]
            return [each[0][inputs.codes == b].copy() for b in range(len(inputs.categories))]
        for adata in each:
            adata.uns["mnn"] = copy.deepcopy(uns)
        return each


def _check_names(names: pd.Index, slot: str, label: str) -> None:
    if names.hasnans:
        what = f"{label} has {np.count_nonzero(names.isna())} missing name(s) in {slot}_names."
        raise InputError(what, f"Give them names, e.g. adata.{slot}_names = adata.{slot}_names.fillna('?').")
    if not is_text(map(str, names)):
        what = f"{label} has names in {slot}_names that cannot be stored as text."
        raise InputError(what, f"Rename those with NUL or invalid Unicode: adata.{slot}_names = ...")


@dataclass(frozen=True)
class _Given:
    """Everything from which results are assembled, except their values.

    Parameters
    ----------
    inputs, frames
        The inputs, and their AnnData.
    packing
        Options for assembling results.
    annotations
        Annotations of each AnnData.
    key, labels
        Name of the column that names the batches, and its values for each AnnData.
    changes
        Changes to that column.
    """

    inputs: Inputs
    frames: Sequence[Any]
    packing: Packing
    annotations: list[Annotations]
    key: str
    labels: list[Any]
    changes: Changes

    @classmethod
    def of(cls, inputs: Inputs, frames: Sequence[Any], packing: Packing) -> _Given:
        annotations, changes = [], Changes()
        for frame, label in zip(frames, inputs.labels, strict=True):
            with reading(label, "its annotations"):
                annotations.append(Annotations.of(frame))
        key, labels = batch_column(inputs, [one.obs for one in annotations], packing.batch_key, changes)
        return cls(inputs, frames, packing, annotations, key, labels, changes)

    def note(self, changes: Changes) -> None:
        """Add changes to the column that names the batches; those to the column it replaces are dropped."""
        place = at("obs", self.packing.batch_key)
        for noted, of_column in (
            (changes.left_out, self.changes.left_out),
            (changes.converted, self.changes.converted),
        ):
            noted.pop(place, None)
            noted.update(of_column)
        changes.renamed.update(self.changes.renamed)

    def colours(self) -> dict[str, Any]:
        """Return the colours of the batches, if several AnnData have them."""
        table = pd.DataFrame({self.key: pd.Categorical([], dtype=self.labels[0].dtype)})
        return joined_colours(self.annotations, table, self.packing.batch_key)


def _each(given: _Given, parts: Sequence[Any] | None, changes: Changes) -> list[AnnData]:
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
        adata = kept.around(None if parts is None else parts[i])
        if not packing.save_raw:
            raw = raw_of_one(frame, source.label, changes, copied=not dry_run)
        else:
            raw = None if dry_run else (detached(source.X, source.label), adata.var, {})
        out.append(adata if dry_run else with_raw(adata, raw))
    given.note(changes)
    return out


def _joined(given: _Given, parts: Sequence[Any] | None, changes: Changes) -> AnnData:
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
    joined = replace(joined, uns=joined_colours(given.annotations, joined.obs, packing.batch_key))
    raw = None if packing.save_raw else joined_raw(given.frames, labels, changes, dry_run=dry_run)
    if parts is None:
        return joined.around(None)
    if separator is not None and not joined.obs.index.is_unique:
        joined.obs.index = pd.Index(make_index_unique(joined.obs.index, join=separator))
    lazy = any(isinstance(part, da.Array) for part in parts)
    out = joined.around(da.concatenate([da.asarray(p) for p in parts]) if lazy else stacked(list(parts)))
    if packing.save_raw:
        raw = stack_cells([detached(source.X, source.label) for source in inputs.sources]), out.var, {}
    return with_raw(out, raw)


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
