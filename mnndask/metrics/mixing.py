"""Share of a cell's neighbours from its own batch, and the share expected by chance."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mnndask._library_state import exclusive
from mnndask.errors import InputError
from mnndask.metrics.cells import as_coordinates, check_number, coded
from mnndask.metrics.neighborhoods import nearest_cells


def same_batch_fraction(
    embedding: ArrayLike, batches: ArrayLike, n_neighbors: int = 30
) -> NDArray[np.float64]:
    """Return the share of each cell's nearest neighbours that belong to its own batch.

    If batches are mixed at random, it equals :func:`expected_same_batch` on average.

    Parameters
    ----------
    embedding
        Coordinates, shape ``(n_cells, n_dims)``; see :func:`embed`.
    batches
        Batch of each cell.
    n_neighbors
        Number of neighbours, not counting the cell itself.

    Returns
    -------
    Shape ``(n_cells,)``, between 0 and 1.

    Raises
    ------
    InputError
        If a coordinate is not finite, a batch is missing, or there are no more cells than neighbours.

    Notes
    -----
    The measure does not see types. If a correction moved a type wholly onto another type, its cells look as
    well mixed as after a right one: good mixing alone is no proof, and over-correction mixes best. Compare
    only figures of the same number of cells, of neighbours and of components. Measure components, not a UMAP,
    whose distances are distorted.

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
    """Return the share of each cell's neighbours that would belong to its batch if cells mixed at random.

    That is the batch's share among the other cells; with labels, among the other cells of the same label, as
    batches of different composition should not mix beyond that. The cell itself is not among its neighbours
    and is therefore not counted, which matters for small batches and rare labels.

    Parameters
    ----------
    batches
        Batch of each cell.
    labels
        Label of each cell.

    Returns
    -------
    Shape ``(n_cells,)``; NaN for a cell whose label no other cell has.

    Raises
    ------
    InputError
        If a batch or label is missing, or the numbers of labels and batches differ.

    Notes
    -----
    The share describes cells mixed at random; it is not always the goal. A batch with types of its own should
    stay above it, unless `labels` are given. Labels should not come from clusters of the corrected cells: if
    types were merged wrongly, so were their labels, and the mixture looks right.

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
    """Return observed and expected shares of same-batch neighbours by batch, the most deviant batch first.

    ``ratio`` is observed over expected, 1 for a batch that is mixed at random. Its value for separate batches
    depends on their sizes (2 for a batch of half the cells, 100 for a hundredth), so batches are ordered by
    ``excess``, (observed - expected) / (1 - expected): the share of same-batch neighbours beyond chance, 0
    for mixed and 1 for separate batches of any size (the form of Cohen's kappa). Below 0 a batch has more
    neighbours from other batches than by chance, for example if cells of one batch were moved onto single
    cells of another.

    Parameters
    ----------
    embedding
        Coordinates, shape ``(n_cells, n_dims)``; see :func:`embed`.
    batches
        Batch of each cell.
    labels
        Label of each cell, if batches differ in composition; see :func:`expected_same_batch`.
    n_neighbors
        Number of neighbours, not counting the cell itself.

    Returns
    -------
    One row per batch, the farthest from an excess of 0 first: ``cells``, ``observed`` (mean
    :func:`same_batch_fraction`), ``expected`` (mean :func:`expected_same_batch`), ``ratio``, ``excess``.
    Cells whose label no other cell has do not count. NaN if a batch shares no label with another, and so
    cannot mix.

    Raises
    ------
    InputError
        As in :func:`same_batch_fraction`, and if there is only one batch.

    Notes
    -----
    An excess near 0 is no proof of a right correction. A type that was moved wholly onto another type counts
    as mixed, and over-correction mixes best: see :func:`neighbors_kept` and :func:`label_transfer`, too.
    Compare only figures of the same number of cells, of neighbours and of components, and not those of a
    UMAP, whose distances are distorted. Labels should not come from clusters of the corrected cells.

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
    """Return the table of :func:`mixing_by_batch` for given fractions."""
    codes, values = coded(batches, len(observed), "batches")
    check_several(values)
    cells = pd.DataFrame({"observed": observed, "expected": expected_same_batch(batches, labels)})
    cells.loc[cells["expected"].isna(), "observed"] = np.nan
    with exclusive():
        out = cells.groupby(codes).mean()
    out.index = values.rename("batch")
    out.insert(0, "cells", np.bincount(codes))
    out["ratio"] = (out["observed"] / out["expected"]).where(out["expected"] > 0)
    out["excess"] = ((out["observed"] - out["expected"]) / (1 - out["expected"])).where(out["expected"] < 1)
    return out.sort_values("excess", key=np.abs, ascending=False, kind="stable")


def check_several(batches: pd.Index) -> None:
    """Raise InputError if there is only one batch."""
    if len(batches) < 2:
        what = f"All cells belong to one batch, {batches[0]!r}."
        raise InputError(what, "Give cells of two or more batches.")


def alike_fraction(
    embedding: ArrayLike, labels: ArrayLike, n_neighbors: int, kind: str
) -> NDArray[np.float64]:
    """Return the share of each cell's nearest neighbours that have its value."""
    cells = as_coordinates(embedding)
    codes, _ = coded(labels, len(cells), kind)
    check_number(n_neighbors, len(cells) - 1, f"{len(cells)} cells")
    return alike(codes, nearest_cells(cells, n_neighbors))


def alike(codes: NDArray[np.intp], found: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the share of each cell's given neighbours that have its code."""
    out: NDArray[np.float64] = (codes[found] == codes[:, None]).mean(axis=1)
    return out
