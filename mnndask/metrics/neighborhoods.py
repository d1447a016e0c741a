"""Nearest neighbours, and how far they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

BLOCK_BYTES = 32 * 2**20  # of differences at a time: whatever the number of cells

TREES_UP_TO = 2000  # cells: of more, on some ten dimensions, products of all pairs are several times as quick


def nearest(cells: NDArray[np.floating], n_neighbors: int) -> NDArray[np.intp]:
    """Each cell's nearest others, nearest first: shape ``(n_cells, n_neighbors)``."""
    algorithm = "brute" if len(cells) > TREES_UP_TO else "auto"
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
    step = max(1, BLOCK_BYTES // (8 * found.shape[1] * cells.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        away = cells[found[block]].astype(np.float64) - cells[rows[block], None]
        out[block] = np.linalg.norm(away, axis=2)
    return out


def rounding(cells: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance from each cell within which others count as equally near, as they do when pairs are found."""
    part = 1e-10 if cells.dtype == np.float64 else 1e-5
    out: NDArray[np.float64] = part * np.linalg.norm(cells, axis=1).astype(np.float64)
    return out
