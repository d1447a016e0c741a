"""Whether cells of one label stay together, within and across batches."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors

from mnndask.metrics.cells import check_number, coded, coordinates
from mnndask.metrics.mixing import alike_fraction, check_several


def label_agreement(embedding: ArrayLike, labels: ArrayLike, n_neighbors: int = 30) -> NDArray[np.float64]:
    """Share of each cell's nearest neighbours that carry its label; as :func:`same_batch_fraction`.

    Where a correction makes it fall, cells that differ have been merged.

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
    """Whether the nearest cells of other batches tell each cell's label.

    A cell is given the commonest label among its nearest neighbours of all batches but its own (of equally
    common ones the first in sorted order, or in that of a categorical). Where batches are aligned it is the
    right one; unlike :func:`label_agreement`, neighbours of the same batch are no help.

    Parameters
    ----------
    embedding
        Coordinates, shape ``(n_cells, n_dims)``; see :func:`embed`.
    labels
        Label of each cell.
    batches
        Batch of each cell.
    n_neighbors
        Number of neighbours of other batches; all, if there are fewer.

    Returns
    -------
    Shape ``(n_cells,)``: 1 where the label is right, 0 where it is wrong, NaN where no other batch has it.

    Raises
    ------
    InputError
        If a coordinate is not finite, a label or batch is missing, there are not as many labels and batches
        as cells, no neighbours, or one batch only.

    References
    ----------
    A nearest-neighbour classifier across batches, as in the label transfer of Stuart et al. 2019,
    *Comprehensive integration of single-cell data*, Cell 177, 1888-1902 ("Label transfer"), with plain votes
    in place of anchors.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import label_transfer
    >>> types = ["T", "T", "B", "B", "T", "T", "B", "NK"]
    >>> where = np.array([0.0, 0.1, 5.0, 5.1, 0.2, 5.3, 5.2, 5.4])[:, None]
    >>> label_transfer(where, types, [0, 0, 0, 0, 1, 1, 1, 1], n_neighbors=1).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, nan]
    """
    cells = coordinates(embedding)
    codes, values = coded(labels, len(cells), "labels")
    own_batch, names = coded(batches, len(cells), "batches")
    check_several(names)
    check_number(n_neighbors, None, "other batches")
    out = np.empty(len(cells))
    for batch in range(len(names)):
        own = own_batch == batch
        others = codes[~own]
        nearest = NearestNeighbors(n_neighbors=min(n_neighbors, len(others))).fit(cells[~own])
        found = others[nearest.kneighbors(cells[own], return_distance=False)]
        votes = np.stack([(found == code).sum(axis=1) for code in range(len(values))], axis=1)
        right = votes.argmax(axis=1) == codes[own]
        out[own] = np.where(np.isin(codes[own], others), right, np.nan)
    return out


def agreement_by_label(
    embedding: ArrayLike, labels: ArrayLike, batches: ArrayLike, n_neighbors: int = 30
) -> pd.DataFrame:
    """Agreement and transfer of each label: which kinds of cells a correction has merged with others.

    Means over all cells hide a rare kind that is lost altogether.

    Parameters
    ----------
    embedding
        Coordinates, shape ``(n_cells, n_dims)``; see :func:`embed`.
    labels
        Label of each cell.
    batches
        Batch of each cell.
    n_neighbors
        Number of neighbours, the cell not counted. A label of no more cells cannot have an agreement of 1.

    Returns
    -------
    A row per label, sorted, or in the order of a categorical: ``cells``, ``batches`` (how many hold it),
    ``agreement`` (mean :func:`label_agreement`), ``transfer`` (mean :func:`label_transfer`; NaN for a label
    of one batch only).

    Raises
    ------
    InputError
        As :func:`label_agreement` and :func:`label_transfer`.

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
    by_label = cells.groupby(codes)
    out = by_label.agg(
        cells=("batch", "size"),
        batches=("batch", "nunique"),
        agreement=("agreement", "mean"),
        transfer=("transfer", "mean"),
    )
    out.index = values.rename("label")
    return out
