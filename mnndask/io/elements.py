"""Elements of an AnnData, converted to types that both file formats support."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray, ExtensionDtype
from scipy import sparse

from mnndask.io.anndata_compat import is_mapping, to_memory, write_error
from mnndask.io.changes import Changes, at
from mnndask.io.columns import storable_column, storable_dtype, storable_names
from mnndask.io.input_checks import sparse_problem
from mnndask.io.keys import storable_keys

INT64 = np.iinfo(np.int64)
LEFT_OUT = object()  # not None, which files can store


def is_matrix(value: Any) -> bool:
    """Whether a value is an array of numbers, in memory or lazy, that can be written without trying."""
    if isinstance(value, da.Array):
        meta = value._meta
        known = isinstance(meta, np.ndarray) or getattr(meta, "format", None) in {"csr", "csc"}
        known = known and not np.isnan(value.shape).any()
    else:
        masked = isinstance(value, np.ma.MaskedArray)
        known = sparse.issparse(value) or (isinstance(value, np.ndarray) and not masked)
    return bool(known) and storable_dtype(value.dtype) == value.dtype


def storable_element(value: Any, where: str, changes: Changes) -> Any:
    """Convert an element to a type of both formats; if there is none, note it and return ``LEFT_OUT``."""
    value = to_memory(value)
    if isinstance(value, pd.DataFrame):
        return storable_table(value, where, changes)
    if isinstance(value, ExtensionArray):
        column, _ = storable_column(pd.Series(value), as_categories=True)
        if column is not None and not isinstance(column.dtype, pd.SparseDtype):
            value = column.array if isinstance(column.dtype, ExtensionDtype) else column.to_numpy()
    if isinstance(value, np.ma.MaskedArray) and not np.ma.is_masked(value):
        value = value.data
    if isinstance(value, np.ndarray | da.Array):
        dtype = storable_dtype(value.dtype)
        if dtype is not None and dtype != value.dtype:
            value = value.astype(dtype)
            changes.converted[where] = dtype.name
    problem = _problem(value)
    if problem:
        changes.left_out[where] = problem
        return LEFT_OUT
    return value.tocsr() if sparse.issparse(value) and value.format not in {"csr", "csc"} else value


def _problem(value: Any) -> str | None:
    if sparse.issparse(value) and (why := sparse_problem(value)) is not None:
        return f"an inconsistent sparse matrix: {why}"
    if is_matrix(value):
        return None
    if isinstance(value, np.ma.MaskedArray):
        return "masked values"
    if isinstance(value, da.Array):
        return "a dask array of unknown size" if np.isnan(value.shape).any() else "a non-numeric dask array"
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"no file format supports this {kind}" if write_error(value) else None


def storable_table(
    table: pd.DataFrame,
    where: str,
    changes: Changes,
    *,
    annotates: bool = False,
    first: Sequence[Hashable] = (),
) -> Any:
    """Convert a table to types of both file formats; if its index has none, note it and return ``LEFT_OUT``.

    Parameters
    ----------
    annotates
        Whether it is ``obs`` or ``var``, where anndata converts text to categories.
    first
        Keys whose names take precedence over those of the table.
    """
    names = storable_keys([first, table.columns])[1]
    note_renamed(changes, where, table.columns, names)
    columns = {}
    for i, (key, name) in enumerate(zip(table.columns, names, strict=True)):
        column, note = storable_column(table.iloc[:, i], as_categories=not annotates)
        if column is None:
            changes.left_out[at(where, key)] = str(note)
            continue
        if note:
            changes.converted[at(where, key)] = note
        columns[name] = column
    out = pd.DataFrame(columns, index=table.index)
    out.index = storable_names(table.index)
    if out.index.name is not None:
        taken, (name,) = storable_keys([[*first, *out], [out.index.name]])
        out.index = out.index.rename(name if name not in taken else None)  # a copy of the input's
    if not annotates and (error := write_error(out.iloc[:1, :0])):  # due to its index: columns are storable
        changes.left_out[where] = f"a table that no file format supports: {error}"
        return LEFT_OUT
    return out


def note_renamed(changes: Changes, where: str, keys: Iterable[Any], names: Sequence[str]) -> None:
    """Record which keys are renamed."""
    for key, name in zip(keys, names, strict=True):
        if not isinstance(key, str) or key != name:
            known = changes.renamed.setdefault(at(where, key), [])
            known += [name] if name not in known else []


def storable_mapping(
    values: Mapping[Any, Any], where: str, changes: Changes, *, copied: bool, first: Sequence[Hashable] = ()
) -> dict[str, Any]:
    """Convert a mapping of elements (``uns``) to types that both file formats support.

    Parameters
    ----------
    copied
        Whether elements must be copies of those given.
    first
        Keys whose names take precedence over those of the mapping.
    """
    names = storable_keys([first, values])[1]
    note_renamed(changes, where, values, names)
    out: dict[str, Any] = {}
    for (key, value), name in zip(values.items(), names, strict=True):
        place = at(where, key)
        if is_mapping(value):
            out[name] = storable_mapping(value, place, changes, copied=copied)
        elif _is_scalar(value):
            out[name] = value
        elif (kept := storable_element(value, place, changes)) is not LEFT_OUT:
            out[name] = copy.deepcopy(kept) if copied and kept is value else kept
    return out


def _is_scalar(value: Any) -> bool:
    if isinstance(value, bool | np.bool_ | float | np.integer):
        return not isinstance(value, np.longdouble)
    if isinstance(value, str):
        return value.isascii() and "\0" not in value
    return isinstance(value, int) and INT64.min <= value <= INT64.max
