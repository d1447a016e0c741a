"""Names of the batches, and the batch of each cell."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from mnndask.errors import InputError, InputKeyError, InputTypeError, warn
from mnndask.io.anndata_compat import to_memory
from mnndask.io.genes import flat_names
from mnndask.io.opened_inputs import SEPARATOR, Input
from mnndask.stores.read_errors import reading


def batch_labels(source: Input, keys: Sequence[str]) -> pd.Series | None:
    """Return the batch of each cell by one column, or by several, whose values are joined; None without it.

    Raises
    ------
    InputError, InputTypeError
        If values are missing, or do not name batches.
    """
    if len(keys) == 1:
        return design_column(source, keys[0])
    columns = {key: design_column(source, key) for key in keys}
    lacking = [key for key, column in columns.items() if column is None]
    if lacking:
        what = f"{source.label} has no obs[{lacking[0]!r}], one of the columns of batch_key."
        raise InputKeyError(what, "Name columns that all inputs have.")
    joined_name = SEPARATOR.join(keys)
    if isinstance(source.frame, AnnData) and joined_name in source.frame.obs:
        what = f"{source.label} has a column {joined_name!r} in obs, in which results name the batches."
        raise InputError(
            what, f"Rename it, or use it instead of {' and '.join(keys)}: batch_key={joined_name!r}."
        )
    text = pd.DataFrame({key: np.asarray(column).astype(str) for key, column in columns.items()})
    joined = text[keys[0]]
    for key in keys[1:]:
        joined = joined + SEPARATOR + text[key]
    if joined.nunique() < len(text.drop_duplicates()):
        what = f"{source.label} has batches that differ in {', '.join(keys)} but are named alike when joined."
        raise InputError(what, f"Rename them without {SEPARATOR!r}.")
    return joined


def design_column(source: Input, name: str) -> pd.Series | None:
    """Return a column of obs whose values name batches or groups of them; None if there is none."""
    if not isinstance(source.frame, AnnData) or name not in source.frame.obs:
        return None
    with reading(source.label, "obs"):
        obs = to_memory(source.frame.obs)
    if list(obs.columns).count(name) > 1:
        what = f"{source.label} has the column {name!r} more than once in obs."
        remedy = "Keep one: adata.obs = adata.obs.loc[:, ~adata.obs.columns.duplicated()]"
        raise InputError(what, remedy)
    column: pd.Series = obs[name]
    if column.dtype == np.float16:  # pandas has no index of this type
        column = column.astype(np.float32)
    if column.isna().any():
        what = f"{source.label} has {int(column.isna().sum())} missing value(s) in obs[{name!r}]."
        raise InputError(what, "Fill them, or drop these cells.")
    if column.dtype == object and any(_nested(value) for value in column):
        what = f"{source.label} has lists or other containers in obs[{name!r}]."
        raise InputTypeError(what, "Convert them to strings or numbers.")
    if column.nunique() > column.astype(str).nunique():
        what = f"{source.label} has values in obs[{name!r}] that differ but print alike."
        raise InputError(what, "Give each batch its own name, or name another batch_key.")
    return column


def _nested(value: Any) -> bool:
    return isinstance(value, tuple) or not isinstance(value, Hashable)


def name_batches(
    sources: list[Input], keys: Sequence[str], batch_categories: Sequence[Hashable] | None
) -> tuple[list[Hashable], bool]:
    """Return the categories: those of a constant, distinct `batch_key` column, else as given, else numbers.

    Also return whether they are names rather than numbers.
    """
    columns, batch_key = [batch_labels(source, keys) for source in sources], SEPARATOR.join(keys)
    own = []
    for source, column in zip(sources, columns, strict=True):
        if column is None:
            continue
        values = column.unique()
        if len(values) > 1:
            what = f"{source.label} has {len(values)} values in obs[{batch_key!r}], so it is not one batch."
            raise InputError(
                what, "Pass only the AnnData that contains all batches, or name another batch_key."
            )
        own.append(values[0])
    given = _given_categories(batch_categories, len(sources))
    if len(set(map(str, own))) < len(set(own)):
        what = f"obs[{batch_key!r}] has values that differ but print alike: {own}."
        raise InputError(what, "Give each batch its own name, or name another batch_key.")
    if len(own) == len(sources) and len(set(own)) == len(own):
        if given is not None and [str(c) for c in given] != [str(c) for c in own]:
            what = f"batch_categories {given} disagree with obs[{batch_key!r}], which says {own}."
            raise InputError(what, "Leave batch_categories out, or name another batch_key.")
        return own, True
    if own:
        what = f"obs[{batch_key!r}] does not distinguish the batches and is replaced."
        warn(what, "Name another batch_key to keep it.")
    return (given, True) if given is not None else ([str(i) for i in range(len(sources))], False)


def _given_categories(categories: Sequence[Hashable] | None, n: int) -> list[Hashable] | None:
    if categories is None:
        return None
    given = list(flat_names(categories, "batch_categories", "Give one per batch, in input order."))
    if pd.isna(np.array(given, dtype=object)).any():
        what = f"batch_categories has a missing name: {given}."
        raise InputError(what, "Give one per batch, in input order.")
    if len(given) != n:
        what = f"batch_categories has {len(given)} name(s) for {n} batches."
        raise InputError(what, "Give one per batch, in input order.")
    if len(set(map(str, given))) != n:
        what = f"batch_categories names a batch twice: {given}."
        raise InputError(what, "Give each batch its own name.")
    return given


def split_batches(
    source: Input, keys: Sequence[str], batch_categories: Sequence[Hashable] | None
) -> tuple[list[Hashable], NDArray[np.integer]]:
    """Return the batches of one AnnData, by appearance or `batch_categories`, and the batch of each cell."""
    column, batch_key = batch_labels(source, keys), SEPARATOR.join(keys)
    if column is None:
        assert isinstance(source.frame, AnnData)
        what = f"The only data set given has no obs[{batch_key!r}] to split it by."
        raise InputKeyError(
            what, f"Name the column: batch_key=... (one of: {', '.join(source.frame.obs) or 'none'})."
        )
    values = list(pd.unique(np.asarray(column)))
    given = _given_categories(batch_categories, len(values))
    if given is not None:
        if {str(v) for v in given} != {str(v) for v in values}:
            what = f"batch_categories {given} disagree with obs[{batch_key!r}], which says {values}."
            raise InputError(what, "Name its values, in the order that the batches should have.")
        by_name = {str(v): v for v in values}
        values = [by_name[str(v)] for v in given]
    codes = pd.Index(values).get_indexer(np.asarray(column))
    return values, codes.astype(np.int16 if len(values) < 2**15 else np.int32)
