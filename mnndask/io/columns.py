"""Columns of tables as both file formats hold them: of one type each, that anndata writes."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterable
from functools import cache
from typing import Any, TypeAlias

import anndata as ad
import numpy as np
import pandas as pd

from mnndask.io.anndata_compat import write_error

TEXT = (str, bytes)
FLAGS = (bool, np.bool_)
WHOLE = (int, np.integer)
NUMBERS = (*FLAGS, *WHOLE, float, np.floating, decimal.Decimal)
LABELS = (  # of times and ranges: they have one way to be written out, and no place among numbers
    datetime.date,  # datetime.datetime and pandas.Timestamp are such, too
    datetime.time,
    datetime.timedelta,
    np.datetime64,
    np.timedelta64,
    pd.Period,
    pd.Interval,
)
NO_TYPE = "of values that no store holds"

Column: TypeAlias = Any  # pandas' stubs know less of columns than is asked here
Storable = tuple[Column | None, str | None]  # the column, None if left out; and what it became, or why


def storable_column(column: Column, *, as_categories: bool = False) -> Storable:
    """A column as files hold it, and what was made of its values if they are no longer the same.

    Parameters
    ----------
    column
        Any column of a table.
    as_categories
        Whether text with missing values has to be categorical: of ``obs`` and ``var``, anndata sees to it.

    Returns
    -------
    column
        None if it has to be left out.
    note
        What it became, or why it is left out. None where the values are the same, be it in another container:
        missing values may be NaN, None or pandas.NA.
    """
    dtype = column.dtype
    if isinstance(dtype, pd.SparseDtype):
        column = column.sparse.to_dense()
    elif isinstance(dtype, pd.ArrowDtype):
        column = pd.Series(column.array, index=column.index, name=column.name).astype(object)
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _categorical(column)
    if isinstance(dtype, pd.StringDtype):
        return _text(column, as_categories=as_categories)
    if dtype == np.dtype(object):
        return _objects(column, as_categories=as_categories)
    if isinstance(dtype, pd.DatetimeTZDtype) or dtype.kind in "mM":
        text = column.astype(str).astype(object).where(column.notna(), None)
        return _text(text, as_categories=as_categories)[0], "text"
    if isinstance(dtype, np.dtype):
        return _plain(column)
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_integer_dtype(dtype):
        return column, None
    if pd.api.types.is_float_dtype(dtype):  # no store holds masked ones
        return _replaced(column, column.to_numpy(dtype.numpy_dtype, na_value=np.nan)), None
    return _objects(column.astype(object), as_categories=as_categories)


def _plain(column: Column) -> Storable:
    """A column of NumPy's own types, other than times: of numbers."""
    dtype = storable_dtype(column.dtype)
    if dtype is None:
        return _objects(column.astype(object), as_categories=False)
    return (column, None) if dtype == column.dtype else (column.astype(dtype), dtype.name)


def storable_dtype(dtype: np.dtype) -> np.dtype | None:
    """Type in which files hold numbers: the same in up to double precision; None if they are none."""
    widest = {"f": np.dtype(np.float64), "c": np.dtype(np.complex128)}.get(dtype.kind)
    if widest is not None and dtype.itemsize > widest.itemsize:
        return widest
    return dtype if dtype.kind in "biufc" else None


def _replaced(column: Column, values: Any) -> Column:
    return pd.Series(values, index=column.index, name=column.name)


def _objects(column: Column, *, as_categories: bool) -> Storable:
    """A column of any objects, by the types of those that are not missing."""
    there = column.notna()
    values = column[there]
    kinds = set(map(type, values))
    if not kinds:
        return _replaced(column, np.full(len(column), np.nan)), None
    if _all(kinds, (str,)):
        return _text(column, as_categories=as_categories)
    if _all(kinds, FLAGS):
        return _masked(column, there, "boolean"), None
    if _all(kinds, (*FLAGS, *WHOLE)):
        return _whole_numbers(column, there, mixed=any(issubclass(kind, FLAGS) for kind in kinds))
    if _all(kinds, NUMBERS):
        same = not any(issubclass(kind, (*FLAGS, decimal.Decimal)) for kind in kinds)
        numbers = np.full(len(column), np.nan)
        numbers[there] = [float(value) for value in values]
        return _replaced(column, numbers), None if same else "numbers"
    if _all(kinds, (*NUMBERS, complex, np.complexfloating)):
        numbers = np.full(len(column), np.nan, complex)
        numbers[there] = [complex(value) for value in values]
        return _replaced(column, numbers), "complex numbers"
    if any(issubclass(kind, TEXT) for kind in kinds) or _all(kinds, LABELS):
        if not _all(kinds, (*TEXT, *NUMBERS, *LABELS, complex, np.complexfloating)):
            return None, NO_TYPE
        text = column.astype(object).copy()
        text[there] = [_as_text(value) for value in values]
        text[~there] = None
        return _text(text, as_categories=as_categories)[0], "text"
    if _all(kinds, (*LABELS, *NUMBERS)):
        return None, "times and numbers have no type in common"
    return None, NO_TYPE


def _all(kinds: set[type], allowed: tuple[type, ...]) -> bool:
    return all(issubclass(kind, allowed) for kind in kinds)


def _as_text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _masked(column: Column, there: Column, dtype: str) -> Column:
    """Nullable values, or plain ones if none is missing."""
    masked = pd.Series(pd.array(column.where(there, None), dtype=dtype), index=column.index, name=column.name)
    return masked if not there.all() else masked.astype(masked.dtype.numpy_dtype)


def _whole_numbers(column: Column, there: Column, *, mixed: bool) -> Storable:
    """Integers, in the first type that holds them all."""
    numbers = [int(value) for value in column[there]]
    for dtype in ("Int64", "UInt64"):
        limits = np.iinfo(dtype.lower())
        if min(numbers) >= limits.min and max(numbers) <= limits.max:
            whole = column.where(there, None).astype(object)
            whole[there] = numbers
            return _masked(whole, there, dtype), "numbers" if mixed else None
    as_floats = np.full(len(column), np.nan)
    as_floats[there] = numbers
    return _replaced(column, as_floats), "floating-point numbers"


def _text(column: Column, *, as_categories: bool) -> Storable:
    """Strings, in a type that this anndata writes."""
    there, note = column.notna(), None
    if not is_text(column[there]):
        column = column.astype(object).copy()
        column[there] = [_escaped(value) for value in column[there]]
        note = "text in which what no file holds is escaped"
    if isinstance(column.dtype, pd.StringDtype):
        if writes_nullable_strings():
            return column, note
        column = column.astype(object).where(there, None)
    if as_categories and not there.all():
        column = _replaced(column, pd.Categorical(column))
    return column, note


def is_text(values: Iterable[str]) -> bool:
    """Whether strings are such as both file formats hold: of Unicode, and without NUL."""
    text = "".join(values)
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _escaped(value: str) -> str:
    return value.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def _categorical(column: Column) -> Storable:
    """Categories that are text or of one type of numbers."""
    categories = column.cat.categories
    new, note = storable_column(pd.Series(categories, dtype=categories.dtype))
    if new is None:
        return None, note
    if isinstance(new.dtype, pd.StringDtype) and not isinstance(categories.dtype, pd.StringDtype):
        new = new.astype(object)
    if len(categories) == 0 and categories.dtype != object:
        new = pd.Series([], dtype=object)
    if new.equals(pd.Series(categories, dtype=categories.dtype)):
        return column, None
    if not new.is_unique:  # such as 1 and "1": the labels would be merged
        return None, "its categories are written alike"
    values = pd.Categorical.from_codes(column.cat.codes, pd.Index(new), ordered=column.cat.ordered)
    return _replaced(column, values), note and f"categories of {note}"


def storable_names(names: pd.Index) -> pd.Index:
    """Names of cells or genes as strings that this anndata writes."""
    if isinstance(names.dtype, pd.StringDtype) and not writes_nullable_strings():
        return names.astype(object)
    return names


def writes_nullable_strings() -> bool:
    """Whether anndata, as it is set, writes pandas' string types."""
    return _writes_nullable_strings(getattr(ad.settings, "allow_write_nullable_strings", False))


@cache
def _writes_nullable_strings(setting: bool | None) -> bool:
    """Tried, as what the setting means depends on the releases of anndata and pandas."""
    return not write_error(pd.array(["", None], dtype="string"))
