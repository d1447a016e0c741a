"""Strings as plain arrays, which readers of ``.h5ad`` in other languages know.

With pandas 3, anndata writes strings as nullable ones: a group of two arrays in the place of an array.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from mnndask.io.anndata_compat import is_mapping


def plain(value: Any) -> Any:
    """Return a table, or a mapping of elements, with strings as objects. Those with missing values stay."""
    if isinstance(value, pd.DataFrame):
        return _plain_table(value)
    if is_mapping(value):
        return {key: plain(part) for key, part in value.items()}
    return value


def _plain_table(table: pd.DataFrame) -> pd.DataFrame:
    out = table.copy(deep=False)
    for name in table:
        if _has_strings(table[name]):
            out[name] = _plain_column(table[name])
    return out.set_axis(_plain_index(out.index), axis=0)


def _has_strings(column: Any) -> bool:
    dtype = getattr(column, "dtype", None)  # a duplicate column is a table and has no dtype
    if isinstance(dtype, pd.CategoricalDtype):
        dtype = dtype.categories.dtype
    return isinstance(dtype, pd.StringDtype)


def _plain_column(column: pd.Series) -> pd.Series:
    if isinstance(column.dtype, pd.CategoricalDtype):
        categories: Any = _plain_index(column.cat.categories)
        out: pd.Series = column.cat.rename_categories(categories)
        return out
    return column if column.isna().any() else column.astype(object)


def _plain_index(index: pd.Index) -> pd.Index:
    if not isinstance(index.dtype, pd.StringDtype) or index.hasnans:
        return index
    out: pd.Index = pd.Index(index.to_numpy(object), dtype=object, name=index.name)
    return out
