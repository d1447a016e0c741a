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
