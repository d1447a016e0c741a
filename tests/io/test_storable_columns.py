"""Single columns as files hold them: what becomes of values that no file can hold, and of others."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest
from columns import kinds, plain

from mnndask.io.anndata_compat import write_error
from mnndask.io.columns import storable_column

DAY = datetime.date(2020, 1, 2)
GIVEN = {
    "flags and numbers": ([True, 2, 0.5, None], "numbers", [1, 2, 0.5, None]),
    "flags and whole numbers": ([True, 2, None], "numbers", [1, 2, None]),
    "whole numbers": ([1, None], None, [1, None]),
    "beyond int64": ([2**63, None], None, [2**63, None]),
    "beyond uint64": ([2**70, None], "floating-point numbers", [2.0**70, None]),
    "decimals": ([decimal.Decimal("0.5"), None], "numbers", [0.5, None]),
    "complex": ([1j, 2, None], "complex numbers", [1j, 2, None]),
    "bytes": ([b"a", "b", b"\xff", None], "text", ["a", "b", "\\xff", None]),
    "dates": ([DAY, None], "text", ["2020-01-02", None]),
    "durations": ([pd.Timedelta(hours=1), pd.NaT], "text", ["0 days 01:00:00", None]),
    "dates and numbers": ([DAY, 1.0], "times and numbers have no common type", None),
    "dates and text": ([DAY, "never"], "text", ["2020-01-02", "never"]),
    "numbers and text": ([1, 2.5, "x", np.nan], "text", ["1", "2.5", "x", None]),
    "lists": ([[1], "x"], "no file format supports its values", None),
    "no Unicode": (["\ud800", None], "text with unsupported characters escaped", ["\\ud800", None]),
    "NUL": (["a\0b", None], "text with unsupported characters escaped", ["a\\x00b", None]),
    "nothing": ([None, np.nan, pd.NA, pd.NaT], None, [None] * 4),
}


@pytest.mark.parametrize("name", GIVEN)
def test_objects(name):
    values, note, wanted = GIVEN[name]
    column, said = storable_column(pd.Series(values, dtype=object), as_categories=True)
    assert said == note
    assert (None if column is None else plain(column)) == wanted
    assert column is None or write_error(column.to_frame("x")) is None


@pytest.mark.parametrize("dtype", ["int8", "uint64", "float16", "complex128", "UInt8", "Float32", "boolean"])
def test_what_files_hold_stays(dtype):
    given = pd.Series([1, 0], dtype=dtype)
    column, said = storable_column(given)
    assert said is None
    assert plain(column) == plain(given)
    assert column.dtype == ("float32" if dtype == "Float32" else dtype)


@pytest.mark.parametrize("categories", [[1, "1"], [1.5, "1.5", 2]])
def test_categories_that_are_written_alike_are_not_merged(categories):
    given = pd.Series(pd.Categorical(categories[:2], categories=pd.Index(categories, dtype=object)))
    assert storable_column(given) == (None, "its categories have the same text")


def test_categories_keep_their_order_and_those_without_cells():
    days = pd.date_range("2020", periods=3)
    column, said = storable_column(
        pd.Series(pd.Categorical(days[[2, 0]], categories=days[::-1], ordered=True))
    )
    assert said == "categories of text"
    assert [day[:10] for day in column.cat.categories] == ["2020-01-03", "2020-01-02", "2020-01-01"]
    assert column.cat.ordered


def test_columns_of_every_kind_are_written_or_left_out():
    for name, given in kinds(4, list("abcd")).items():
        column, said = storable_column(given, as_categories=True)
        assert (column is None) == (name == "lists"), name
        assert column is None or write_error(column.to_frame("x")) is None, (name, said)


def test_columns_of_arrow():
    pytest.importorskip("pyarrow")
    for values, dtype in (
        ([1, None], "int64"),
        ([1.5, None], "double"),
        (["a", None], "string"),
        ([True, None], "bool"),
    ):
        column, said = storable_column(pd.Series(values, dtype=f"{dtype}[pyarrow]"), as_categories=True)
        assert said is None
        assert plain(column) == values
        assert write_error(column.to_frame("x")) is None
