"""Columns of tables, converted to types that anndata writes in both file formats."""

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
BOOLEANS = (bool, np.bool_)
INTEGERS = (int, np.integer)
NUMBERS = (*BOOLEANS, *INTEGERS, float, np.floating, decimal.Decimal)

LABELS = (  # times and ranges: they have one textual form, and none among numbers
    datetime.date,  # base of datetime.datetime and pandas.Timestamp
    datetime.time,
    datetime.timedelta,
    np.datetime64,
    np.timedelta64,
    pd.Period,
    pd.Interval,
)

NO_TYPE = "no file format supports its values"
Column: TypeAlias = Any  # pandas' stubs lack methods that are used here
Storable = tuple[Column | None, str | None]  # the column, None if left out; its new type, or the reason


def storable_column(column: Column, *, as_categories: bool = False) -> Storable:
    """Convert a column to a type that both file formats support.

    Parameters
    ----------
    column
        Any column of a table.
    as_categories
        Whether text with missing values must be categorical; anndata converts it in ``obs`` and ``var``.

    Returns
    -------
    column
        None if it must be left out.
    note
        The new type, or the reason for leaving it out. None if the values are the same, even in another
        container: missing values may be NaN, None or pandas.NA.
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
    if pd.api.types.is_float_dtype(dtype):  # no file format supports masked floats
        return _replaced(column, column.to_numpy(dtype.numpy_dtype, na_value=np.nan)), None
    return _objects(column.astype(object), as_categories=as_categories)


def _plain(column: Column) -> Storable:
    """Convert a column of a NumPy type other than times."""
    dtype = storable_dtype(column.dtype)
    if dtype is None:
        return _objects(column.astype(object), as_categories=False)
    return (column, None) if dtype == column.dtype else (column.astype(dtype), dtype.name)


def storable_dtype(dtype: np.dtype) -> np.dtype | None:
    """Type in which files store numbers: at most double precision; None if the type is not numeric."""
    widest = {"f": np.dtype(np.float64), "c": np.dtype(np.complex128)}.get(dtype.kind)
    if widest is not None and dtype.itemsize > widest.itemsize:
        return widest
    return dtype if dtype.kind in "biufc" else None


def _replaced(column: Column, values: Any) -> Column:
    return pd.Series(values, index=column.index, name=column.name)


def _objects(column: Column, *, as_categories: bool) -> Storable:
    """Convert a column of objects according to the types of those that are not missing."""
    valid = column.notna()
    values = column[valid]
    kinds = set(map(type, values))
    if not kinds:
        return _replaced(column, np.full(len(column), np.nan)), None
    if _all(kinds, (str,)):
        return _text(column, as_categories=as_categories)
    if _all(kinds, BOOLEANS):
        return _masked(column, valid, "boolean"), None
    if _all(kinds, (*BOOLEANS, *INTEGERS)):
        return _integers(column, valid, mixed=any(issubclass(kind, BOOLEANS) for kind in kinds))
    if _all(kinds, NUMBERS):
        same = not any(issubclass(kind, (*BOOLEANS, decimal.Decimal)) for kind in kinds)
        numbers = np.full(len(column), np.nan)
        numbers[valid] = [float(value) for value in values]
        return _replaced(column, numbers), None if same else "numbers"
    if _all(kinds, (*NUMBERS, complex, np.complexfloating)):
        numbers = np.full(len(column), np.nan, complex)
        numbers[valid] = [complex(value) for value in values]
        return _replaced(column, numbers), "complex numbers"
    if any(issubclass(kind, TEXT) for kind in kinds) or _all(kinds, LABELS):
        if not _all(kinds, (*TEXT, *NUMBERS, *LABELS, complex, np.complexfloating)):
            return None, NO_TYPE
        text = column.astype(object).copy()
        text[valid] = [_as_text(value) for value in values]
        text[~valid] = None
        return _text(text, as_categories=as_categories)[0], "text"
    if _all(kinds, (*LABELS, *NUMBERS)):
        return None, "times and numbers have no common type"
    return None, NO_TYPE


def _all(kinds: set[type], allowed: tuple[type, ...]) -> bool:
    return all(issubclass(kind, allowed) for kind in kinds)


def _as_text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _masked(column: Column, valid: Column, dtype: str) -> Column:
    """Return nullable values, or plain ones if none is missing."""
    masked = pd.Series(pd.array(column.where(valid, None), dtype=dtype), index=column.index, name=column.name)
    return masked if not valid.all() else masked.astype(masked.dtype.numpy_dtype)


def _integers(column: Column, valid: Column, *, mixed: bool) -> Storable:
    """Convert integers to the first type that can represent all of them."""
    numbers = [int(value) for value in column[valid]]
    for dtype in ("Int64", "UInt64"):
        limits = np.iinfo(dtype.lower())
        if min(numbers) >= limits.min and max(numbers) <= limits.max:
            integers = column.where(valid, None).astype(object)
            integers[valid] = numbers
            return _masked(integers, valid, dtype), "numbers" if mixed else None
    as_floats = np.full(len(column), np.nan)
    as_floats[valid] = numbers
    return _replaced(column, as_floats), "floating-point numbers"


def _text(column: Column, *, as_categories: bool) -> Storable:
    """Convert strings to a type that the installed anndata writes."""
    valid, note = column.notna(), None
    if not is_text(column[valid]):
        column = column.astype(object).copy()
        column[valid] = [_escaped(value) for value in column[valid]]
        note = "text with unsupported characters escaped"
    if isinstance(column.dtype, pd.StringDtype):
        if writes_nullable_strings():
            return column, note
        column = column.astype(object).where(valid, None)
    if as_categories and not valid.all():
        column = _replaced(column, pd.Categorical(column))
    return column, note


def is_text(values: Iterable[str]) -> bool:
    """Whether both file formats support strings: they must be valid Unicode without NUL."""
    text = "".join(values)
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _escaped(value: str) -> str:
    return value.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def _categorical(column: Column) -> Storable:
    """Convert categories to text or to one type of numbers."""
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
        return None, "its categories have the same text"
    values = pd.Categorical.from_codes(column.cat.codes, pd.Index(new), ordered=column.cat.ordered)
    return _replaced(column, values), note and f"categories of {note}"


def storable_names(names: pd.Index) -> pd.Index:
    """Convert names of cells or genes to strings that the installed anndata writes."""
    if isinstance(names.dtype, pd.StringDtype) and not writes_nullable_strings():
        return names.astype(object)
    return names


def writes_nullable_strings() -> bool:
    """Whether anndata, with its current settings, writes pandas' string types."""
    return _writes_nullable_strings(getattr(ad.settings, "allow_write_nullable_strings", False))


@cache
def _writes_nullable_strings(setting: bool | None) -> bool:
    """Determined by trying, as the setting's meaning depends on the releases of anndata and pandas."""
    return not write_error(pd.array(["", None], dtype="string"))
