"""Checks of the arguments of metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mnndask._library_state import exclusive
from mnndask.errors import InputError, NonFiniteError


def as_coordinates(embedding: ArrayLike, name: str = "embedding") -> NDArray[np.floating]:
    """Return coordinates as float32 or float64. Raise InputError unless all are finite numbers."""
    given = np.asarray(embedding)
    if given.ndim != 2 or 0 in given.shape or given.dtype.kind not in "fiub":
        what = f"{name} has shape {given.shape} and type {given.dtype}: not a dense matrix of numbers."
        raise InputError(what, "Give coordinates of cells, n_cells x n_dims, such as metrics.embed returns.")
    cells = given if given.dtype == np.float32 else given.astype(np.float64, copy=False)
    bad = np.flatnonzero(~np.isfinite(cells).all(axis=1))
    if len(bad):
        what = f"{name} contains NaN or infinity in {len(bad)} cell(s), first in cell {bad[0]}."
        raise NonFiniteError(what, "Leave these cells out, also of the labels and batches.")
    return cells


@exclusive()
def coded(given: Any, n_cells: int, kind: str) -> tuple[NDArray[np.intp], pd.Index]:
    """Return a code per cell, and the values: sorted, or in the order of a categorical.

    Raise InputError unless there is one value per cell.
    """
    if np.ndim(given) != 1 or len(given) != n_cells:
        shape = len(given) if np.ndim(given) == 1 else f"{np.ndim(given)}-dimensional"
        what = f"{shape} {kind} were given for {n_cells} cells."
        raise InputError(what, "Give one value per cell.")
    values = pd.Categorical(given).remove_unused_categories()
    missing = np.flatnonzero(values.codes < 0)
    if len(missing):
        what = f"The {kind} of {len(missing)} cell(s) are missing, first that of cell {missing[0]}."
        raise InputError(what, "Leave these cells out, or fill them in, e.g. labels.fillna('unknown').")
    return values.codes.astype(np.intp), values.categories


def check_number(number: int, most: int | None, available: str, name: str = "n_neighbors") -> None:
    """Raise InputError unless a number is whole and from 1 to `most` (None: no limit).

    `available` describes, in the message, what the number applies to.
    """
    if isinstance(number, int | np.integer) and number >= 1 and (most is None or number <= most):
        return
    what = f"{name}={number!r} for {available}."
    if most is None:
        remedy = "Give a whole number of at least 1."
    else:
        remedy = f"Give a whole number from 1 to {most}." if most > 0 else "Give more cells."
    raise InputError(what, remedy)
