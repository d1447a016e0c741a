"""Cosine normalisation (definition, step 1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Floats
from mnndask.core.arrays import row_dots

SHORTEST = 1e-8  # keeps an all-zero cell at zero instead of NaN


def cosine_lengths(X_in: Floats) -> NDArray[np.float64]:
    """Length of each cell over the genes used for distances.

    Parameters
    ----------
    X_in
        Expression, shape ``(n_cells, n_in_genes)``.

    Returns
    -------
    ``max(|x|, 1e-8)`` per cell, shape ``(n_cells,)``, in double precision whatever the input's; infinite
    where that overflows.
    """
    lengths = np.sqrt(row_dots(X_in, X_in))
    if not np.isfinite(lengths).all():  # squares overflow
        largest = np.abs(X_in).max(axis=1, initial=0)
        scaled = X_in / np.where(largest == 0, 1, largest)[:, None]
        with np.errstate(over="ignore"):
            lengths = largest.astype(np.float64) * np.sqrt(row_dots(scaled, scaled))
    return np.maximum(lengths, SHORTEST)
