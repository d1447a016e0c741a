"""A cell is corrected: it moves by its correction vector (definition, the sums of steps 8 and 9)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Floats


def lengthen(vectors: Floats, factors: NDArray[np.float64]) -> None:
    """Multiply correction vectors by their variance factors, in place."""
    vectors *= factors.astype(vectors.dtype)[:, None]


def moved(cells: Floats, vectors: Floats, out: Floats | None = None) -> Floats:
    """Cells plus their correction vectors, in an array of their own or in `out`."""
    return np.add(cells, vectors, out=out)
