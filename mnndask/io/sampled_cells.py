"""Find the cells on which a correction was measured in an AnnData, whose cells may be filtered or sorted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mnndask._typing import Rows
from mnndask.errors import InputError, InputKeyError
from mnndask.io.record import SAMPLED, Record


def sample_in(obs: pd.DataFrame, record: Record, holder: str) -> tuple[Mapping[str, Any], Rows | None]:
    """Return the recorded cells that an AnnData has, and the row of each; None if that is not known.

    Parameters
    ----------
    obs
        Annotations of the cells of the AnnData.
    record
        Its record.
    holder
        What messages call the AnnData.

    Raises
    ------
    InputError
        If the correction was not measured, or its cells cannot be told apart.
    """
    if record.sample is None:
        what = f"{holder} was corrected without measuring the correction."
        raise InputError(what, "Correct it again without diagnostics=False.")
    sample = record.sample
    if "row" in sample:  # of an older record, which is of all cells, in their order
        complete = len(obs) == int(record.steps["n_cells"].sum())
        return sample, np.asarray(sample["row"]) if complete else None
    if SAMPLED not in obs:
        return sample, None
    rows = _rows_by_number(obs[SAMPLED], len(sample["batch"]), holder)
    present = np.flatnonzero(rows >= 0)
    if not len(present):
        what = f"{holder} has none of the cells on which the correction was measured."
        raise InputError(what, "Give more of the cells of the result.")
    return _of_cells(sample, present), rows[present]


def column_of_cells(obs: pd.DataFrame, name: str, record: Record, rows: Rows | None) -> pd.Series[Any]:
    """Return a column of obs for the recorded cells, whose rows :func:`sample_in` returned.

    Raises
    ------
    InputKeyError, InputError
        If there is no such column, or the rows are not known.
    """
    if name not in obs:
        what = f"There is no column {name!r} in obs."
        raise InputKeyError(what, f"Its columns are: {', '.join(map(str, obs)) or 'none'}.")
    return obs[name].iloc[known_rows(obs, record, rows)]


def known_rows(obs: pd.DataFrame, record: Record, rows: Rows | None) -> Rows:
    """Return the rows of the recorded cells in obs. Raise InputError if they are not known."""
    if rows is not None:
        return rows
    if "row" in (record.sample or {}):
        n_cells = int(record.steps["n_cells"].sum())
        what = f"{n_cells:,} cells were corrected, but obs has {len(obs):,}."
        raise InputError(what, "Give the whole result of the correction.")
    what = f"obs has no column {SAMPLED!r}, by which the record's cells are found."
    raise InputError(what, "Keep this column, or copy it from the result of the correction.")


def _rows_by_number(column: Any, n: int, holder: str) -> Rows:
    """Return the row of each numbered cell of the sample, -1 for those that are not there."""
    numbers = pd.to_numeric(pd.Series(np.asarray(column)), errors="coerce").fillna(-1).to_numpy(float)
    rows = np.full(n, -1, np.intp)
    found = np.flatnonzero(numbers >= 0)
    given = numbers[found]
    if (given >= n).any() or (given != np.floor(given)).any():
        what = f"obs[{SAMPLED!r}] of {holder} is not of the correction that uns['mnn'] records."
        raise InputError(what, f"Keep uns['mnn'] and obs[{SAMPLED!r}] of one result together.")
    if len(np.unique(given)) < len(given):
        what = f"obs[{SAMPLED!r}] of {holder} has a number twice: cells of several results, or repeated."
        raise InputError(what, "Give the cells of one result, each once.")
    rows[given.astype(np.intp)] = found
    return rows


def _of_cells(sample: Mapping[str, Any], present: Rows) -> dict[str, Any]:
    """Return a sample with some of its cells, the pairs among these, and a number of neighbours for them."""
    arrays = {key: np.asarray(value) for key, value in sample.items()}
    if len(present) == len(arrays["batch"]):
        return arrays
    position = np.full(len(arrays["batch"]), -1)
    position[present] = np.arange(len(present))
    new, reference = position[arrays["pair_new"]], position[arrays["pair_reference"]]
    kept = (new >= 0) & (reference >= 0)
    out: dict[str, Any] = {
        key: arrays[key][present] for key in ("batch", "length", "factor", "before", "after")
    }
    largest = int(np.bincount(out["batch"]).max())
    k = max(0, min(int(arrays["n_neighbors"]), len(present) // 3, largest - 2))
    return out | {"pair_new": new[kept], "pair_reference": reference[kept], "n_neighbors": np.int64(k)}
