"""Designs of experiments, from columns of obs: nested batches, groups, cells to fit on, what to protect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from mnndask.core.automatic_order import Groups
from mnndask.core.merge_order import Design
from mnndask.errors import InputError, InputKeyError, InputTypeError, warn
from mnndask.io.anndata_compat import to_memory
from mnndask.io.batch_names import design_column
from mnndask.io.opened_inputs import Input, InputOptions, Inputs
from mnndask.stores.read_errors import reading


def check_design(options: InputOptions, kind: str, sources: Sequence[Input]) -> None:
    """Refuse columns that are asked of matrices, or that an input lacks.

    Raises
    ------
    InputTypeError, InputKeyError
        Names the option and the column.
    """
    asked = {"within": options.within, "protect": options.protect}
    asked |= dict(zip(["restrict"], options.restricting or (), strict=False))
    if len(options.keys) > 1:
        asked |= {"batch_key": options.keys[0]}
    for option, name in asked.items():
        if name is None:
            continue
        if kind != "anndata":
            what = f"{option} names the column {name!r} of obs, but {sources[0].label} is a matrix."
            raise InputTypeError(what, f"Leave {option} out, or pass AnnData.")
        for source in sources:
            assert isinstance(source.frame, AnnData)
            if name not in source.frame.obs:
                what = f"{source.label} has no column {name!r} in obs, which {option} names."
                columns = ", ".join(map(str, source.frame.obs)) or "none"
                raise InputKeyError(what, f"Its columns are: {columns}.")


def with_design(inputs: Inputs, options: InputOptions) -> Inputs:
    """Return the inputs with their design, and with the cells to fit on if a column says which.

    Warns if the protected column cannot be told from the batches.

    Raises
    ------
    InputError
        If a batch has cells of several groups, or none to fit on.
    """
    names: tuple[str, ...] = ()
    groups = None
    if options.within is not None:
        names, groups = _groups(_values(inputs, options.within, several=False))
        if all(len(group) < 2 for group in groups):
            what = f"No group of obs[{options.within!r}] has two batches, so that nothing would be corrected."
            raise InputError(what, "Name a column with groups of several batches, or leave within out.")
    nested = _nested(inputs, options.keys) if len(options.keys) > 1 else ()
    restrict = None if options.restricting is None else _marked(inputs, options.restricting)
    if inputs.codes is not None and _is_mask(options.restrict):
        restrict = _split(inputs, np.asarray(options.restrict, bool), "the mask")
    out = replace(inputs, design=Design(nested, groups, names), restrict=restrict)
    confounded = options.protect is not None and _is_confounded(out, options.protect)
    return replace(out, confounded=options.protect) if confounded else out


def _values(inputs: Inputs, name: str, *, several: bool) -> list[str | None]:
    """Value of each batch in a column of obs; None where it has several, if it may."""
    out: list[str | None] = []
    for label, values in _by_batch(inputs, name):
        found = values.unique()
        if len(found) > 1 and not several:
            what = f"{label} has cells of {len(found)} groups in obs[{name!r}], which are corrected apart."
            remedy = f"Make batches of these, batch_key=[{name!r}, ...], or name another column."
            raise InputError(what, remedy)
        out.append(str(found[0]) if len(found) == 1 else None)
    return out


def _by_batch(inputs: Inputs, name: str) -> list[tuple[str, pd.Series]]:
    """Name in messages of each batch, and its values in a column of obs."""
    columns = [design_column(source, name) for source in inputs.sources]
    if inputs.codes is None:
        return [(s.label, c) for s, c in zip(inputs.sources, columns, strict=True) if c is not None]
    (column,) = columns
    assert column is not None
    rows = [np.flatnonzero(inputs.codes == b) for b in range(len(inputs.categories))]
    return [(f"Batch {name!r}", column.iloc[own]) for name, own in zip(inputs.names, rows, strict=True)]


def _groups(values: Sequence[Any]) -> tuple[tuple[str, ...], Groups]:
    """Distinct values in order of appearance, and the batches that have each."""
    names = tuple(dict.fromkeys(values))
    return names, tuple(tuple(b for b, value in enumerate(values) if value == name) for name in names)


def _nested(inputs: Inputs, keys: Sequence[str]) -> tuple[Groups, ...]:
    """Batches that agree in all columns but the last, in all but the last two, and so on."""
    values = [_values(inputs, key, several=False) for key in keys[:-1]]
    labels = list(zip(*values, strict=True))
    return tuple(_groups([own[:n] for own in labels])[1] for n in range(len(keys) - 1, 0, -1))


def _marked(inputs: Inputs, wanted: Any) -> list[NDArray[np.bool_]]:
    """Mask of each batch's cells whose value in a column is among those wanted."""
    if len(wanted) != 1:
        what = f"restrict names {len(wanted)} columns."
        raise InputError(what, "Name one: restrict={'condition': 'control'}.")
    ((name, among),) = wanted.items()
    if among is not True:
        known = {str(value) for source in inputs.sources for value in _column(source, name).unique()}
        unknown = [value for value in _listed(among) if value not in known]
        if unknown:
            what = f"restrict names {unknown[0]!r}, which is no value of obs[{name!r}]."
            raise InputError(what, f"Its values are: {', '.join(sorted(known)[:20])}.")
    masks = [_mask(source, name, among) for source in inputs.sources]
    if inputs.codes is not None:
        return _split(inputs, masks[0], f"obs[{name!r}]")
    _check_some_left(inputs, masks, f"obs[{name!r}]")
    return masks


def _is_mask(restrict: Any) -> bool:
    """Whether something is one flag for each cell, and not a sequence of cells of each batch."""
    dtype = getattr(restrict, "dtype", None)  # which lists of cells of each batch have not
    return getattr(dtype, "kind", "O") == "b" and restrict.ndim == 1


def _split(inputs: Inputs, mask: NDArray[np.bool_], by: str) -> list[NDArray[np.bool_]]:
    """Split a mask over all cells of one AnnData by batch."""
    assert inputs.codes is not None
    if len(mask) != len(inputs.codes):
        what = f"restrict is a mask of {len(mask):,} cells, not of {len(inputs.codes):,}."
        raise InputError(what, "Give one value for each row of obs.")
    masks = [mask[inputs.codes == b] for b in range(len(inputs.categories))]
    _check_some_left(inputs, masks, by)
    return masks


def _check_some_left(inputs: Inputs, masks: Sequence[NDArray[np.bool_]], by: str) -> None:
    for batch, mask in zip(inputs.names, masks, strict=True):
        if not mask.any():
            what = f"restrict leaves no cell of batch {batch!r} to fit on, by {by}."
            raise InputError(what, "Leave the batch out, or choose other cells.")


def _column(source: Input, name: str) -> pd.Series:
    assert isinstance(source.frame, AnnData)
    with reading(source.label, "obs"):
        column: pd.Series = to_memory(source.frame.obs)[name]
    return column


def _listed(among: Any) -> list[str]:
    """One value or several, as text."""
    several = isinstance(among, Sequence | set | np.ndarray) and not isinstance(among, str)
    return list(map(str, among if several else [among]))


def _mask(source: Input, name: str, among: Any) -> NDArray[np.bool_]:
    column = _column(source, name)
    if among is not True:
        return np.asarray(column.astype(str).isin(_listed(among)), bool)
    if column.dtype.kind != "b":
        what = f"obs[{name!r}] of {source.label} has type {column.dtype}, not boolean."
        raise InputError(what, "Name a boolean column, or give values of this one, too.")
    if n := int(column.isna().sum()):
        what = f"obs[{name!r}] of {source.label} has {n} missing value(s)."
        raise InputError(what, f"Fill them in, e.g. adata.obs[{name!r}] = adata.obs[{name!r}].fillna(False).")
    return np.asarray(column, bool)


def _is_confounded(inputs: Inputs, name: str) -> bool:
    """Whether a column is constant in each batch that merges with others, and differs between some; warns."""
    values = _values(inputs, name, several=True)
    for group in inputs.design.groups or [range(len(values))]:
        own = [values[b] for b in group]
        if None not in own and len(set(own)) > 1:
            warn(*confounding(name))
            return True
    return False


def confounding(name: str) -> tuple[str, str]:
    """Say that a column cannot be told from the batches, and what to do."""
    return (
        f"obs[{name!r}] is constant in each batch and differs between them, so the correction may remove its "
        "effect, and nothing in the data can tell.",
        f"Correct inside its values (within={name!r}), or compare them in uncorrected values.",
    )
