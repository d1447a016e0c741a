"""How well batches mix, and whether what is alike stays together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from mnndask.errors import InputError


def embed(X: Any, n_components: int = 20, *, random_state: int = 0) -> NDArray[np.floating]:
    """Principal components of cells, shape ``(n_cells, n_components)``; fewer if there are fewer."""
    dense = X.toarray() if sparse.issparse(X) else np.asarray(X)
    n = min(n_components, *dense.shape)
    out: NDArray[np.floating] = PCA(n, random_state=random_state).fit_transform(dense)
    return out


def same_batch_fraction(
    embedding: NDArray[np.floating], batches: ArrayLike, n_neighbors: int = 30
) -> NDArray[np.float64]:
    """Share of each cell's nearest neighbours that are of its own batch.

    Where batches mix it falls to the batch's share among cells of that kind.

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

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import same_batch_fraction
    >>> apart = np.repeat([[0.0], [9.0]], 10, axis=0) + np.arange(20)[:, None] / 100
    >>> float(same_batch_fraction(apart, np.repeat(["a", "b"], 10), n_neighbors=5).mean())
    1.0
    """
    return _agreement(embedding, batches, n_neighbors)


def label_agreement(
    embedding: NDArray[np.floating], labels: ArrayLike, n_neighbors: int = 30
) -> NDArray[np.float64]:
    """Share of each cell's nearest neighbours that carry its label; as :func:`same_batch_fraction`."""
    return _agreement(embedding, labels, n_neighbors)


def label_transfer(
    embedding: NDArray[np.floating], labels: ArrayLike, batches: ArrayLike, n_neighbors: int = 30
) -> NDArray[np.float64]:
    """Whether the nearest cells of other batches tell each cell's label.

    A cell is given the commonest label among its nearest neighbours of all batches but its own (of equally
    common ones the first in sorted order). Where batches are aligned it is the right one; unlike
    :func:`label_agreement`, neighbours of the same batch are no help.

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
        If there are not as many labels and batches as cells, no neighbours, or one batch only.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import label_transfer
    >>> types = ["T", "T", "B", "B", "T", "T", "B", "NK"]
    >>> where = np.array([0.0, 0.1, 5.0, 5.1, 0.2, 5.3, 5.2, 5.4])[:, None]
    >>> label_transfer(where, types, [0, 0, 0, 0, 1, 1, 1, 1], n_neighbors=1).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, nan]
    """
    values, codes = np.unique(_one_per_cell(labels, embedding, "labels"), return_inverse=True)
    own_batch = _one_per_cell(batches, embedding, "batches")
    if n_neighbors < 1 or len(np.unique(own_batch)) < 2:
        what = f"n_neighbors={n_neighbors} of other batches, of {len(np.unique(own_batch))} in all."
        raise InputError(what, "Give at least 1, and two batches or more.")
    out = np.empty(len(embedding))
    for batch in np.unique(own_batch):
        own = own_batch == batch
        others = codes[~own]
        nearest = NearestNeighbors(n_neighbors=min(n_neighbors, len(others))).fit(embedding[~own])
        found = others[nearest.kneighbors(embedding[own], return_distance=False)]
        votes = np.stack([(found == code).sum(axis=1) for code in range(len(values))], axis=1)
        right = votes.argmax(axis=1) == codes[own]
        out[own] = np.where(np.isin(codes[own], others), right, np.nan)
    return out


def _agreement(embedding: NDArray[np.floating], labels: ArrayLike, n_neighbors: int) -> NDArray[np.float64]:
    values = _one_per_cell(labels, embedding, "labels")
    if not 0 < n_neighbors < len(embedding):
        what = f"n_neighbors={n_neighbors} of {len(embedding)} cells."
        raise InputError(what, "Give at least 1 and fewer than there are cells.")
    found = NearestNeighbors(n_neighbors=n_neighbors).fit(embedding).kneighbors(return_distance=False)
    out: NDArray[np.float64] = (values[found] == values[:, None]).mean(axis=1)
    return out


def _one_per_cell(given: ArrayLike, embedding: NDArray[np.floating], what_they_are: str) -> NDArray[Any]:
    values = np.asarray(given)
    if len(values) != len(embedding):
        what = f"{len(values)} {what_they_are} were given for {len(embedding)} cells."
        raise InputError(what, f"Give one of the {what_they_are} per cell.")
    return values
