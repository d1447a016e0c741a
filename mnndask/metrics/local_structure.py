"""What a correction leaves of each batch as it was: who is near whom, and how near."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mnndask.errors import InputError, InputKeyError
from mnndask.metrics.cells import check_number, coded, coordinates
from mnndask.metrics.neighborhoods import distances, nearest_in_batch, rounding


def neighbors_kept(
    before: ArrayLike, after: ArrayLike, batches: ArrayLike, n_neighbors: int = 30
) -> NDArray[np.float64]:
    """Share of each cell's nearest neighbours in its batch that are still such after a correction.

    A neighbour is kept if afterwards it is no farther from the cell than the `n_neighbors`-th nearest of the
    batch (to rounding, so that equal cells do not count as lost). Batches are only compared with themselves:
    what brings them together costs nothing here, what scrambles or merges cells of one does. Neighbours drawn
    at random among the n cells of a batch would be kept at ``n_neighbors / (n - 1)``.

    Parameters
    ----------
    before, after
        Coordinates of the same cells, shapes ``(n_cells, n_dims)``; the two numbers of dimensions may differ.
    batches
        Batch of each cell.
    n_neighbors
        Number of neighbours, the cell not counted.

    Returns
    -------
    Shape ``(n_cells,)``, between 0 and 1; NaN in batches of fewer than ``n_neighbors + 2`` cells, where none
    can be lost.

    Raises
    ------
    InputError
        If a coordinate is not finite, a batch is missing, the two do not have as many cells, or no batch has
        enough cells.

    References
    ----------
    The local structure metric of Stuart et al. 2019, *Comprehensive integration of single-cell data*, Cell
    177, 1888-1902 (STAR Methods; ``Seurat::LocalStruct``, which makes its own components of each batch), per
    cell.

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
    return _kept(_Searched(old, new, codes, n_neighbors))


def contraction(
    before: ArrayLike,
    after: ArrayLike,
    batches: ArrayLike,
    n_neighbors: int = 30,
    *,
    reference: Hashable | None = None,
) -> NDArray[np.float64]:
    """Distance to the k-th nearest neighbour in a cell's batch, after a correction over before.

    Below 1 the batch has been drawn together there, above 1 spread. A contracted batch sits among another's
    cells without being like them: by the share of same-batch neighbours it looks mixed when it is not.

    The distances are taken as they are: nothing is divided by the spread of the cells, which falls when
    batches are aligned and so would hide what this is to show. So both embeddings must be in the same units:
    components of cosine-normalised and of corrected cells, best those of one PCA of both (:func:`embed`), not
    components that were scaled to unit variance. Where units differ, or other components were kept, and the
    correction leaves one batch as it is, name it as `reference`: its median is then 1.

    Parameters
    ----------
    before, after
        Coordinates of the same cells, shapes ``(n_cells, n_dims)``.
    batches
        Batch of each cell.
    n_neighbors
        k, the cell not counted.
    reference
        Batch by whose median all are divided, e.g. the first in ``mnn_order``; None to divide by nothing.

    Returns
    -------
    Shape ``(n_cells,)``; NaN in batches of fewer than ``n_neighbors + 2`` cells, and for cells that had
    `n_neighbors` equals before. Summarise by the median.

    Raises
    ------
    InputError
        As :func:`neighbors_kept`, and if the reference has no median above 0.
    InputKeyError
        If the reference is none of the batches.

    Notes
    -----
    Defined here, after no published measure. The distance to the k-th neighbour goes as the density of cells
    to the power -1/dims (Loftsgaarden & Quesenberry 1965, *A nonparametric estimate of a multivariate density
    function*, Annals of Mathematical Statistics 36, 1049-1051), so this is the change of a batch's own
    density on the scale of lengths.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import contraction
    >>> cells = np.random.default_rng(0).normal(size=(200, 2))
    >>> batches = np.repeat(["a", "b"], 100)
    >>> drawn = np.where((batches == "b")[:, None], cells / 2, cells)
    >>> ratio = contraction(cells, drawn, batches, 10)
    >>> float(np.median(ratio[:100])), float(np.median(ratio[100:]))
    (1.0, 0.5)
    """
    old, new, codes, values = _states(before, after, batches, n_neighbors)
    out = _contracted(_Searched(old, new, codes, n_neighbors))
    return _relative(out, codes, values, reference)


def kept_and_contraction(
    before: ArrayLike, after: ArrayLike, batches: ArrayLike, n_neighbors: int, reference: Hashable | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both measures, for which neighbours are searched once."""
    old, new, codes, values = _states(before, after, batches, n_neighbors)
    searched = _Searched(old, new, codes, n_neighbors)
    return _kept(searched), _relative(_contracted(searched), codes, values, reference)


class _Searched:
    """Cells and their neighbours in their batches, in both states."""

    def __init__(
        self,
        old: NDArray[np.floating],
        new: NDArray[np.floating],
        codes: NDArray[np.intp],
        n_neighbors: int,
    ) -> None:
        self.old, self.new = old, new
        self.rows, self.were = nearest_in_batch(old, codes, n_neighbors)
        _, found = nearest_in_batch(new, codes, n_neighbors)
        self.reach = distances(new, self.rows, found).max(axis=1)


def _kept(searched: _Searched) -> NDArray[np.float64]:
    new, rows = searched.new, searched.rows
    reach = searched.reach + rounding(new)[rows]
    out = np.full(len(new), np.nan)
    out[rows] = (distances(new, rows, searched.were) <= reach[:, None]).mean(axis=1)
    return out


def _contracted(searched: _Searched) -> NDArray[np.float64]:
    old, rows = searched.old, searched.rows
    was = distances(old, rows, searched.were).max(axis=1)
    apart = was > rounding(old)[rows]
    out = np.full(len(old), np.nan)
    out[rows[apart]] = searched.reach[apart] / was[apart]
    return out


def _relative(
    out: NDArray[np.float64], codes: NDArray[np.intp], values: pd.Index, reference: Hashable | None
) -> NDArray[np.float64]:
    """Contractions over the median of a reference."""
    if reference is None:
        return out
    if reference not in values:
        what = f"reference={reference!r} is none of the batches."
        raise InputKeyError(what, f"They are: {', '.join(map(str, values))}.")
    own = out[codes == values.get_loc(reference)]
    unit = np.median(own[~np.isnan(own)]) if not np.isnan(own).all() else 0.0
    if not unit > 0:
        what = (
            f"reference={reference!r} is a batch of {len(own)} cell(s), in which no such distance is above 0."
        )
        raise InputError(what, "Name a larger batch, or give a smaller n_neighbors.")
    return out / unit


def _states(
    before: ArrayLike, after: ArrayLike, batches: ArrayLike, n_neighbors: int
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.intp], pd.Index]:
    old, new = coordinates(before, "before"), coordinates(after, "after")
    if len(old) != len(new):
        what = f"before holds {len(old)} cells, after {len(new)}."
        raise InputError(what, "Give the same cells, in the same order.")
    codes, values = coded(batches, len(old), "batches")
    largest = int(np.bincount(codes).max())
    check_number(n_neighbors, largest - 2, f"batches of {largest} cells at most")
    return old, new, codes, values
