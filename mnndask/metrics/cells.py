"""What the metrics are given, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mnndask.errors import InputError, NonFiniteError


def coordinates(embedding: ArrayLike, name: str = "embedding") -> NDArray[np.floating]:
    """Coordinates of cells, in single or double precision; InputError if they are no finite numbers."""
    given = np.asarray(embedding)
    if given.ndim != 2 or 0 in given.shape or given.dtype.kind not in "fiub":
        what = f"{name} is of shape {given.shape} and type {given.dtype}: not a dense matrix of numbers."
        raise InputError(what, "Give coordinates of cells, n_cells x n_dims, such as metrics.embed returns.")
    cells = given if given.dtype == np.float32 else given.astype(np.float64, copy=False)
    spoilt = np.flatnonzero(~np.isfinite(cells).all(axis=1))
    if len(spoilt):
        what = f"{name} holds NaN or infinity in {len(spoilt)} cell(s), the first of them cell {spoilt[0]}."
        raise NonFiniteError(what, "Leave these cells out, of the labels and batches too.")
    return cells


def coded(given: Any, n_cells: int, what_they_are: str) -> tuple[NDArray[np.intp], pd.Index]:
    """Number of each cell's value, and the values: sorted, or as a categorical has them.

    InputError if there is not one value per cell.
    """
    if np.ndim(given) != 1 or len(given) != n_cells:
        shape = len(given) if np.ndim(given) == 1 else f"{np.ndim(given)}-dimensional"
        what = f"{shape} {what_they_are} were given for {n_cells} cells."
        raise InputError(what, f"Give one of the {what_they_are} per cell.")
    values = pd.Categorical(given).remove_unused_categories()
    missing = np.flatnonzero(values.codes < 0)
    if len(missing):
        what = (
            f"The {what_they_are} of {len(missing)} cell(s) are missing, the first that of cell {missing[0]}."
        )
        raise InputError(what, "Leave these cells out, or name the gap, e.g. labels.fillna('unknown').")
    return values.codes.astype(np.intp), values.categories


def check_number(number: int, most: int | None, of: str, name: str = "n_neighbors") -> None:
    """InputError unless the number is a whole one from 1 to `most` (None: any), what there is `of`."""
    if isinstance(number, int | np.integer) and number >= 1 and (most is None or number <= most):
        return
    what = f"{name}={number!r} of {of}."
    if most is None:
        remedy = "Give a whole number of at least 1."
    else:
        remedy = f"Give a whole number from 1 to {most}." if most > 0 else "Give more cells."
    raise InputError(what, remedy)
