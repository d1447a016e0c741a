"""The cells on which a correction was measured, as arguments of metrics."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from mnndask.errors import InputError
from mnndask.io.record import Record
from mnndask.io.sampled_cells import column_of_cells, sample_in


class ResultCells(NamedTuple):
    """Coordinates of the recorded cells in both states, their batches and labels, and neighbours to use."""

    before: np.ndarray
    after: np.ndarray
    batches: Any
    labels: Any
    n_neighbors: int


def cells_of_result(result: AnnData, label: str | None, n_neighbors: int | None) -> ResultCells:
    """Return the recorded cells of a result of :func:`mnndask.mnn_correct`.

    Raises
    ------
    InputError, InputKeyError
        If the correction was not measured, its cells cannot be found or are too few, or there is no such
        column.
    """
    holder = "This AnnData"
    record = Record.from_uns(result.uns.get("mnn"), holder)
    sample, rows = sample_in(result.obs, record, holder)
    k = int(sample["n_neighbors"]) if n_neighbors is None else n_neighbors
    if not k:
        what = f"{holder} has {len(sample['batch'])} cells of the record: too few to measure."
        raise InputError(what, "Give the whole result.")
    batches = pd.Categorical.from_codes(sample["batch"], pd.Index([str(name) for name in record.batches]))
    labels = None if label is None else column_of_cells(result.obs, label, record, rows).array
    return ResultCells(np.asarray(sample["before"]), np.asarray(sample["after"]), batches, labels, k)
