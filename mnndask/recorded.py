"""What a corrected AnnData records of its correction, for whoever looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from mnndask.errors import InputError, InputKeyError
from mnndask.metrics import agreement_by_label, summarize
from mnndask.metrics.mixing import mixing_by_batch

REMEDY = "Give what mnn_correct or the command wrote, of this version of mnndask or a later one."

MOST_GROUPS = 40


@dataclass(frozen=True)
class Recorded:
    """A correction's record, and the annotations of the cells that it was measured on.

    Parameters
    ----------
    uns
        ``uns["mnn"]``.
    obs
        Annotations of all cells, or those that are needed.
    """

    uns: Mapping[str, Any]
    obs: pd.DataFrame

    @classmethod
    def of(cls, data: AnnData | Recorded) -> Recorded:
        """Take it from a corrected AnnData.

        Raises
        ------
        InputError
            If there is none.
        """
        if isinstance(data, Recorded):
            return data
        return cls(checked(getattr(data, "uns", {}).get("mnn"), "This AnnData"), data.obs)

    @property
    def steps(self) -> pd.DataFrame:
        """A row per batch, in merge order."""
        table: pd.DataFrame = self.uns["steps"]
        return table

    @property
    def sample(self) -> Mapping[str, Any]:
        """Cells that it was measured on; see :class:`mnndask.sampled.Sampled`."""
        out: Mapping[str, Any] = self.uns["sample"]
        return out

    @property
    def n_cells(self) -> int:
        """Cells of all batches."""
        return int(self.steps["n_cells"].sum())

    @property
    def batches(self) -> Any:
        """Batch of each sampled cell, categories in merge order."""
        names = pd.Index([str(name) for name in self.uns["batches"]])
        given = pd.Categorical.from_codes(self.sample["batch"], names)
        return given.reorder_categories([str(name) for name in self.steps["batch"]])

    def column(self, name: str) -> Any:
        """A column of obs as categories of the sampled cells; missing values are ``"missing"``.

        Raises
        ------
        InputKeyError, InputError
            If there is no such column, or the cells are not those that were corrected.
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
        """Whether a column of obs holds numbers, and more of them than groups could be told apart by."""
        given = self._given(name)
        return given.dtype.kind in "fiu" and given.nunique() > MOST_GROUPS

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of numbers of the sampled cells."""
        return self._given(name).to_numpy(np.float64, na_value=np.nan)

    def _given(self, name: str) -> pd.Series[Any]:
        if name not in self.obs:
            what = f"There is no column {name!r} in obs."
            raise InputKeyError(what, f"Its columns are: {', '.join(map(str, self.obs)) or 'none'}.")
        if len(self.obs) != self.n_cells:
            what = f"{self.n_cells:,} cells were corrected, and these are {len(self.obs):,}."
            raise InputError(what, "Give the whole result, as it came from the correction.")
        return self.obs[name].iloc[np.asarray(self.sample["row"])]

    def by_label(self, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Measures of the correction that know of labels: over all, and by label before and after.

        As :func:`mnndask.metrics.summarize` and :func:`mnndask.metrics.agreement_by_label`.

        Raises
        ------
        InputKeyError, InputError
            As :meth:`column`, and if there are too few cells.
        """
        labels, k = self.column(name), int(self.sample["n_neighbors"])
        if k == 0:
            what = f"{len(labels)} cells are too few to measure the agreement of labels."
            raise InputError(what, "Leave the label out.")
        states = self.sample["before"], self.sample["after"]
        overall = summarize(*states, self.batches, labels, k)
        before, after = (agreement_by_label(state, labels, self.batches, k) for state in states)
        out = before[["cells", "batches"]].copy()
        for measure in ("agreement", "transfer"):
            out[f"{measure}_before"], out[f"{measure}_after"] = before[measure], after[measure]
        return overall, out

    def mixing(self, label: str | None = None) -> pd.DataFrame:
        """Share of same-batch neighbours of each batch, in merge order: by chance, before and after."""
        order = list(self.batches.categories)
        if label is None:
            table: pd.DataFrame = self.uns["mixing"]
            return table[["expected", "before", "after"]].reindex(order)
        labels, k = self.column(label), int(self.sample["n_neighbors"])
        tables = [
            mixing_by_batch(self.sample[state], self.batches, labels, k) for state in ("before", "after")
        ]
        out = tables[1][["expected"]].rename(index=str)
        for state, table in zip(("before", "after"), tables, strict=True):
            out[state] = table["observed"].rename(index=str)
        return out.reindex(order)


def checked(uns: Any, what_it_is: str) -> Mapping[str, Any]:
    """``uns["mnn"]``, if it holds what is measured."""
    if not isinstance(uns, Mapping) or "steps" not in uns:
        what = f"{what_it_is} records no correction (there is no uns['mnn'])."
        raise InputError(what, REMEDY)
    if "sample" not in uns:
        what = f"{what_it_is} was corrected by an mnndask that did not measure its work."
        raise InputError(what, REMEDY)
    return uns
