"""Geometric sketching: cells that cover the space of all cells evenly, by boxes of equal side.

The library ``geosketch`` is not used: it loops over cells in Python for each side that it tries, and seeds
NumPy's global generator.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Floats, Rows

HALVINGS = 60  # of the side, from one box with all cells; further ones only separate duplicates
BISECTIONS = 10
EXCESS = 0.05  # of open boxes over the wanted number, at which the side is good enough


def cover(
    coordinates: Floats, n: int, rng: np.random.Generator, taken: NDArray[np.bool_] | None = None
) -> Rows:
    """Choose cells evenly over the space that cells occupy, whatever their density.

    The space is cut into boxes, with about the largest side at which at least `n` boxes are open, that is,
    contain cells but none that is taken. `n` of these, drawn at random, give one random cell each.

    Parameters
    ----------
    coordinates
        Cells in few dimensions, shape ``(n_cells, n_dims)``.
    n
        Number of cells to choose.
    rng
        Source of randomness.
    taken
        Which cells are chosen already: their boxes are left out. Shape ``(n_cells,)``.

    Returns
    -------
    Rows of the cells, ascending: `n`, or all that are not taken where these are fewer.

    References
    ----------
    Hie, B., Cho, H., DeMeo, B., Bryson, B. & Berger, B. Geometric sketching compactly summarizes the
    single-cell transcriptomic landscape. Cell Systems 8, 483-493 (2019).
    """
    occupied = np.zeros(len(coordinates), bool) if taken is None else taken
    free = np.flatnonzero(~occupied)
    if len(free) <= n:
        return free
    # In random order, so that the first cell of a box is any of them.
    cells = np.concatenate([rng.permutation(free), np.flatnonzero(occupied)])
    axes = np.ascontiguousarray((coordinates[cells] - coordinates.min(axis=0)).T, dtype=np.float64)
    side = _side(axes, len(free), n)
    first = _first_of_open_boxes(_boxes(axes, side), len(free))
    if len(first) >= n:
        chosen = rng.choice(first, n, replace=False)
    else:  # cells that coincide
        rest = np.setdiff1d(np.arange(len(free)), first)
        chosen = np.concatenate([first, rng.choice(rest, n - len(first), replace=False)])
    return np.sort(cells[chosen]).astype(np.intp)


def _side(axes: Floats, n_free: int, n: int) -> float:
    """About the largest side at which at least `n` boxes are open; a tiny one if there is none."""
    coarse = 2 * float(axes.max())
    if coarse <= np.finfo(np.float64).tiny * 2**HALVINGS:  # all cells coincide
        return 1.0
    fine = coarse / 2
    for _ in range(HALVINGS):
        if _n_open(axes, fine, n_free) >= n:
            break
        fine, coarse = fine / 2, fine
    else:
        return fine
    for _ in range(BISECTIONS):
        middle = fine * float(np.sqrt(coarse / fine))
        n_open = _n_open(axes, middle, n_free)
        if n_open < n:
            coarse = middle
            continue
        fine = middle
        if n_open <= n * (1 + EXCESS):
            break
    return fine


def _boxes(axes: Floats, side: float) -> NDArray[np.uint64]:
    """Hash of each cell's box; two boxes share one with a probability of 1 in 2^63."""
    factors = np.random.default_rng(0).integers(2**64, size=len(axes), dtype=np.uint64) | np.uint64(1)
    keys = np.zeros(axes.shape[1], np.uint64)
    for axis, factor in zip(axes, factors, strict=True):
        keys += np.minimum(axis / side, 2.0**62).astype(np.uint64) * factor
    return keys


def _n_open(axes: Floats, side: float, n_free: int) -> int:
    keys = _boxes(axes, side)
    boxes = np.sort(keys[:n_free])  # np.unique takes ten times as long
    distinct = np.append(True, boxes[1:] != boxes[:-1])
    return int(np.count_nonzero(distinct & _without(boxes, keys[n_free:])))


def _first_of_open_boxes(keys: NDArray[np.uint64], n_free: int) -> Rows:
    """First cell of each open box; free cells come first in `keys`."""
    boxes, first = np.unique(keys[:n_free], return_index=True)
    return np.asarray(first[_without(boxes, keys[n_free:])], np.intp)


def _without(boxes: NDArray[np.uint64], occupied: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which boxes contain no cell that is taken already."""
    if len(occupied) == 0:
        return np.ones(len(boxes), bool)
    occupied = np.sort(occupied)
    out: NDArray[np.bool_] = occupied[np.searchsorted(occupied, boxes).clip(max=len(occupied) - 1)] != boxes
    return out
