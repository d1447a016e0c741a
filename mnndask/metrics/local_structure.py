"""How a correction changes the structure within each batch: neighbours, and distances to them."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mnndask.errors import InputError, InputKeyError
from mnndask.metrics.cells import as_coordinates, check_number, coded
from mnndask.metrics.neighborhoods import distances, nearest_in_batch, rounding


def neighbors_kept(
    before: ArrayLike, after: ArrayLike, batches: ArrayLike, n_neighbors: int = 30
) -> NDArray[np.float64]:
    """Return the share of each cell's nearest neighbours in its batch that a correction keeps.

    A neighbour is kept if afterwards it is no farther from the cell than the `n_neighbors`-th nearest cell of
    the batch (up to rounding, so that equal cells do not count as lost). Each batch is compared only with
    itself: aligning batches does not lower the share, scrambling or merging cells of one batch does. For
    neighbours drawn at random from the n cells of a batch it is ``n_neighbors / (n - 1)``.

    Parameters
    ----------
    before, after
        Coordinates of the same cells, shapes ``(n_cells, n_dims)``; the two numbers of dimensions may differ.
    batches
        Batch of each cell.
    n_neighbors
        Number of neighbours, not counting the cell itself.

    Returns
    -------
    Shape ``(n_cells,)``, between 0 and 1; NaN in batches with fewer than ``n_neighbors + 2`` cells, where no
    neighbour can be lost.

    Raises
    ------
    InputError
        If a coordinate is not finite, a batch is missing, the numbers of cells differ, or no batch has enough
        cells.

    Notes
    -----
    The share says nothing of how batches mix: a correction that does nothing keeps all neighbours. Neither
    does it see a type that was moved as a whole onto another type of another batch. Compare only shares of
    the same number of cells and of neighbours. Measure components, not a UMAP, which changes neighbours
    itself.

    References
    ----------
    The local structure metric of Stuart et al. 2019, *Comprehensive integration of single-cell data*, Cell
    177, 1888-1902 (STAR Methods; ``Seurat::LocalStruct``, which computes its own components of each batch),
    here per cell.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import neighbors_kept
    >>> rng = np.random.default_rng(0)
    >>> cells, batches = rng.normal(size=(200, 2)), np.repeat(["a", "b"], 100)
    >>> shifted = cells + 9 * (batches == "b")[:, None]
    >>> float(neighbors_kept(shifted, cells, batches, 10).mean())
    1.0
    >>> scrambled = rng.permutation(cells)
    >>> float(neighbors_kept(cells, scrambled, batches, 10).mean().round(1))
    0.1
    """
    old, new, codes, _ = _states(before, after, batches, n_neighbors)
    return _kept(_NeighborSearch(old, new, codes, n_neighbors))


def contraction(
    before: ArrayLike,
    after: ArrayLike,
    batches: ArrayLike,
    n_neighbors: int = 30,
    *,
    reference: Hashable | None = None,
) -> NDArray[np.float64]:
    """Return the distance to the k-th nearest neighbour in a cell's batch, after a correction over before.

    Below 1 the batch was contracted around the cell, above 1 expanded. A contracted batch can lie among cells
    of another batch without resembling them: by the share of same-batch neighbours it looks mixed when it is
    not.

    Distances are not divided by the spread of all cells, which falls when batches are aligned and would hide
    the effect. Both embeddings must therefore have the same units: components of cosine-normalised and of
    corrected cells, ideally from one PCA of both (:func:`embed`), not scaled to unit variance. If units or
    components differ, and the correction leaves one batch unchanged, name that batch as `reference`: its
    median is then 1.

    Parameters
    ----------
    before, after
        Coordinates of the same cells, shapes ``(n_cells, n_dims)``.
    batches
        Batch of each cell.
    n_neighbors
        k, not counting the cell itself.
    reference
        Batch by whose median all values are divided, e.g. the first in ``mnn_order``; None for no division.

    Returns
    -------
    Shape ``(n_cells,)``; NaN in batches with fewer than ``n_neighbors + 2`` cells, and for cells with
    `n_neighbors` duplicates before. Summarise by the median.

    Raises
    ------
    InputError
        As in :func:`neighbors_kept`, and if the reference has no median above 0.
    InputKeyError
        If the reference is not one of the batches.

    Notes
    -----
    Defined here, not a published measure. The distance to the k-th neighbour scales as the density of cells
    to the power -1/dims (Loftsgaarden & Quesenberry 1965, *A nonparametric estimate of a multivariate density
    function*, Annals of Mathematical Statistics 36, 1049-1051). The ratio is therefore the change of a
    batch's own density, on the scale of lengths.

    A ratio of 1 is no proof of a right correction: one that does nothing has it, and so has one that moves a
    type as a whole onto another type. Do not measure a UMAP, whose distances are distorted.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import contraction
    >>> cells = np.random.default_rng(0).normal(size=(200, 2))
    >>> batches = np.repeat(["a", "b"], 100)
    >>> contracted = np.where((batches == "b")[:, None], cells / 2, cells)
    >>> ratio = contraction(cells, contracted, batches, 10)
    >>> float(np.median(ratio[:100])), float(np.median(ratio[100:]))
    (1.0, 0.5)
    """
    old, new, codes, values = _states(before, after, batches, n_neighbors)
    out = _contraction(_NeighborSearch(old, new, codes, n_neighbors))
    return _relative(out, codes, values, reference)


def kept_and_contraction(
    before: ArrayLike, after: ArrayLike, batches: ArrayLike, n_neighbors: int, reference: Hashable | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both measures from one search of neighbours."""
    old, new, codes, values = _states(before, after, batches, n_neighbors)
    searched = _NeighborSearch(old, new, codes, n_neighbors)
    return _kept(searched), _relative(_contraction(searched), codes, values, reference)


class _NeighborSearch:
    """Cells of both states, their neighbours before, and the distance to the k-th neighbour after."""

    def __init__(
        self,
        old: NDArray[np.floating],
        new: NDArray[np.floating],
        codes: NDArray[np.intp],
        n_neighbors: int,
    ) -> None:
        self.old, self.new = old, new
        self.rows, self.neighbors_before = nearest_in_batch(old, codes, n_neighbors)
        _, neighbors_after = nearest_in_batch(new, codes, n_neighbors)
        self.reach = distances(new, self.rows, neighbors_after).max(axis=1)


def _kept(searched: _NeighborSearch) -> NDArray[np.float64]:
    new, rows = searched.new, searched.rows
    reach = searched.reach + rounding(new)[rows]
    out = np.full(len(new), np.nan)
    out[rows] = (distances(new, rows, searched.neighbors_before) <= reach[:, None]).mean(axis=1)
    return out


def _contraction(searched: _NeighborSearch) -> NDArray[np.float64]:
    old, rows = searched.old, searched.rows
    reach_before = distances(old, rows, searched.neighbors_before).max(axis=1)
    apart = reach_before > rounding(old)[rows]
    out = np.full(len(old), np.nan)
    out[rows[apart]] = searched.reach[apart] / reach_before[apart]
    return out


def _relative(
    out: NDArray[np.float64], codes: NDArray[np.intp], values: pd.Index, reference: Hashable | None
) -> NDArray[np.float64]:
    """Divide contractions by the median of a reference."""
    if reference is None:
        return out
    if reference not in values:
        what = f"reference={reference!r} is not one of the batches."
        raise InputKeyError(what, f"They are: {', '.join(map(str, values))}.")
    own = out[codes == values.get_loc(reference)]
    unit = np.median(own[~np.isnan(own)]) if not np.isnan(own).all() else 0.0
    if not unit > 0:
        what = (
            f"reference={reference!r} is a batch of {len(own)} cell(s) without a median contraction above 0."
        )
        raise InputError(what, "Name a larger batch, or give a smaller n_neighbors.")
    return out / unit


def _states(
    before: ArrayLike, after: ArrayLike, batches: ArrayLike, n_neighbors: int
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.intp], pd.Index]:
    old, new = as_coordinates(before, "before"), as_coordinates(after, "after")
    if len(old) != len(new):
        what = f"before has {len(old)} cells, and after has {len(new)}."
        raise InputError(what, "Give the same cells, in the same order.")
    codes, values = coded(batches, len(old), "batches")
    largest = int(np.bincount(codes).max())
    check_number(n_neighbors, largest - 2, f"batches of at most {largest} cells")
    return old, new, codes, values
