"""Nearest neighbours and their distances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from mnndask._library_state import exclusive
from mnndask._threads import single_threaded_blas
from mnndask.core.kernels.pairs import distances_of

FEW_CELLS = 2000  # up to so many, all distances at once take less time than to set up a search


def nearest_cells(cells: NDArray[np.floating], n_neighbors: int) -> NDArray[np.intp]:
    """Return each cell's nearest other cells, nearest first, shape ``(n_cells, n_neighbors)``."""
    with single_threaded_blas():
        if len(cells) <= FEW_CELLS:
            return _nearest_of_few(cells.astype(np.float64), n_neighbors)
        with exclusive():
            model = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(cells)
        found: NDArray[np.intp] = model.kneighbors(return_distance=False)
    return found


def _nearest_of_few(cells: NDArray[np.float64], n_neighbors: int) -> NDArray[np.intp]:
    cells = cells - cells.mean(axis=0)  # so that differences keep their digits
    squared = (cells**2).sum(axis=1)
    distances = squared[:, None] + squared - 2 * cells @ cells.T
    np.fill_diagonal(distances, np.inf)
    near = np.argpartition(distances, n_neighbors - 1, axis=1)[:, :n_neighbors]
    order = np.argsort(np.take_along_axis(distances, near, axis=1), axis=1)
    found: NDArray[np.intp] = np.take_along_axis(near, order, axis=1)
    return found


def nearest_in_batch(
    cells: NDArray[np.floating], codes: NDArray[np.intp], n_neighbors: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the nearest other cells of the same batch, in batches with more than ``n_neighbors + 1`` cells.

    Returns the cells of these batches and their neighbours, shapes ``(n,)`` and ``(n, n_neighbors)``. Which
    cells they are depends only on the batches.
    """
    rows, found = [np.empty(0, np.intp)], [np.empty((0, n_neighbors), np.intp)]
    for own in (np.flatnonzero(codes == code) for code in range(codes.max() + 1)):
        if len(own) - 1 > n_neighbors:
            rows.append(own)
            found.append(own[nearest_cells(cells[own], n_neighbors)])
    return np.concatenate(rows), np.concatenate(found)


def distances(
    cells: NDArray[np.floating], rows: NDArray[np.intp], found: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return Euclidean distances from cell ``rows[i]`` to each of the cells ``found[i]``.

    They are computed from differences, so that equal cells are at exactly 0; a search by inner products would
    leave 1e-8 of the scale.
    """
    out = np.empty(found.shape)
    distances_of(*map(np.ascontiguousarray, (cells, rows, found)), out)
    return out


def rounding(cells: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the difference within which distances from each cell count as tied, as when pairs are found."""
    part = 1e-10 if cells.dtype == np.float64 else 1e-5
    out: NDArray[np.float64] = part * np.linalg.norm(cells, axis=1).astype(np.float64)
    return out
