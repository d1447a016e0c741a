"""Columns of every kind that tables of cells hold, and what is the same in two of them."""

from __future__ import annotations

import numpy as np
import pandas as pd


def kinds(n, index):
    """Columns of 22 kinds for an even number of cells, by name."""
    r = np.arange(n)

    def half(*values):
        return list(values) * (n // len(values))

    def column(values, dtype=None):
        return pd.Series(values, index=index, dtype=dtype)

    return {
        "flag": column(r % 2 == 0),
        "masked-flag": column(half(True, None), "boolean"),
        "int64": column(r),
        "masked-int": column(half(1, None), "Int64"),
        "float64": column(np.where(r % 3 == 0, np.nan, r / 2)),
        "masked-float": column(half(1.5, None), "Float64"),
        "longdouble": column(r.astype(np.longdouble)),
        "sparse": column(pd.arrays.SparseArray(r % 2)),
        "text-missing": column(half("a", None), object),
        "string": column(half("a", None), "string"),
        "default-text": column(half("a", "b")),
        "category": column(pd.Categorical(half("a", "b"))),
        "ordered": column(pd.Categorical(half("a", "b"), categories=["b", "a", "z"], ordered=True)),
        "int-category": column(pd.Categorical(half(1, None))),
        "flag-category": column(pd.Categorical(half(True, False))),
        "interval": column(pd.cut(r.astype(float), 2)),
        "date-category": column(pd.Categorical(pd.date_range("2020", periods=n))),
        "date": column(pd.date_range("2020", periods=n)),
        "none": column([None] * n, object),
        "nan": column([np.nan] * n),
        "mixed": column(half(1, "a"), object),
        "lists": column([[1]] * n, object),
    }


TEXT = {"text-missing", "string", "default-text", "category", "ordered", "mixed"}
LABELS = {"interval", "date-category", "date"}  # written out, as there is no other way


def plain(column):
    """Values of a column, missing ones as None, whatever holds them."""
    return [
        None if value is None or value is pd.NA or value != value else value
        for value in column.astype(object)
    ]
