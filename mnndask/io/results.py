"""Corrected values and annotations put together as AnnData, like what came in."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique

from mnndask.errors import InputError, warn
from mnndask.inputs import Inputs
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
        If the name of a cell or of a gene is missing.
    """
    changes = Changes()
    frames: list[Any] = [source.frame for source in inputs.sources]
    if not is_text(inputs.names):
        what = f"Names of batches are no text that files hold: {inputs.names}."
        raise InputError(what, "Name them otherwise: batch_categories=[...], one name per batch.")
    for frame, label in zip(frames, inputs.labels, strict=True):
        for slot in ("obs", "var"):
            _check_names(getattr(frame, f"{slot}_names"), slot, label)
    with _as_we_say_it():
        batches = _Batches.of(inputs, frames, packing)
        (_joined if packing.joins(inputs) else _each)(inputs, frames, None, packing, batches, changes)
    if packing.joins(inputs):
        _warn_of_recurring_names([frame.obs_names for frame in frames], packing.index_unique)
    changes.warn()


def pack_anndata(
    inputs: Inputs, parts: Sequence[Any], uns: dict[str, Any], packing: Packing
) -> AnnData | list[AnnData]:
    """Give corrected AnnData back: corrected values in ``X``, annotations in memory, the rest as it came."""
    with _as_we_say_it():
        frames: list[Any] = [source.annotated() for source in inputs.sources]
        batches = _Batches.of(inputs, frames, packing)
        if batches.key != packing.batch_key:
            uns = uns | {"parameters": uns["parameters"] | {"batch_key": batches.key}}
        if packing.joins(inputs):
            out = _joined(inputs, frames, parts, packing, batches, Changes())
            out.uns["mnn"] = uns
            return out
        each = _each(inputs, frames, parts, packing, batches, Changes())
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


@contextmanager
def _as_we_say_it() -> Iterator[None]:
    """Keep anndata from saying what our own warning says with its remedy, and what users cannot change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique", UserWarning)
        # anndata 0.13 asks pandas 3 for it whenever it makes an AnnData
        warnings.filterwarnings(
            "ignore", "The 'future.infer_string' option is deprecated", DeprecationWarning
        )
        yield


@dataclass(frozen=True)
class _Batches:
    """What all sources hold: their annotations, the column that names their batches, and its values."""

    given: list[Annotations]
    key: str
    labels: list[Any]
    changes: Changes

    @classmethod
    def of(cls, inputs: Inputs, frames: Sequence[Any], packing: Packing) -> _Batches:
        given = [Annotations.of(frame) for frame in frames]
        changes = Changes()
        key, labels = batch_column(inputs, [one.obs for one in given], packing.batch_key, changes)
        return cls(given, key, labels, changes)

    def settle(self, batch_key: str, changes: Changes) -> None:
        """Note what became of the column itself, rather than of what it takes the place of."""
        for noted, own_notes in (
            (changes.left_out, self.changes.left_out),
            (changes.converted, self.changes.converted),
        ):
            noted.pop(at("obs", batch_key), None)
            noted.update(own_notes)
        changes.renamed.update(self.changes.renamed)

    def with_colours(self, uns: Mapping[str, Any], batch_key: str) -> dict[str, Any]:
        """``uns`` of one of several AnnData, with colours of all batches if they have some."""
        table = pd.DataFrame({self.key: pd.Categorical([], dtype=self.labels[0].dtype)})
        others = {key: value for key, value in uns.items() if key != f"{self.key}_colors"}
        return others | joined_colours(self.given, table, batch_key)


def _each(
    inputs: Inputs,
    frames: Sequence[Any],
    parts: Sequence[Any] | None,
    packing: Packing,
    batches: _Batches,
    changes: Changes,
) -> list[AnnData]:
    """A result for each source, without its record; without `parts`, to see what becomes of annotations."""
    tried, out = parts is None, []
    for i, (source, frame) in enumerate(zip(inputs.sources, frames, strict=True)):
        made = storable_annotations(
            batches.given[i], source.label, packing.batch_key, changes, copied=not tried
        )
        made.obs[batches.key] = batches.labels[i]
        if len(frames) > 1:
            made = replace(made, uns=batches.with_colours(made.uns, packing.batch_key))
        adata = made.around(None if parts is None else parts[i])
        if not packing.save_raw:
            with_raw(adata, raw_of_one(frame, source.label, changes, tried=tried))
        elif not tried:
            with_raw(adata, (own(source.X, source.label), adata.var, {}))
        out.append(adata)
    batches.settle(packing.batch_key, changes)
    return out


def _joined(
    inputs: Inputs,
    frames: Sequence[Any],
    parts: Sequence[Any] | None,
    packing: Packing,
    batches: _Batches,
    changes: Changes,
) -> AnnData:
    """One result for all sources, likewise."""
    given = batches.given
    tried, separator = parts is None, packing.index_unique
    names = [one.obs.index for one in given]
    if separator is not None and not tried:  # names of all cells take memory
        names = [
            pd.Index([f"{cell}{separator}{name}" for cell in own_names])
            for own_names, name in zip(names, inputs.names, strict=True)
        ]
    made = joined_annotations(given, inputs.labels, names, packing.batch_key, changes, tried=tried)
    codes = np.concatenate([label.codes for label in batches.labels])
    made.obs[batches.key] = pd.Categorical.from_codes(codes, dtype=batches.labels[0].dtype)
    batches.settle(packing.batch_key, changes)
    made = replace(made, uns=joined_colours(given, made.obs, packing.batch_key))
    raw = None if packing.save_raw else joined_raw(frames, inputs.labels, changes, tried=tried)
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
