"""Covering cells by boxes of equal side, so that a few of them stand for all evenly.

The library ``geosketch`` is not used: it loops over cells in Python, for each side that it tries, and seeds
NumPy's global generator.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.distances import Floats
from mnndask.kernels.neighbors import Rows

HALVINGS = 60  # of the side, from all cells in one box; further ones only part duplicates
BISECTIONS = 10
EXCESS = 0.05  # of occupied boxes over those asked for, at which the side is good enough


def cover(
    coordinates: Floats, n: int, rng: np.random.Generator, taken: NDArray[np.bool_] | None = None
) -> Rows:
    """Choose cells evenly over the space that cells occupy, not by how many there are.

    The space is cut into boxes, of the largest side at which at least `n` of them hold cells. `n` of these,
    drawn at random, give one random cell each.

    Parameters
    ----------
    coordinates
        Cells in few dimensions, shape ``(n_cells, n_dims)``.
    n
        Number of cells to choose.
    rng
        Source of randomness.
    taken
        Which cells are chosen already: boxes that hold one are left out. Shape ``(n_cells,)``.

    Returns
    -------
    Rows of the cells, ascending: `n`, or all that are not taken where these are fewer.

    References
    ----------
    Hie, B., Cho, H., DeMeo, B., Bryson, B. & Berger, B. Geometric sketching compactly summarizes the
    single-cell transcriptomic landscape. Cell Systems 8, 483-493 (2019).
    """
    held = np.zeros(len(coordinates), bool) if taken is None else taken
    free = np.flatnonzero(~held)
    if len(free) <= n:
        return free
    # In random order, so that the first cell of a box is any of them.
    cells = np.concatenate([rng.permutation(free), np.flatnonzero(held)])
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
    """Largest side, about, at which at least `n` boxes are open; a tiny one if there is none."""
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
    """Number of each cell's box: equal for cells of one box, and of them only but for chance (1 in 2^63)."""
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
    """First cell of each box that holds free cells (the first ones of `keys`) and no others."""
    boxes, first = np.unique(keys[:n_free], return_index=True)
    return np.asarray(first[_without(boxes, keys[n_free:])], np.intp)


def _without(boxes: NDArray[np.uint64], held: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which boxes are not among those held."""
    if len(held) == 0:
        return np.ones(len(boxes), bool)
    held = np.sort(held)
    out: NDArray[np.bool_] = held[np.searchsorted(held, boxes).clip(max=len(held) - 1)] != boxes
    return out
