"""Nearest neighbours, and how far they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from mnndask.kernels.compiled import distances_of

# For more cells, or in more dimensions, products of all pairs are quicker, several times in ten.
TREES_UP_TO, TREES_IN_DIMS = 2000, 5


def nearest(cells: NDArray[np.floating], n_neighbors: int) -> NDArray[np.intp]:
    """Each cell's nearest others, nearest first: shape ``(n_cells, n_neighbors)``."""
    trees = len(cells) <= TREES_UP_TO and cells.shape[1] <= TREES_IN_DIMS
    algorithm = "auto" if trees else "brute"
    model = NearestNeighbors(n_neighbors=n_neighbors, algorithm=algorithm).fit(cells)
    found: NDArray[np.intp] = model.kneighbors(return_distance=False)
    return found


def nearest_in_batch(
    cells: NDArray[np.floating], codes: NDArray[np.intp], n_neighbors: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Nearest others of the same batch, for the cells of batches that have more others than that.

    Returns these cells, and their neighbours: shapes ``(n,)`` and ``(n, n_neighbors)``. Which cells these are
    depends on the batches only.
    """
    rows, found = [np.empty(0, np.intp)], [np.empty((0, n_neighbors), np.intp)]
    for own in (np.flatnonzero(codes == code) for code in range(codes.max() + 1)):
        if len(own) - 1 > n_neighbors:
            rows.append(own)
            found.append(own[nearest(cells[own], n_neighbors)])
    return np.concatenate(rows), np.concatenate(found)


def distances(
    cells: NDArray[np.floating], rows: NDArray[np.intp], found: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Euclidean distances from cells to others: from ``rows[i]`` to each of ``found[i]``.

    Of differences, so that they are exact for equal cells; a search by matrix products leaves 1e-8
    of the scale.
    """
    out = np.empty(found.shape)
    distances_of(*map(np.ascontiguousarray, (cells, rows, found)), out)
    return out


def rounding(cells: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance from each cell within which others count as equally near, as they do when pairs are found."""
    part = 1e-10 if cells.dtype == np.float64 else 1e-5
    out: NDArray[np.float64] = part * np.linalg.norm(cells, axis=1).astype(np.float64)
    return out
