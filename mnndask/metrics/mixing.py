"""How many of a cell's neighbours are of its own batch, against what chance would give."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mnndask.errors import InputError
from mnndask.metrics.cells import check_number, coded, coordinates
from mnndask.metrics.neighborhoods import nearest


def same_batch_fraction(
    embedding: ArrayLike, batches: ArrayLike, n_neighbors: int = 30
) -> NDArray[np.float64]:
    """Share of each cell's nearest neighbours that are of its own batch.

    Where batches mix it falls to :func:`expected_same_batch`.

    Parameters
    ----------
    embedding
        Coordinates, shape ``(n_cells, n_dims)``; see :func:`embed`.
    batches
        Batch of each cell.
    n_neighbors
        Number of neighbours, the cell not counted.

    Returns
    -------
    Shape ``(n_cells,)``, between 0 and 1.

    Raises
    ------
    InputError
        If a coordinate is not finite, a batch is missing, or there are not more cells than neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import same_batch_fraction
    >>> apart = np.repeat([[0.0], [9.0]], 10, axis=0) + np.arange(20)[:, None] / 100
    >>> float(same_batch_fraction(apart, np.repeat(["a", "b"], 10), n_neighbors=5).mean())
    1.0
    """
    return alike_fraction(embedding, batches, n_neighbors, "batches")


def expected_same_batch(batches: ArrayLike, labels: ArrayLike | None = None) -> NDArray[np.float64]:
    """Share of each cell's neighbours that would be of its own batch if cells were mixed at random.

    That is the batch's share among the other cells; with labels, among the other cells of the cell's label,
    as batches that differ in what they hold should not mix beyond that. The cell itself is not among its
    neighbours and so is not counted, which matters for small batches and rare labels.

    Parameters
    ----------
    batches
        Batch of each cell.
    labels
        Label of each cell.

    Returns
    -------
    Shape ``(n_cells,)``; NaN for a cell that no other is like.

    Raises
    ------
    InputError
        If a batch or label is missing, or there are not as many labels as batches.

    Examples
    --------
    >>> from mnndask.metrics import expected_same_batch
    >>> expected_same_batch(["a", "a", "a", "b", "b"]).tolist()
    [0.5, 0.5, 0.5, 0.25, 0.25]
    >>> expected_same_batch(["a", "a", "a", "b", "b"], ["T", "T", "B", "T", "B"]).tolist()
    [0.5, 0.5, 0.0, 0.0, 0.0]
    """
    n_cells = np.size(batches)
    codes, values = coded(batches, n_cells, "batches")
    kinds = np.zeros(n_cells, np.intp) if labels is None else coded(labels, n_cells, "labels")[0]
    own = np.bincount(kinds * len(values) + codes)[kinds * len(values) + codes] - 1
    others = np.bincount(kinds)[kinds] - 1
    out = np.full(n_cells, np.nan)
    np.divide(own, others, out=out, where=others > 0)
    return out


def mixing_by_batch(
    embedding: ArrayLike, batches: ArrayLike, labels: ArrayLike | None = None, n_neighbors: int = 30
) -> pd.DataFrame:
    """Same-batch neighbours of each batch, observed and expected; the most deviant batch comes first.

    ``ratio`` is observed over expected: 1 where a batch is mixed at random. What it is where batches lie
    apart depends on their sizes (a batch of half the cells reaches 2, one of a hundredth 100), so the batches
    are ordered by ``excess``, (observed - expected) / (1 - expected): the share of its neighbourhood that a
    batch keeps to itself beyond chance, 0 mixed and 1 apart whatever the sizes (the form of Cohen's kappa).
    Below 0 a batch is among others more than chance would have it, as where cells of one batch are drawn to
    single cells of another.

    Parameters
    ----------
    embedding
        Coordinates, shape ``(n_cells, n_dims)``; see :func:`embed`.
    batches
        Batch of each cell.
    labels
        Label of each cell, where batches hold them in different shares; see :func:`expected_same_batch`.
    n_neighbors
        Number of neighbours, the cell not counted.

    Returns
    -------
    A row per batch, the farthest from an excess of 0 first: ``cells``, ``observed`` (mean
    :func:`same_batch_fraction`), ``expected`` (mean :func:`expected_same_batch`), ``ratio``, ``excess``.
    Cells that no other is like do not count. NaN where a batch shares no label with another, so that it
    cannot mix.

    Raises
    ------
    InputError
        As :func:`same_batch_fraction`, and if there is one batch only.

    References
    ----------
    Comparing a neighbourhood's batches with those of all cells is the idea of kBET: Büttner et al. 2019, *A
    test metric for assessing single-cell RNA-seq batch correction*, Nature Methods 16, 43-49 (section
    "kBET"). The excess is kappa of Cohen 1960, *A coefficient of agreement for nominal scales*, Educational
    and Psychological Measurement 20, 37-46 (equation 1).

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import mixing_by_batch
    >>> rng = np.random.default_rng(0)
    >>> batches = np.repeat(["one", "other", "apart"], 100)
    >>> cells = rng.normal(size=(300, 2)) + 9 * (batches == "apart")[:, None]
    >>> mixing_by_batch(cells, batches).round(2)  # doctest: +NORMALIZE_WHITESPACE
           cells  observed  expected  ratio  excess
    batch
    apart    100      1.00      0.33   3.02    1.00
    one      100      0.49      0.33   1.49    0.24
    other    100      0.49      0.33   1.49    0.24
    """
    observed = same_batch_fraction(embedding, batches, n_neighbors)
    return observed_by_batch(observed, batches, labels)


def observed_by_batch(
    observed: NDArray[np.float64], batches: ArrayLike, labels: ArrayLike | None
) -> pd.DataFrame:
    """The table of :func:`mixing_by_batch`, of fractions that are known."""
    codes, values = coded(batches, len(observed), "batches")
    check_several(values)
    cells = pd.DataFrame({"observed": observed, "expected": expected_same_batch(batches, labels)})
    cells.loc[cells["expected"].isna(), "observed"] = np.nan
    out = cells.groupby(codes).mean()
    out.index = values.rename("batch")
    out.insert(0, "cells", np.bincount(codes))
    out["ratio"] = (out["observed"] / out["expected"]).where(out["expected"] > 0)
    out["excess"] = ((out["observed"] - out["expected"]) / (1 - out["expected"])).where(out["expected"] < 1)
    return out.sort_values("excess", key=np.abs, ascending=False, kind="stable")


def check_several(batches: pd.Index) -> None:
    """InputError if there is one batch only."""
    if len(batches) < 2:
        what = f"All cells are of one batch, {batches[0]!r}: 1 in all."
        raise InputError(what, "Give cells of two batches or more.")


def alike_fraction(
    embedding: ArrayLike, labels: ArrayLike, n_neighbors: int, what_they_are: str
) -> NDArray[np.float64]:
    """Share of each cell's nearest neighbours that have its value."""
    cells = coordinates(embedding)
    codes, _ = coded(labels, len(cells), what_they_are)
    check_number(n_neighbors, len(cells) - 1, f"{len(cells)} cells")
    return alike(codes, nearest(cells, n_neighbors))


def alike(codes: NDArray[np.intp], found: NDArray[np.intp]) -> NDArray[np.float64]:
    """Share of the neighbours found that have a cell's own code."""
    out: NDArray[np.float64] = (codes[found] == codes[:, None]).mean(axis=1)
    return out
