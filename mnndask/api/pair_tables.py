"""Tables of pairs, in the form that ``mnn_correct`` returns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mnndask._typing import Rows
from mnndask.core.history import MergeHistory

PAIR_COLUMNS = ("new cell", "ref cell", "original batch")


def pair_tables(history: MergeHistory) -> list[pd.DataFrame]:
    """One table of pairs per batch in input order, with mnnpy's columns; rows count all cells.

    Where batches move more than once, a column more has the number of the merge.
    """
    raw, sizes = history.cells.raw, history.cells.n_fitted
    found: list[list[tuple[Rows, ...]]] = [[] for _ in raw]
    for number, merge in enumerate(history.merges):
        ref_row, ref_batch = _rows_of_all_cells(history, merge.left.batches)
        for batch in merge.right.batches:
            new, ref = merge.pairs_of(batch, sizes)
            pairs = raw[batch].rows[new], ref_row[ref], ref_batch[ref], np.full(len(new), number)
            found[batch].append(pairs)
    columns = PAIR_COLUMNS if max(map(len, found)) < 2 else (*PAIR_COLUMNS, "merge")
    return [_table(pairs, columns) for pairs in found]


def no_pairs() -> pd.DataFrame:
    """An empty table of pairs, as for the reference."""
    return _table([], PAIR_COLUMNS)


def _rows_of_all_cells(history: MergeHistory, batches: Sequence[int]) -> tuple[Rows, Rows]:
    """Rows of fitted cells among all cells of batches that are stacked, and the batch of each."""
    raw = history.cells.raw
    offsets = np.cumsum([0] + [raw[b].n_cells for b in batches])
    rows = np.concatenate([raw[b].rows + at for b, at in zip(batches, offsets[:-1], strict=True)])
    return rows, np.repeat(batches, [len(raw[b].rows) for b in batches])


def _table(pairs: Sequence[tuple[Rows, ...]], columns: Sequence[str]) -> pd.DataFrame:
    """Pairs of one or more merges in one table."""
    none = [np.empty(0, np.intp)] * len(columns)
    values = [np.concatenate(own) for own in zip(*pairs, strict=True)] if pairs else none
    return pd.DataFrame(dict(zip(columns, values, strict=False)))
