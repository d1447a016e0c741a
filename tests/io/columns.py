"""Columns of every kind that tables of cells hold, and what is the same in two of them."""

from __future__ import annotations

import numpy as np
import pandas as pd


def kinds(n, index):
    """Columns of 30 kinds for an even number of cells, by name; the names differ in more than case."""
    r = np.arange(n)

    def half(*values):
        return list(values) * (n // len(values))

    def column(values, dtype=None):
        return pd.Series(values, index=index, dtype=dtype)

    return {
        "flag": column(r % 2 == 0),
        "masked-flag": column(half(True, None), "boolean"),
        "flag-object": column(half(True, None), object),
        "int8": column(r % 100, "int8"),
        "int64": column(r),
        "uint64": column(r, "uint64"),
        "masked-int": column(half(1, None), "Int64"),
        "int-object": column(half(1, None), object),
        "float16": column(r, "float16"),
        "float64": column(np.where(r % 3 == 0, np.nan, r / 2)),
        "masked-float": column(half(1.5, None), "Float64"),
        "longdouble": column(r.astype(np.longdouble)),
        "complex": column(r * 1j),
        "sparse": column(pd.arrays.SparseArray(r % 2)),
        "text": column([f"s{i}" for i in r], object),
        "text-missing": column(half("a", None), object),
        "string": column(half("a", None), "string"),
        "default-text": column(half("a", "b")),
        "bytes": column(half(b"a", b"b")),
        "category": column(pd.Categorical(half("a", "b"))),
        "ordered": column(pd.Categorical(half("a", "b"), categories=["b", "a", "z"], ordered=True)),
        "int-category": column(pd.Categorical(half(1, None))),
        "flag-category": column(pd.Categorical(half(True, False))),
        "interval": column(pd.cut(r.astype(float), 2)),
        "date-category": column(pd.Categorical(pd.date_range("2020", periods=n))),
        "date": column(pd.date_range("2020", periods=n)),
        "duration": column(pd.to_timedelta(r, unit="h")),
        "none": column([None] * n, object),
        "nan": column([np.nan] * n),
        "mixed": column(half(1, "a"), object),
        "lists": column([[1]] * n, object),
    }


TEXT = {"text", "text-missing", "string", "default-text", "bytes", "category", "ordered", "mixed"}
LABELS = {"interval", "date-category", "date", "duration"}  # written out, as there is no other way


def plain(column):
    """Values of a column, missing ones as None, whatever holds them."""
    return [
        None if value is None or value is pd.NA or value != value else value
        for value in column.astype(object)
    ]
