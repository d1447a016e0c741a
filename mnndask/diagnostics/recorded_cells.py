"""The sampled cells of a correction, with their annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from mnndask._typing import Rows
from mnndask.errors import InputError, InputKeyError
from mnndask.io.record import SAMPLED, Record
from mnndask.metrics import agreement_by_label, summarize
from mnndask.metrics.mixing import mixing_by_batch

MOST_GROUPS = 40  # a numeric column with more values is shown on a colour scale


@dataclass(frozen=True)
class RecordedCells:
    """The record of a correction, and the sampled cells in it that an AnnData still has.

    Parameters
    ----------
    record
        Content of ``uns["mnn"]``.
    obs
        Annotations of the cells of the AnnData; columns that are not used may be missing.
    sample
        Sampled cells that the AnnData has, all if that is not known; see
        :class:`mnndask.diagnostics.sample.SampledCells`.
    rows
        Row of each of them in `obs`; None if that is not known.
    """

    record: Record
    obs: pd.DataFrame
    sample: Mapping[str, Any]
    rows: Rows | None

    @classmethod
    def of(cls, data: AnnData | RecordedCells) -> RecordedCells:
        """Create the value from a corrected AnnData, whose cells may be filtered and in another order.

        Raises
        ------
        InputError
            If no correction is recorded, it was not measured, or its cells cannot be told apart.
        """
        if isinstance(data, RecordedCells):
            return data
        uns = getattr(data, "uns", {}).get("mnn")
        return cls.found_in(data.obs, Record.from_uns(uns, "This AnnData"), "This AnnData")

    @classmethod
    def found_in(cls, obs: pd.DataFrame, record: Record, holder: str) -> RecordedCells:
        """Look the sampled cells up in the table of cells of an AnnData, which messages call `holder`."""
        if record.sample is None:
            what = f"{holder} was corrected without measuring the correction."
            raise InputError(what, "Correct it again without diagnostics=False.")
        sample = record.sample
        if "row" in sample:  # of an older record, which is of all cells, in their order
            complete = len(obs) == int(record.steps["n_cells"].sum())
            return cls(record, obs, sample, np.asarray(sample["row"]) if complete else None)
        if SAMPLED not in obs:
            return cls(record, obs, sample, None)
        rows = _rows_by_number(obs[SAMPLED], len(sample["batch"]), holder)
        present = np.flatnonzero(rows >= 0)
        if not len(present):
            what = f"{holder} has none of the cells on which the correction was measured."
            raise InputError(what, "Give more of the cells of the result.")
        return cls(record, obs, _of_cells(sample, present), rows[present])

    @property
    def steps(self) -> pd.DataFrame:
        """Table of the merge steps, one row per batch in merge order."""
        return self.record.steps

    @property
    def n_cells(self) -> int:
        """Number of cells of all batches."""
        return int(self.record.steps["n_cells"].sum())

    @property
    def batches(self) -> Any:
        """Batch of each sampled cell, with categories in merge order."""
        names = pd.Index([str(name) for name in self.record.batches])
        given = pd.Categorical.from_codes(self.sample["batch"], names)
        return given.reorder_categories([str(name) for name in self.record.steps["batch"]])

    def column(self, name: str) -> Any:
        """Return a column of obs for the sampled cells, as categories; missing values become ``"missing"``.

        Raises
        ------
        InputKeyError, InputError
            If there is no such column, or the cells cannot be found in obs.
        """
        given = self._given(name)
        values = given.astype(object)
        text = values.where(values.notna(), "missing").astype(str)
        if isinstance(given.dtype, pd.CategoricalDtype):
            order = [str(c) for c in given.cat.categories]
            known = dict.fromkeys([c for c in order if c in set(text)] + sorted(set(text) - set(order)))
            return pd.Categorical(text, categories=list(known))
        return pd.Categorical(text)

    def is_measure(self, name: str) -> bool:
        """Return whether a column of obs is numeric, with more values than groups that can be told apart."""
        given = self._given(name)
        return given.dtype.kind in "fiu" and given.nunique() > MOST_GROUPS

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a numeric column of obs for the sampled cells."""
        return self._given(name).to_numpy(np.float64, na_value=np.nan)

    def _given(self, name: str) -> pd.Series[Any]:
        if name not in self.obs:
            what = f"There is no column {name!r} in obs."
            raise InputKeyError(what, f"Its columns are: {', '.join(map(str, self.obs)) or 'none'}.")
        if self.rows is None and "row" in self.sample:
            what = f"{self.n_cells:,} cells were corrected, but obs has {len(self.obs):,}."
            raise InputError(what, "Give the whole result of the correction.")
        if self.rows is None:
            what = f"obs has no column {SAMPLED!r}, by which the record's cells are found."
            raise InputError(what, "Keep this column, or copy it from the result of the correction.")
        return self.obs[name].iloc[self.rows]

    def by_label(self, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return measures of the correction that use labels: over all cells, and by label.

        See :func:`mnndask.metrics.summarize` and :func:`mnndask.metrics.agreement_by_label`.

        Raises
        ------
        InputKeyError, InputError
            As in :meth:`column`, and if there are too few cells.
        """
        labels, k = self.column(name), int(self.sample["n_neighbors"])
        if k == 0:
            what = f"{len(labels)} cells are too few to measure the agreement of labels."
            raise InputError(what, "Leave out the label.")
        states = self.sample["before"], self.sample["after"]
        overall = summarize(*states, self.batches, labels, k)
        before, after = (agreement_by_label(state, labels, self.batches, k) for state in states)
        out = before[["cells", "batches"]].copy()
        for measure in ("agreement", "transfer"):
            out[f"{measure}_before"], out[f"{measure}_after"] = before[measure], after[measure]
        return overall, out

    def mixing(self, label: str | None = None) -> pd.DataFrame:
        """Return the share of same-batch neighbours by batch in merge order: expected, before and after."""
        order = list(self.batches.categories)
        if label is None:
            assert self.record.mixing is not None
            return self.record.mixing[["expected", "before", "after"]].reindex(order)
        labels, k = self.column(label), int(self.sample["n_neighbors"])
        tables = [
            mixing_by_batch(self.sample[state], self.batches, labels, k) for state in ("before", "after")
        ]
        out = tables[1][["expected"]].rename(index=str)
        for state, table in zip(("before", "after"), tables, strict=True):
            out[state] = table["observed"].rename(index=str)
        return out.reindex(order)


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
