"""Principal components as coordinates for the metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA

from mnndask._library_state import exclusive


def embed(X: Any, n_components: int = 20, *, random_state: int = 0) -> NDArray[np.floating]:
    """Return principal components of cells, shape ``(n_cells, n_components)``, or fewer if there are fewer.

    Parameters
    ----------
    X
        Expression, shape ``(n_cells, n_genes)``, dense or sparse. To compare two states of the same cells in
        the same coordinates, embed them stacked.
    n_components
        Number of components.
    random_state
        Seed of the randomised solver that is used for large matrices.

    Returns
    -------
    Coordinates of the cells, in memory, in the type of `X` if that is float32 or float64.

    Raises
    ------
    ValueError
        Of scikit-learn, if `X` contains NaN or infinity, or `n_components` is negative.

    Notes
    -----
    Triggers a compute of lazy `X`. Holds all values dense in memory: for large data, use the components of a
    correction (``obsm["X_mnn"]``). Values are centred, but neither log-transformed nor normalised. Components
    of two calls are not the same axes, so distances before and after a correction can only be compared if
    both were embedded together.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import embed
    >>> X = np.random.default_rng(0).random((30, 50))
    >>> before, after = np.split(embed(np.concatenate([X, X / 2]), 5), 2)
    >>> before.shape, after.shape
    ((30, 5), (30, 5))
    """
    dense = X.toarray() if sparse.issparse(X) else np.asarray(X)
    n = min(n_components, *dense.shape)
    with exclusive():
        out: NDArray[np.floating] = PCA(n, random_state=random_state).fit_transform(dense)
    return out
