"""Metrics with labels: whether cells of one label stay together, within and across batches."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors

from mnndask._library_state import exclusive
from mnndask._threads import single_threaded_blas
from mnndask.metrics.cells import as_coordinates, check_number, coded
from mnndask.metrics.mixing import alike_fraction, check_several

SMALL_BATCH = 200  # cells; neighbours of such batches' cells are found in one search


def label_agreement(embedding: ArrayLike, labels: ArrayLike, n_neighbors: int = 30) -> NDArray[np.float64]:
    """Return the share of each cell's nearest neighbours that have its label.

    Computed like :func:`same_batch_fraction`. If a correction lowers it, unlike cells were merged.

    Parameters
    ----------
    embedding
        Coordinates, shape ``(n_cells, n_dims)``; see :func:`embed`.
    labels
        Label of each cell.
    n_neighbors
        Number of neighbours, not counting the cell itself.

    Returns
    -------
    Shape ``(n_cells,)``, between 0 and 1.

    Raises
    ------
    InputError
        If a coordinate is not finite, a label is missing, the numbers of labels and cells differ, or there
        are no more cells than neighbours.

    Notes
    -----
    Agreement says nothing of how batches mix: it can be high where nothing was corrected. Labels should not
    come from clusters of the corrected cells, which agree with their neighbours by construction. A label with
    no more cells than `n_neighbors` cannot reach 1. Compare only figures of the same cells, labels and number
    of neighbours, and not those of a UMAP, whose distances are distorted.

    Examples
    --------
    >>> from mnndask.metrics import label_agreement
    >>> label_agreement([[0.0], [0.1], [0.2], [5.0]], ["T", "T", "B", "B"], n_neighbors=2).tolist()
    [0.5, 0.5, 0.0, 0.5]
    """
    return alike_fraction(embedding, labels, n_neighbors, "labels")


def label_transfer(
    embedding: ArrayLike, labels: ArrayLike, batches: ArrayLike, n_neighbors: int = 30
) -> NDArray[np.float64]:
    """Return whether the nearest cells of other batches predict each cell's label.

    The prediction is the most common label among a cell's nearest neighbours in all other batches. Ties go to
    the first label in sorted order, or in the order of a categorical. If batches are aligned, it is right;
    unlike in :func:`label_agreement`, neighbours of the same batch do not count.

    Parameters
    ----------
    embedding
        Coordinates, shape ``(n_cells, n_dims)``; see :func:`embed`.
    labels
        Label of each cell.
    batches
        Batch of each cell.
    n_neighbors
        Number of neighbours in other batches; all cells of these if there are fewer.

    Returns
    -------
    Shape ``(n_cells,)``: 1 if the prediction is right, 0 if wrong, NaN if no other batch has the label.

    Raises
    ------
    InputError
        If a coordinate is not finite, a label or batch is missing, the numbers of labels, batches and cells
        differ, `n_neighbors` is less than 1, or there is only one batch.

    Notes
    -----
    Labels must be comparable between batches, and should not come from clusters of the corrected cells: the
    prediction would then be right by construction. A type that only one batch has is not judged (NaN),
    wherever it was moved. A label with fewer cells in other batches than half of `n_neighbors` can be
    outvoted although batches are aligned. Measure components, not a UMAP, whose distances are distorted.

    References
    ----------
    A nearest-neighbour classifier across batches, as in the label transfer of Stuart et al. 2019,
    *Comprehensive integration of single-cell data*, Cell 177, 1888-1902 ("Label transfer"), with plain votes
    instead of anchors.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import label_transfer
    >>> types = ["T", "T", "B", "B", "T", "T", "B", "NK"]
    >>> where = np.array([0.0, 0.1, 5.0, 5.1, 0.2, 5.3, 5.2, 5.4])[:, None]
    >>> label_transfer(where, types, [0, 0, 0, 0, 1, 1, 1, 1], n_neighbors=1).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, nan]
    """
    cells = as_coordinates(embedding)
    codes, values = coded(labels, len(cells), "labels")
    own_batch, names = coded(batches, len(cells), "batches")
    check_several(names)
    check_number(n_neighbors, None, "other batches")
    out, sizes = np.empty(len(cells)), np.bincount(own_batch)
    few = (sizes <= SMALL_BATCH) & (len(cells) - sizes >= n_neighbors)
    few &= few.sum() > 1
    of_few = np.flatnonzero(few[own_batch])
    if len(of_few):
        found = _nearest_of_others(cells, own_batch, of_few, n_neighbors, int(sizes[few].max()))
        out[of_few] = _predicted(codes[found], codes[of_few], len(values))
    for batch in np.flatnonzero(~few):
        own = own_batch == batch
        others = codes[~own]
        with exclusive(), single_threaded_blas():
            model = NearestNeighbors(n_neighbors=min(n_neighbors, len(others))).fit(cells[~own])
            neighbor_codes = others[model.kneighbors(cells[own], return_distance=False)]
        out[own] = _predicted(neighbor_codes, codes[own], len(values))
    several = np.array([len(np.unique(own_batch[codes == code])) > 1 for code in range(len(values))])
    return np.where(several[codes], out, np.nan)


def _nearest_of_others(
    cells: NDArray[np.floating], batches: NDArray[np.intp], rows: NDArray[np.intp], n: int, largest: int
) -> NDArray[np.intp]:
    """Return the `n` nearest cells of other batches; the cells' own have at most `largest` cells."""
    with exclusive(), single_threaded_blas():
        model = NearestNeighbors(n_neighbors=min(n + largest, len(cells))).fit(cells)
        found = model.kneighbors(cells[rows], return_distance=False)
    own = batches[found] == batches[rows][:, None]
    first = np.argsort(own, axis=1, kind="stable")[:, :n]
    nearest: NDArray[np.intp] = np.take_along_axis(found, first, axis=1)
    return nearest


def _predicted(neighbors: NDArray[np.intp], labels: NDArray[np.intp], n_labels: int) -> NDArray[np.float64]:
    """Return whether the most common of neighbours' labels are those of the cells."""
    votes = np.stack([(neighbors == code).sum(axis=1) for code in range(n_labels)], axis=1)
    out: NDArray[np.float64] = (votes.argmax(axis=1) == labels).astype(np.float64)
    return out


def agreement_by_label(
    embedding: ArrayLike, labels: ArrayLike, batches: ArrayLike, n_neighbors: int = 30
) -> pd.DataFrame:
    """Return agreement and transfer of each label, to find cell types that a correction merged with others.

    Means over all cells would hide a rare type that is lost entirely.

    Parameters
    ----------
    embedding
        Coordinates, shape ``(n_cells, n_dims)``; see :func:`embed`.
    labels
        Label of each cell.
    batches
        Batch of each cell.
    n_neighbors
        Number of neighbours, not counting the cell itself. A label with no more cells than this cannot reach
        an agreement of 1.

    Returns
    -------
    One row per label, sorted, or in the order of a categorical: ``cells``, ``batches`` (number of batches
    with the label), ``agreement`` (mean :func:`label_agreement`), ``transfer`` (mean :func:`label_transfer`;
    NaN for a label of only one batch).

    Raises
    ------
    InputError
        As in :func:`label_agreement` and :func:`label_transfer`.

    Notes
    -----
    The mean of a label of few cells varies by chance: read ``cells`` with it. Labels should not come from
    clusters of the corrected cells, which agree by construction. ``agreement`` says nothing of how batches
    mix, and ``transfer`` nothing of labels that only one batch has. Compare only tables of the same cells and
    number of neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import agreement_by_label
    >>> types = np.tile(["B", "NK", "T", "T"], 50)
    >>> where = 9.0 * (types == "B")[:, None] + np.arange(200)[:, None] / 200
    >>> table = agreement_by_label(where, types, np.repeat([0, 1], 100), n_neighbors=20)
    >>> table.round(2)  # doctest: +NORMALIZE_WHITESPACE
           cells  batches  agreement  transfer
    label
    B         50        2       1.00       1.0
    NK        50        2       0.30       0.0
    T        100        2       0.65       1.0
    """
    agreement = label_agreement(embedding, labels, n_neighbors)
    transfer = label_transfer(embedding, labels, batches, n_neighbors)
    codes, values = coded(labels, len(agreement), "labels")
    own_batch, _ = coded(batches, len(agreement), "batches")
    cells = pd.DataFrame({"batch": own_batch, "agreement": agreement, "transfer": transfer})
    with exclusive():
        out = cells.groupby(codes).agg(
            cells=("batch", "size"),
            batches=("batch", "nunique"),
            agreement=("agreement", "mean"),
            transfer=("transfer", "mean"),
        )
    out.index = values.rename("label")
    return out
