"""The sampled cells of a correction, with their annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from mnndask._typing import Rows
from mnndask.diagnostics.measures import FEW_CELLS
from mnndask.errors import InputError
from mnndask.io.record import SUPPORT, Record
from mnndask.io.sampled_cells import column_of_cells, known_rows, sample_in
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
    uns
        Colours of columns, ``"<column>_colors"``, among other things.
    """

    record: Record
    obs: pd.DataFrame
    sample: Mapping[str, Any]
    rows: Rows | None
    uns: Mapping[str, Any] = field(default_factory=dict)

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
        return cls.found_in(data.obs, Record.from_uns(uns, "This AnnData"), "This AnnData", data.uns)

    @classmethod
    def found_in(
        cls, obs: pd.DataFrame, record: Record, holder: str, uns: Mapping[str, Any] | None = None
    ) -> RecordedCells:
        """Look the sampled cells up in the table of cells of an AnnData, which messages call `holder`."""
        return cls(record, obs, *sample_in(obs, record, holder), uns or {})

    def all_cells(self) -> RecordedCells:
        """Return the value with all cells of the AnnData as those to show, for columns of obs."""
        return replace(self, rows=np.arange(len(self.obs)))

    @property
    def steps(self) -> pd.DataFrame:
        """Table of the merge steps, one row per batch in merge order."""
        return self.record.steps

    @property
    def batch_key(self) -> str:
        """Column of obs with the batches."""
        return str(self.record.parameters.get("batch_key", "batch"))

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
        return column_of_cells(self.obs, name, self.record, self.rows)

    def known_rows(self) -> Rows:
        """Return the row of each cell in obs. Raise InputError if it is not known."""
        return known_rows(self.obs, self.record, self.rows)

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

    def support_by_label(self, name: str) -> pd.DataFrame:
        """Return mean support by label and batch, in merge order, without the reference.

        NaN where there are fewer than ``FEW_CELLS`` cells, and everywhere if support is not recorded.
        """
        labels, batches = self.column(name), self.batches
        names, known = pd.Index(labels.categories), np.full(len(labels), np.nan)
        if SUPPORT in self.obs:
            known = pd.to_numeric(self._given(SUPPORT), errors="coerce").to_numpy(np.float64, na_value=np.nan)
        shape, own = (len(names), len(batches.categories)), np.isfinite(known)
        groups = labels.codes[own].astype(np.intp) * shape[1] + batches.codes[own]
        counts = np.bincount(groups, minlength=shape[0] * shape[1])
        sums = np.bincount(groups, known[own], len(counts))
        means = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts >= FEW_CELLS)
        return pd.DataFrame(means.reshape(shape), names, batches.categories).iloc[:, 1:]

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
