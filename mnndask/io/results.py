"""Corrected values and annotations put together as AnnData, like what came in."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique

from mnndask.errors import InputError, warn
from mnndask.inputs import Inputs
from mnndask.io.anndata_compat import as_we_say_it
from mnndask.io.annotations import Annotations, own, storable_annotations
from mnndask.io.batch_column import batch_column
from mnndask.io.changes import Changes, at
from mnndask.io.columns import is_text
from mnndask.io.joined import joined_annotations, joined_colours
from mnndask.io.raw import joined_raw, raw_of_one, with_raw
from mnndask.lazy import stack_cells
from mnndask.results import stacked


@dataclass(frozen=True)
class Packing:
    """How corrected AnnData are put together: parameters of :func:`mnndask.mnn_correct`."""

    batch_key: str
    index_unique: str | None
    concatenate: bool
    save_raw: bool

    def joins(self, inputs: Inputs) -> bool:
        """Whether several AnnData become one."""
        return self.concatenate and inputs.codes is None


def check_annotations(inputs: Inputs, packing: Packing) -> None:
    """Warn of all that results cannot hold as it is, before the work; see :class:`Changes`.

    Raises
    ------
    InputError
        If the name of a cell or of a gene is missing, or a name, of a batch too, is no text that files hold.
    """
    if not is_text(inputs.names):
        what = f"Names of batches are no text that files hold: {inputs.names}."
        raise InputError(what, "Name them otherwise: batch_categories=[...], one name per batch.")
    frames: list[Any] = [source.frame for source in inputs.sources]
    for frame, label in zip(frames, inputs.labels, strict=True):
        for slot in ("obs", "var"):
            _check_names(getattr(frame, f"{slot}_names"), slot, label)
    changes = Changes()
    with as_we_say_it():
        given = _Given.of(inputs, frames, packing)
        (_joined if packing.joins(inputs) else _each)(given, None, changes)
    if packing.joins(inputs):
        _warn_of_recurring_names([frame.obs_names for frame in frames], packing.index_unique)
    changes.warn()


def pack_anndata(
    inputs: Inputs, parts: Sequence[Any], uns: dict[str, Any], packing: Packing
) -> AnnData | list[AnnData]:
    """Give corrected AnnData back: corrected values in ``X``, annotations in memory, the rest as it came."""
    with as_we_say_it():
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
            if packing.concatenate:
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
        what = f"{label} has names in {slot}_names that are no text that files hold."
        raise InputError(what, f"Rename those that hold NUL or what is not Unicode: adata.{slot}_names = ...")


@dataclass(frozen=True)
class _Given:
    """All that results are put together from but their values.

    Parameters
    ----------
    inputs, frames
        What came in, and the AnnData that it came in.
    packing
        How to put results together.
    annotations
        Of each AnnData, as they came.
    key, labels
        Name of the column that names the batches, and its values for each AnnData.
    changes
        What became of that column.
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
        annotations, changes = [Annotations.of(frame) for frame in frames], Changes()
        key, labels = batch_column(inputs, [one.obs for one in annotations], packing.batch_key, changes)
        return cls(inputs, frames, packing, annotations, key, labels, changes)

    def note(self, changes: Changes) -> None:
        """Note what became of the column that names the batches, rather than of what it replaces."""
        place = at("obs", self.packing.batch_key)
        for noted, own_notes in (
            (changes.left_out, self.changes.left_out),
            (changes.converted, self.changes.converted),
        ):
            noted.pop(place, None)
            noted.update(own_notes)
        changes.renamed.update(self.changes.renamed)

    def colours(self) -> dict[str, Any]:
        """Colours of the batches, if several AnnData have some."""
        table = pd.DataFrame({self.key: pd.Categorical([], dtype=self.labels[0].dtype)})
        return joined_colours(self.annotations, table, self.packing.batch_key)


def _each(given: _Given, parts: Sequence[Any] | None, changes: Changes) -> list[AnnData]:
    """A result for each AnnData, without its record; without `parts`, to see what becomes of annotations."""
    tried, packing, out = parts is None, given.packing, []
    several = len(given.frames) > 1
    colours = given.colours() if several else {}
    for i, (source, frame) in enumerate(zip(given.inputs.sources, given.frames, strict=True)):
        made = storable_annotations(
            given.annotations[i], source.label, packing.batch_key, changes, copied=not tried
        )
        made.obs[given.key] = given.labels[i]
        if several:
            others = {key: value for key, value in made.uns.items() if key != f"{given.key}_colors"}
            made = replace(made, uns=others | colours)
        adata = made.around(None if parts is None else parts[i])
        if not packing.save_raw:
            raw = raw_of_one(frame, source.label, changes, copied=not tried)
        else:
            raw = None if tried else (own(source.X, source.label), adata.var, {})
        out.append(adata if tried else with_raw(adata, raw))
    given.note(changes)
    return out


def _joined(given: _Given, parts: Sequence[Any] | None, changes: Changes) -> AnnData:
    """One result for all AnnData, likewise."""
    inputs, packing, labels = given.inputs, given.packing, given.inputs.labels
    tried, separator = parts is None, packing.index_unique
    names = [one.obs.index for one in given.annotations]
    if separator is not None and not tried:  # names of all cells take memory
        names = [
            pd.Index([f"{cell}{separator}{name}" for cell in own_names])
            for own_names, name in zip(names, inputs.names, strict=True)
        ]
    made = joined_annotations(given.annotations, labels, names, packing.batch_key, changes, tried=tried)
    codes = np.concatenate([one.codes for one in given.labels])
    made.obs[given.key] = pd.Categorical.from_codes(codes, dtype=given.labels[0].dtype)
    given.note(changes)
    made = replace(made, uns=joined_colours(given.annotations, made.obs, packing.batch_key))
    raw = None if packing.save_raw else joined_raw(given.frames, labels, changes, tried=tried)
    if parts is None:
        return made.around(None)
    if separator is not None and not made.obs.index.is_unique:
        made.obs.index = pd.Index(make_index_unique(made.obs.index, join=separator))
    lazy = any(isinstance(part, da.Array) for part in parts)
    out = made.around(da.concatenate([da.asarray(p) for p in parts]) if lazy else stacked(list(parts)))
    if packing.save_raw:
        raw = stack_cells([own(source.X, source.label) for source in inputs.sources]), out.var, {}
    return with_raw(out, raw)


def _warn_of_recurring_names(names: Sequence[pd.Index], separator: str | None) -> None:
    message = "Cell names are not unique over the batches"
    if separator is not None:
        if all(own_names.is_unique for own_names in names):
            return
        message += (
            f", and are made so: {separator}1, {separator}2, ... is appended to those that recur.\n"
            "Name the cells of each batch uniquely to avoid this."
        )
    else:
        if names[0].append(list(names[1:])).is_unique:
            return
        message += " and are left so.\nGive index_unique='-' to have the batch appended."
    warn(message)
