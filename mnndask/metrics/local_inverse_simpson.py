"""The local inverse Simpson index."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnndask.metrics.cells import as_coordinates, check_number, coded
from mnndask.metrics.neighborhoods import distances, nearest_cells

ENTROPY_TOLERANCE = 1e-5  # as in the implementations cited
TRIES = 50  # likewise


def lisi(embedding: ArrayLike, labels: ArrayLike, perplexity: int = 30) -> NDArray[np.float64]:
    """Return the local inverse Simpson index: the effective number of labels in each cell's neighbourhood.

    With batches as labels this is iLISI, from 1 (only one batch) to the number of batches (all equally); with
    cell types it is cLISI, at best 1. Unlike the share of a cell's own batch, it distinguishes a mixture of
    all batches from a mixture of a few.

    The neighbourhood is the ``3 * perplexity - 1`` nearest other cells. A neighbour at distance d has weight
    exp(-β d), with β chosen so that the entropy of the weights is that of `perplexity` equal weights (within
    1e-5). With p_b the share of label b in the weights, the index is 1 / Σ_b p_b². The paper describes a
    Gaussian kernel; its implementations, and this one, use d unsquared.

    Parameters
    ----------
    embedding
        Coordinates, shape ``(n_cells, n_dims)``; see :func:`embed`.
    labels
        Batch (iLISI) or type (cLISI) of each cell.
    perplexity
        Effective number of neighbours.

    Returns
    -------
    Shape ``(n_cells,)``, from 1 to the number of labels. If batches are mixed at random, it is slightly less
    than 1 over the sum of squared shares of the batches among all cells, as a neighbourhood is a sample.

    Raises
    ------
    InputError
        If a coordinate is not finite, a label is missing, or there are fewer than ``3 * perplexity`` cells.

    Notes
    -----
    Equals ``harmonypy.compute_lisi`` before version 2, up to rounding, and ``scib_metrics.lisi_knn`` with
    ``3 * perplexity`` neighbours (which include the cell itself), up to single precision. Among duplicates,
    harmonypy may omit a cell other than the cell itself; from version 2 on it uses one more neighbour, which
    changes the index by about 0.01. ``scib_metrics.ilisi_knn`` scales the median M over cells to
    (M - 1) / (batches - 1), and ``scib_metrics.clisi_knn`` to (labels - M) / (labels - 1).

    The index of batches does not see types: it is as high where a correction moved a type wholly onto another
    type, and over-correction mixes best. Compare only indices of the same cells, perplexity and number of
    components. Measure components, not a UMAP, whose distances are distorted. For cLISI, types should not
    come from clusters of the corrected cells.

    References
    ----------
    Korsunsky et al. 2019, *Fast, sensitive and accurate integration of single-cell data with Harmony*, Nature
    Methods 16, 1289-1296 (Methods, "LISI metric"). The scaling: Luecken et al. 2022, *Benchmarking
    atlas-level data integration in single-cell genomics*, Nature Methods 19, 41-50 (Methods, "Graph LISI").

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask.metrics import lisi
    >>> cells = np.random.default_rng(0).normal(size=(400, 2))
    >>> batches = np.arange(400) % 2
    >>> round(float(lisi(cells, batches).mean()), 2)
    1.9
    >>> round(float(lisi(cells + 9 * batches[:, None], batches).mean()), 2)
    1.0
    """
    cells = as_coordinates(embedding)
    codes, values = coded(labels, len(cells), "labels")
    check_number(perplexity, len(cells) // 3, f"{len(cells)} cells, 3 for each neighbour", "perplexity")
    found = nearest_cells(cells, 3 * perplexity - 1)
    return effective_number(cells, codes, len(values), found, perplexity)


def effective_number(
    cells: NDArray[np.floating],
    codes: NDArray[np.intp],
    n_labels: int,
    found: NDArray[np.intp],
    perplexity: int,
) -> NDArray[np.float64]:
    """Return the index for given neighbours."""
    weights = _weights(distances(cells, np.arange(len(cells)), found), perplexity)
    bins = codes[found] + n_labels * np.arange(len(cells))[:, None]
    summed = np.bincount(bins.ravel(), weights.ravel(), n_labels * len(cells))
    out: NDArray[np.float64] = 1 / (summed.reshape(-1, n_labels) ** 2).sum(axis=1)
    return out


def _weights(away: NDArray[np.float64], perplexity: int) -> NDArray[np.float64]:
    """Return weights of neighbours that fall with distance and have the entropy of `perplexity` equal ones.

    β is doubled or halved until bracketed, then bisected. Starts from different powers of two reach the same
    bracket and then the same result, so β starts near the scale of the distances, where 50 tries suffice.
    """
    away = away - away.min(axis=1, keepdims=True)  # the same weights, but never all rounded to 0
    spread = away.mean(axis=1)
    exponent = -np.log2(spread, out=np.zeros_like(spread), where=spread > 0)
    beta = np.exp2(np.clip(np.round(exponent), -900, 900))
    low, high = np.zeros_like(beta), np.full_like(beta, np.inf)
    out = np.empty_like(away)
    todo = np.arange(len(away))
    for _ in range(TRIES):
        log_weights = -beta[todo, None] * away[todo]
        weights = np.exp(log_weights)
        total = weights.sum(axis=1)
        entropy = np.log(total) - (weights * log_weights).sum(axis=1) / total
        out[todo] = weights / total[:, None]
        off = entropy - np.log(perplexity)
        unsettled = np.abs(off) >= ENTROPY_TOLERANCE
        todo, wide = todo[unsettled], off[unsettled] > 0
        if not len(todo):
            break
        low[todo] = np.where(wide, beta[todo], low[todo])
        high[todo] = np.where(wide, high[todo], beta[todo])
        middle = (low[todo] + high[todo]) / 2  # half of `high` if there is no lower bound
        beta[todo] = np.where(np.isinf(middle), 2 * low[todo], middle)
    return out
