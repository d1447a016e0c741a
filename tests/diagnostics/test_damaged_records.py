"""A record of a correction that is not as it was written is an error of what shows it, and no traceback."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from helpers import as_anndata, make_batches

from mnndask import mnn_correct
from mnndask.cli.look import summary
from mnndask.errors import InputError, InputReadError
from mnndask.io.record import Record


@pytest.fixture(scope="module")
def uns():
    """A sound record."""
    batches = [as_anndata(X, name) for name, X in zip("abc", make_batches((30, 28, 26)), strict=True)]
    return mnn_correct(*batches, k=5, svd_dim=2)[0].uns["mnn"]


def read(uns):
    """Show a record; return the error, if there is one."""
    try:
        assert summary(Record.from_uns(uns, "it.zarr"), (84, 40), "it.zarr")
    except InputError as error:
        return error
    return None


def places(node, trail=()):
    """Ways to all members of a record, columns of tables among them."""
    members = node if isinstance(node, Mapping | pd.DataFrame) else ()
    for key in members:
        yield (*trail, key)
        yield from places(node[key], (*trail, key))


def copies(uns):
    """A copy of a record for each of its members, what holds the member there, and its key."""
    for *holders, key in places(uns):
        damaged = holder = copy.deepcopy(uns)
        for name in holders:
            holder = holder[name]
        yield damaged, holder, key


OTHERS = {
    "number": 7,
    "text": "x",
    "nothing": None,
    "array": np.arange(3),
    "infinite": np.inf,
    "negative": -1,
    "huge": 2**62,
    "mapping": {},
    "table": pd.DataFrame({"batch": ["a"]}),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_members_that_are_something_else(other, uns):
    errors = []
    for damaged, holder, key in copies(uns):
        in_table = isinstance(holder, pd.DataFrame) and not (np.isscalar(other) or other is None)
        holder[key] = "x" if in_table else other
        errors.append(read(damaged))
    assert len(errors) > 50
    check(errors)


def test_members_that_are_gone(uns):
    errors = []
    for damaged, holder, key in copies(uns):
        del holder[key]
        errors.append(read(damaged))
    check(errors)


def test_members_of_another_length(uns):
    errors = []
    for damaged, holder, key in copies(uns):
        value = holder[key]
        if isinstance(holder, dict) and np.ndim(value) and len(value):
            holder[key] = value[:-1]
            errors.append(read(damaged))
    check(errors)


def check(errors):
    told = [error for error in errors if error is not None]
    assert len(told) > 3
    for error in told:
        first, second = str(error).splitlines()
        assert "it.zarr" in first
        assert second
    assert any(isinstance(error, InputReadError) for error in told)


def test_a_sound_record_passes(uns):
    assert read(uns) is None
