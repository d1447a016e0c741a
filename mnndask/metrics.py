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


def _agreement(embedding: NDArray[np.floating], labels: ArrayLike, n_neighbors: int) -> NDArray[np.float64]:
    values = np.asarray(labels)
    if len(values) != len(embedding):
        what = f"{len(values)} labels were given for {len(embedding)} cells."
        raise InputError(what, "Give one label per cell.")
    if not 0 < n_neighbors < len(embedding):
        what = f"n_neighbors={n_neighbors} of {len(embedding)} cells."
        raise InputError(what, "Give at least 1 and fewer than there are cells.")
    found = NearestNeighbors(n_neighbors=n_neighbors).fit(embedding).kneighbors(return_distance=False)
    out: NDArray[np.float64] = (values[found] == values[:, None]).mean(axis=1)
    return out
