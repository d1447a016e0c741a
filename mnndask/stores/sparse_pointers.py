"""Row (CSC: column) pointers of a stored sparse matrix, checked against its shape and its values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pointers = NDArray[np.integer[Any]]


def check_pointers(indptr: Pointers, first: int, last: int, shape: tuple[int, int]) -> None:
    """Check the pointers of a block of a matrix: of rows `first` to `last` (excluded).

    Parameters
    ----------
    indptr
        Positions at which the rows begin, and the end of the last.
    first, last
        The rows; columns of a CSC matrix.
    shape
        Number of all rows (CSC: columns), and number of stored values.

    Raises
    ------
    ValueError
        If they disagree with the shape, or with each other. The message says how.
    """
    n_rows, n_values = shape
    if len(indptr) != last - first + 1:
        what = f"indptr has {len(indptr)} entries for {last - first} rows"
    elif indptr.dtype.kind not in "iu":
        what = f"indptr has type {indptr.dtype}"
    elif first == 0 and indptr[0] != 0:
        what = f"indptr begins at {indptr[0]}, not at 0"
    elif (falls := np.flatnonzero(indptr[1:] < indptr[:-1])).size:
        at = falls[0]
        what = f"indptr decreases from {indptr[at]} to {indptr[at + 1]} at entry {first + at + 1}"
    elif indptr[0] < 0 or indptr[-1] > n_values or (last == n_rows and indptr[-1] != n_values):
        what = f"indptr ends at {indptr[-1]}, but {n_values} values are stored"
    else:
        return
    raise ValueError(what)


def check_indices(indices: NDArray[Any], n_columns: int) -> None:
    """Check that indices are columns (CSC: rows) of the matrix.

    Raises
    ------
    ValueError
        If they are not. The message says which are not.
    """
    if indices.dtype.kind not in "iu":
        what = f"indices have type {indices.dtype}"
        raise ValueError(what)
    if len(indices) and (indices.min() < 0 or indices.max() >= n_columns):
        what = f"indices are from {indices.min()} to {indices.max()}, not within 0 to {n_columns - 1}"
        raise ValueError(what)
