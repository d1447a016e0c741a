"""The local inverse Simpson index."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnndask.metrics.cells import check_number, coded, coordinates
from mnndask.metrics.neighborhoods import distances, nearest

TOLERANCE = 1e-5  # of the entropy, as in the implementations that are cited
TRIES = 50  # likewise


def lisi(embedding: ArrayLike, labels: ArrayLike, perplexity: int = 30) -> NDArray[np.float64]:
    """Local inverse Simpson index: the effective number of labels in each cell's neighbourhood.

    Given batches it is iLISI, from 1 (one batch only) to the number of batches (all of them equally); given
    cell types it is cLISI, at best 1. Unlike the share of one's own batch it tells a mixture of all batches
    from one of a few.

    The neighbourhood is the ``3 * perplexity - 1`` nearest other cells; one at distance d weighs exp(-β d),
    with β such that the weights' entropy is that of `perplexity` equal ones (within 1e-5). With p_b the share
    of label b in the weights, the index is 1 / Σ_b p_b². The paper speaks of a Gaussian kernel, its
    implementations and this one take d unsquared.

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
    Shape ``(n_cells,)``, from 1 to the number of labels. Mixed at random, cells reach a little less than 1
    over the sum of squared shares of the batches among all cells, as a neighbourhood is a sample.

    Raises
    ------
    InputError
        If a coordinate is not finite, a label is missing, or there are fewer than ``3 * perplexity`` cells.

    Notes
    -----
    Equal to ``harmonypy.compute_lisi`` before its version 2, to rounding, and to ``scib_metrics.lisi_knn`` of
    ``3 * perplexity`` neighbours (which count the cell itself), to single precision. Among duplicates,
    harmonypy may leave out another cell than the cell itself; from version 2 on it looks at one neighbour
    more, which changes the index by about 0.01. ``scib_metrics.ilisi_knn`` is the median M over cells scaled
    to (M - 1) / (batches - 1), and ``scib_metrics.clisi_knn`` (labels - M) / (labels - 1).

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
    cells = coordinates(embedding)
    codes, values = coded(labels, len(cells), "labels")
    check_number(perplexity, len(cells) // 3, f"{len(cells)} cells, 3 for each neighbour,", "perplexity")
    found = nearest(cells, 3 * perplexity - 1)
    return effective_number(cells, codes, len(values), found, perplexity)


def effective_number(
    cells: NDArray[np.floating],
    codes: NDArray[np.intp],
    n_labels: int,
    found: NDArray[np.intp],
    perplexity: int,
) -> NDArray[np.float64]:
    """The index, of neighbours that are known."""
    weights = _weights(distances(cells, np.arange(len(cells)), found), perplexity)
    bins = codes[found] + n_labels * np.arange(len(cells))[:, None]
    summed = np.bincount(bins.ravel(), weights.ravel(), n_labels * len(cells))
    out: NDArray[np.float64] = 1 / (summed.reshape(-1, n_labels) ** 2).sum(axis=1)
    return out


def _weights(away: NDArray[np.float64], perplexity: int) -> NDArray[np.float64]:
    """Weights of neighbours, falling with distance, with the entropy of `perplexity` equal ones.

    β is doubled or halved until bracketed, then bisected. A start from any power of two takes the same path
    from the bracket on, so it is one near the scale of the distances, for which 50 tries are always enough.
    """
    away = away - away.min(axis=1, keepdims=True)  # the weights are the same, and never all rounded to 0
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
        unsettled = np.abs(off) >= TOLERANCE
        todo, wide = todo[unsettled], off[unsettled] > 0
        if not len(todo):
            break
        low[todo] = np.where(wide, beta[todo], low[todo])
        high[todo] = np.where(wide, high[todo], beta[todo])
        middle = (low[todo] + high[todo]) / 2  # half of `high` where there is no lower bound
        beta[todo] = np.where(np.isinf(middle), 2 * low[todo], middle)
    return out
