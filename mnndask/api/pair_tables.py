"""Tables of pairs, in the form that ``mnn_correct`` returns."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mnndask._typing import Rows
from mnndask.core.history import MergeHistory

PAIR_COLUMNS = ("new cell", "ref cell", "original batch")


def pair_tables(history: MergeHistory) -> list[pd.DataFrame]:
    """One table of pairs per batch in input order, with mnnpy's columns; rows count all cells."""
    raw, order = history.cells.raw, history.order
    offsets = np.cumsum([0] + [raw[b].n_cells for b in order])
    ref_row = np.concatenate([raw[b].rows + at for b, at in zip(order, offsets[:-1], strict=True)])
    ref_batch = np.repeat(order, [len(raw[b].rows) for b in order])
    tables = [no_pairs()] * len(order)
    for merge in history.merges:
        ref_rows = merge.pairs.ref_rows
        new = raw[merge.batch].rows[merge.pairs.new_rows]
        tables[merge.batch] = _table(new, ref_row[ref_rows], ref_batch[ref_rows])
    return tables


def no_pairs() -> pd.DataFrame:
    """An empty table of pairs, as for the reference."""
    empty = np.empty(0, np.intp)
    return _table(empty, empty, empty)


def _table(new: Rows, ref: Rows, batch: Rows) -> pd.DataFrame:
    return pd.DataFrame(dict(zip(PAIR_COLUMNS, (new, ref, batch), strict=True)))
