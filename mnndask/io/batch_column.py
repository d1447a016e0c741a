"""The column of a result that names the batches, with the type that it has in the inputs, if any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mnndask.io.changes import Changes, at
from mnndask.io.columns import storable_column
from mnndask.io.elements import note_renamed
from mnndask.io.keys import storable_keys
from mnndask.io.opened_inputs import Inputs


def batch_column(
    inputs: Inputs, tables: Sequence[pd.DataFrame], batch_key: str, changes: Changes
) -> tuple[str, list[Any]]:
    """Return the name of the column in the result and, per source, the batch of each cell, of one type."""
    name = storable_keys([[batch_key], *(table.columns for table in tables)])[0][0]
    note_renamed(changes, "obs", [batch_key], [name])
    columns: list[Any] = [table.get(batch_key) for table in tables]
    if inputs.codes is not None:
        given = columns[0] is not None and isinstance(columns[0].dtype, pd.CategoricalDtype)
        dtype = columns[0].dtype if given else _by_appearance(inputs)
        labels: list[Any] = [columns[0] if given else pd.Categorical.from_codes(inputs.codes, dtype=dtype)]
    else:
        dtype = _common_type(columns, inputs) or _by_appearance(inputs)
        codes = [dtype.categories.get_loc(category) for category in inputs.categories]
        labels = [
            pd.Categorical.from_codes(np.full(len(table), code, np.intp), dtype=dtype)
            for table, code in zip(tables, codes, strict=True)
        ]
    return name, [_storable(label, at("obs", batch_key), changes) for label in labels]


def _by_appearance(inputs: Inputs) -> pd.CategoricalDtype:
    return pd.CategoricalDtype(pd.Index(list(dict.fromkeys(inputs.categories)), tupleize_cols=False))


def _common_type(columns: Sequence[Any], inputs: Inputs) -> pd.CategoricalDtype | None:
    """Type of the inputs' own columns if all have the same and name the batches, as after a split."""
    dtypes: list[Any] = [getattr(column, "dtype", None) for column in columns]
    first = dtypes[0]
    if not isinstance(first, pd.CategoricalDtype):
        return None
    for column, dtype, category in zip(columns, dtypes, inputs.categories, strict=True):
        same = isinstance(dtype, pd.CategoricalDtype) and dtype.ordered == first.ordered
        if not same or not dtype.categories.equals(first.categories) or column.iloc[0] != category:
            return None
    return first


def _storable(labels: Any, where: str, changes: Changes) -> Any:
    labels = pd.Series(labels)
    column, note = storable_column(labels)
    if column is None:  # categories without a common type; those that print alike have been refused
        column, note = labels.cat.rename_categories(list(map(str, labels.cat.categories))), "text"
    if note:
        changes.converted[where] = note
    return pd.Categorical(column)
