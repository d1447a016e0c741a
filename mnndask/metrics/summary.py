"""All metrics of a correction, before and after."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray

from mnndask._library_state import exclusive
from mnndask.errors import InputError
from mnndask.metrics.agreement import label_transfer
from mnndask.metrics.cells import as_coordinates, check_number, coded
from mnndask.metrics.local_inverse_simpson import effective_number
from mnndask.metrics.local_structure import kept_and_contraction
from mnndask.metrics.mixing import alike, check_several, expected_same_batch, observed_by_batch
from mnndask.metrics.neighborhoods import nearest_cells
from mnndask.metrics.of_result import cells_of_result

PerCell = NDArray[np.float64]
N_NEIGHBORS = 30
ROUNDING = 1e-9  # a batch this near its ideal, as a ratio, is not reported as the worst


class _Measure(NamedTuple):
    """A measure of each cell in both states, its ideal, and the pandas method that summarises it."""

    before: PerCell
    after: PerCell
    ideal: PerCell
    by: Literal["mean", "median"] = "mean"


def summarize(  # noqa: PLR0913
    before: ArrayLike | AnnData,
    after: ArrayLike | None = None,
    batches: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    n_neighbors: int | None = None,
    *,
    label: str | None = None,
    reference: Hashable | None = None,
) -> pd.DataFrame:
    """Measure a correction: mixing, damage to the structure of batches and, with labels, to biology.

    Parameters
    ----------
    before, after
        Coordinates of the same cells, shapes ``(n_cells, n_dims)``; see :func:`embed`, and
        :func:`contraction` for their units. Or, alone, a result of :func:`mnndask.mnn_correct`, an AnnData
        with ``uns["mnn"]``: both states and the batches are those of the recorded cells.
    batches
        Batch of each cell.
    labels
        Label of each cell. With labels, the ideal mixing is random within each label.
    n_neighbors
        Number of neighbours; also the perplexity of :func:`lisi`, which uses three times as many. None: 30;
        for a result, as recorded (30, or a tenth of few cells).
    label
        Column of obs with the labels, for a result.
    reference
        Batch by whose median contractions are divided; see :func:`contraction`.

    Returns
    -------
    One row per measure, with columns ``before``, ``after``, ``ideal`` (the value of a perfect correction),
    ``worst_batch`` and ``worst``: the batch farthest from its ideal afterwards, by ratio, and its value (None
    and the value of all cells if all batches reach their ideal or the measure is undefined). The rows:

    ``same_batch``
        Mean :func:`same_batch_fraction`. The ideal is the mean :func:`expected_same_batch`, the worst batch
        the first of :func:`mixing_by_batch`.
    ``same_batch_ratio``
        Observed over expected share, for the same cells and worst batch.
    ``lisi``
        Median :func:`lisi` of batches (iLISI). The ideal is 1 over the sum of squared shares of the batches
        among all cells (of the cell's label), which only infinitely large neighbourhoods reach.
    ``neighbors_kept``
        Mean :func:`neighbors_kept`.
    ``contraction``
        Median :func:`contraction`.
    ``label_agreement``, ``label_transfer``
        Means of :func:`label_agreement` and :func:`label_transfer`, if labels are given.

    Cells and batches for which a measure is undefined do not count; if that is all of them: NaN and None.

    Raises
    ------
    InputError
        If a coordinate is not finite, a batch or label is missing, there is only one batch, the embeddings
        differ in their number of cells, there are fewer than ``3 * n_neighbors`` cells, or no batch has
        ``n_neighbors + 2``. For a result: if the correction was not measured, or its cells cannot be found.
    InputKeyError
        If the reference is not one of the batches, or there is no column `label`.

    Notes
    -----
    No row is a verdict of its own. Mixing is best after over-correction, and ``neighbors_kept`` and
    ``contraction`` are perfect if nothing was corrected. Without labels, no row sees a type that was moved as
    a whole onto another type. Labels should not come from clusters of the corrected cells. Compare only
    tables of the same number of cells, of neighbours and of components, and not those of a UMAP, whose
    distances are distorted.

    A result is measured on its recorded cells alone, at most 2,000 of a batch and 10,000 in all: nothing lazy
    is computed.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import summarize
    >>> rng = np.random.default_rng(0)
    >>> cells, batches = rng.normal(size=(300, 2)), np.repeat(["a", "b", "c"], 100)
    >>> apart = cells + 9 * (batches == "b")[:, None]
    >>> aligned = np.where((batches == "c")[:, None], cells / 2, cells)
    >>> summarize(apart, aligned, batches, n_neighbors=20).round(2)  # doctest: +NORMALIZE_WHITESPACE
                      before  after  ideal worst_batch  worst
    measure
    same_batch          0.66   0.39   0.33           c   0.51
    same_batch_ratio    2.01   1.19   1.00           c   1.55
    lisi                1.75   2.37   3.00           c   2.29
    neighbors_kept      1.00   1.00   1.00        None   1.00
    contraction         1.00   1.00   1.00           c   0.50

    A result as it is:

    >>> from mnndask import mnn_correct
    >>> from mnndask.datasets import simulate
    >>> parts = simulate(300, 50, 2)
    >>> result, _, _ = mnn_correct(*parts, var_subset=parts[0].var_names)
    >>> summarize(result, label="cell_type").index[-1]
    'label_transfer'
    """
    if isinstance(before, AnnData):
        if after is not None or batches is not None or labels is not None:
            what = "A result was given together with after, batches or labels."
            raise InputError(what, "Give the result alone, with label='...', the name of a column of obs.")
        cells = cells_of_result(before, label, n_neighbors)
        return Comparison(*cells, reference=reference).overall()
    if label is not None:
        what = f"label={label!r} names a column of obs, but coordinates were given."
        raise InputError(what, "Give labels=[...], one per cell, or a result of mnn_correct.")
    if after is None or batches is None:
        what = "Coordinates before correction were given without those after it, or without batches."
        raise InputError(what, "Give summarize(before, after, batches), or a result of mnn_correct alone.")
    k = N_NEIGHBORS if n_neighbors is None else n_neighbors
    return Comparison(before, after, batches, labels, k, reference=reference).overall()


class Comparison:
    """The measures of :func:`summarize`, by cell, to summarise over all or by batch; same parameters."""

    def __init__(
        self,
        before: ArrayLike,
        after: ArrayLike,
        batches: ArrayLike,
        labels: ArrayLike | None,
        n_neighbors: int,
        *,
        reference: Hashable | None = None,
    ) -> None:
        kept, contracted = kept_and_contraction(before, after, batches, n_neighbors, reference)
        self.batches, self.labels = batches, labels
        self.codes, self.values = codes, values = coded(batches, len(kept), "batches")
        check_several(values)
        check_number(n_neighbors, len(kept) // 3, f"{len(kept)} cells, 3 for each neighbour")
        old, new = _State(as_coordinates(before), n_neighbors), _State(as_coordinates(after), n_neighbors)
        self.same = old.alike(codes), new.alike(codes)
        self.measures = {
            "lisi": _Measure(old.lisi(codes), new.lisi(codes), _evenly_mixed(codes, labels), "median"),
            "neighbors_kept": _Measure(_ones_of(kept), kept, _ones_of(kept)),
            "contraction": _Measure(_ones_of(contracted), contracted, _ones_of(contracted), "median"),
        }
        if labels is not None:
            kinds, _ = coded(labels, len(kept), "labels")
            was, now = old.alike(kinds), new.alike(kinds)
            self.measures["label_agreement"] = _Measure(was, now, _ones_of(now))
            was, now = (label_transfer(x.cells, labels, batches, n_neighbors) for x in (old, new))
            self.measures["label_transfer"] = _Measure(was, now, _ones_of(now))

    @exclusive()
    def overall(self) -> pd.DataFrame:
        """Return the table of :func:`summarize`."""
        rows = _mixing_rows(*self.same, self.batches, self.labels)
        rows |= {name: _row(measure, self.codes, self.values) for name, measure in self.measures.items()}
        out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("measure")
        worst = {name: row["worst_batch"] for name, row in rows.items()}
        # A column of text would turn None into NaN.
        return out.assign(worst_batch=pd.Series(worst, dtype=object))

    @exclusive()
    def by_batch(self) -> pd.DataFrame:
        """Return mixing and preserved structure of each batch, the worst mixed batch first.

        ``before``, ``after``: observed shares of same-batch neighbours; ``excess_before``, ``excess_after``
        and ``expected`` as in :func:`mixing_by_batch`; ``neighbors_kept`` (mean), ``contraction`` (median).
        """
        was, now = (observed_by_batch(share, self.batches, self.labels) for share in self.same)
        own = pd.DataFrame({name: self.measures[name].after for name in ("neighbors_kept", "contraction")})
        kept = own.groupby(self.codes).agg({"neighbors_kept": "mean", "contraction": "median"})
        kept.index = self.values.rename("batch")
        out = pd.DataFrame(
            {
                "cells": now["cells"],
                "expected": now["expected"],
                "before": was["observed"],
                "after": now["observed"],
                "excess_before": was["excess"],
                "excess_after": now["excess"],
            }
        )
        return out.join(kept).loc[now.index]


class _State:
    """Cells in one state, with their neighbours, searched once for all measures."""

    def __init__(self, cells: NDArray[np.floating], n_neighbors: int) -> None:
        self.cells, self.n_neighbors = cells, n_neighbors
        self.found = nearest_cells(cells, 3 * n_neighbors - 1)

    def alike(self, codes: NDArray[np.intp]) -> PerCell:
        return alike(codes, self.found[:, : self.n_neighbors])

    def lisi(self, codes: NDArray[np.intp]) -> PerCell:
        return effective_number(self.cells, codes, int(codes.max()) + 1, self.found, self.n_neighbors)


def _ones_of(measured: PerCell) -> PerCell:
    """Return 1 for the cells for which a measure is defined, else NaN."""
    return np.where(np.isnan(measured), np.nan, 1.0)


@exclusive()
def _evenly_mixed(codes: NDArray[np.intp], labels: ArrayLike | None) -> PerCell:
    """Return the effective number of batches among all cells of each cell's label."""
    kinds = np.zeros_like(codes) if labels is None else coded(labels, len(codes), "labels")[0]
    counts = pd.crosstab(kinds, codes).to_numpy()
    shares = counts / counts.sum(axis=1, keepdims=True)
    out: PerCell = (1 / (shares**2).sum(axis=1))[kinds]
    return out


def _mixing_rows(
    before: PerCell, after: PerCell, batches: ArrayLike, labels: ArrayLike | None
) -> dict[str, dict[str, Any]]:
    cells = pd.DataFrame({"before": before, "after": after, "ideal": expected_same_batch(batches, labels)})
    share = cells.dropna().mean()
    by_batch = observed_by_batch(after, batches, labels)
    worst = by_batch.iloc[0]
    name = by_batch.index[0] if np.isfinite(worst["excess"]) else None
    observed, ratio = (worst["observed"], worst["ratio"]) if name is not None else (np.nan, np.nan)
    return {
        "same_batch": {**share, "worst_batch": name, "worst": observed},
        "same_batch_ratio": {**share / share["ideal"], "worst_batch": name, "worst": ratio},
    }


def _row(measure: _Measure, codes: NDArray[np.intp], batches: pd.Index) -> dict[str, Any]:
    cells = pd.DataFrame({"before": measure.before, "after": measure.after, "ideal": measure.ideal})
    by_batch = cells.groupby(codes).agg(measure.by)
    with np.errstate(divide="ignore"):  # a value of 0 is infinitely far from its ideal
        off = np.abs(np.log((by_batch["after"] / by_batch["ideal"]).to_numpy()))
    overall = dict(cells.agg(measure.by))
    if not (off > ROUNDING).any():  # undefined, or all at their ideal
        return overall | {"worst_batch": None, "worst": overall["after"]}
    worst = int(np.nanargmax(off))
    return overall | {"worst_batch": batches[worst], "worst": by_batch["after"].iloc[worst]}
