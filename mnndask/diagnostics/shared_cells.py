"""Measures of a merge step that need no labels: how shared cell types mix, and whether own types merged.

Batches rarely contain the same cell types, so that neighbours of the same batch do not show a batch effect.
Pairs show which cells of two batches are of one type: mixing is measured in regions that pairs connect.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask._threads import single_threaded_blas
from mnndask._typing import Rows
from mnndask.metrics.neighborhoods import nearest_cells

N_REGIONS = 8
CELLS_PER_REGION, PAIRS_PER_REGION = 20, 10  # at least, on average
FEWEST_PAIRS = 5  # of a step, in the sample
ROUNDS = 10  # of k-means
VOTES = 9  # nearest paired cells that decide a cell's region
FEWEST_IN_REGION = 3  # cells of each side, for a region to count
SMALLEST_GROUP = 0.1  # of a region's cells of the batch
N_NEIGHBORS = 30
NEAREST = 10  # neighbours after correction that are compared with those before
GRAPH = 1.5  # neighbours of a cell in the graph of its batch, in square roots of the number of cells
FEWEST_TO_JUDGE = 100  # cells of a batch; of fewer, noise decides which types are near each other

Cells = NDArray[np.floating]


def sharing(
    new_before: Cells, reference: Cells, pairs: tuple[Rows, Rows], from_new: NDArray[np.float64]
) -> dict[str, float]:
    """Measure how a batch and those merged before it mix where pairs show that they share cell types.

    The reference is divided into regions by k-means. A cell of the batch belongs to the region of the cells
    that its nearest paired cells are paired with. Cells whose neighbours are in few pairs, for their side,
    are of types that the other side lacks and are left out. Such types are paired with similar ones
    nevertheless: so the batch is divided into clusters, too, and of those in a region the one that mixes best
    counts.

    In a region that is mixed, neighbours of the two sides' cells are alike, whatever the numbers of cells.
    So the measure is the share of neighbours that are from the batch, around its own cells and around the
    matching cells of the reference: the same if mixed; one and zero if apart. In a mean over regions, the
    weight of a region is the number of cells of the side that has fewer there.

    Parameters
    ----------
    new_before
        Cells of the batch before correction, whose neighbourhoods in the batch are not yet changed.
    reference
        Cells of the batches before it, as the batch was merged into them.
    pairs
        Positions of paired cells: in the batch, and in the reference.
    from_new
        For each cell of the batch, then of the reference: share of its neighbours among both, after
        correction, that are from the batch.

    Returns
    -------
    ``own_share``: the share around the batch's own cells; ``matched_share``: around matching cells of the
    reference; ``separation_low``: lower quartile, over regions, of their difference. NaN if there are too few
    pairs.
    """
    out = dict.fromkeys(("own_share", "matched_share", "separation_low"), np.nan)
    new, ref = pairs
    if len(new) < FEWEST_PAIRS:
        return out
    most = max(1, len(new) // PAIRS_PER_REGION)
    of_reference, clusters = _regions(reference, most), _regions(new_before, most)
    nearest = _nearest(new_before[new], new_before, min(VOTES, len(new)))
    of_new = _most_common(of_reference[ref][nearest])
    of_new[~_among_pairs(new_before, new)] = -1
    of_reference[~_among_pairs(reference, ref)] = -1
    own, matched = from_new[: len(new_before)], from_new[len(new_before) :]
    rows = []
    for region in range(N_REGIONS):
        cells, b = np.flatnonzero(of_new == region), matched[of_reference == region]
        groups = [own[cells[clusters[cells] == cluster]] for cluster in range(N_REGIONS)]
        least = max(FEWEST_IN_REGION, SMALLEST_GROUP * len(cells))
        groups = [group for group in groups if len(group) >= least]
        if groups and len(b) >= FEWEST_IN_REGION:
            a = min(groups, key=np.mean)
            rows.append((a.mean(), b.mean(), min(len(a), len(b))))
    if not rows:
        return out
    a, b, weights = np.array(rows).T
    low = _lower_quartile(a - b, weights)
    shares = (float(np.average(part, weights=weights)) for part in (a, b))
    return dict(zip(out, (*shares, low), strict=True))


def merged_share(before: Cells, after: Cells) -> float:
    """Return how many of a cell's neighbours in its batch were far from it before the correction.

    Far: the two cells shared no neighbour (of about 1.5 square roots of the number of cells, themselves
    included). Within a cell type, cells share neighbours even when noise decides which; cells of types that
    were separate do not. So the share rises when a correction merges types of one batch with each other.
    """
    n = len(before)
    if n < FEWEST_TO_JUDGE:
        return np.nan
    k = min(max(NEAREST, int(GRAPH * np.sqrt(n))), n // 4)
    found = nearest_cells(before, k)
    rows = np.repeat(np.arange(n), k)
    graph = sparse.csr_matrix((np.ones(n * k, np.float32), (rows, found.ravel())), shape=(n, n))
    graph = graph + sparse.eye(n, dtype=np.float32, format="csr")
    near = (graph @ graph.T).toarray() > 0
    now = nearest_cells(after, min(NEAREST, k))
    return float(1 - near[np.arange(n)[:, None], now].mean())


def _regions(cells: Cells, most: int) -> NDArray[np.intp]:
    """Divide cells by k-means into at most so many regions."""
    values = cells.astype(np.float64)
    n = max(1, min(N_REGIONS, most, len(cells) // CELLS_PER_REGION))
    centres = values[np.random.default_rng(0).choice(len(cells), n, replace=False)]
    for _ in range(ROUNDS):
        regions = _nearest(centres, values, 1)[:, 0]
        for region in np.unique(regions):
            centres[region] = values[regions == region].mean(axis=0)
    return _nearest(centres, values, 1)[:, 0]


def _nearest(others: Cells, cells: Cells, n: int) -> NDArray[np.intp]:
    """Return the n nearest of other cells for each cell, in any order."""
    others, cells = others.astype(np.float64), cells.astype(np.float64)
    with single_threaded_blas():
        distances = (others**2).sum(axis=1) - 2 * cells @ others.T  # less those of the cells, squared
    out: NDArray[np.intp] = np.argpartition(distances, n - 1, axis=1)[:, :n]
    return out


def _most_common(regions: NDArray[np.intp]) -> NDArray[np.intp]:
    votes = np.stack([(regions == region).sum(axis=1) for region in range(N_REGIONS)], axis=1)
    out: NDArray[np.intp] = votes.argmax(axis=1)
    return out


def _among_pairs(cells: Cells, paired: Rows) -> NDArray[np.bool_]:
    """Whether a cell's neighbours are in at least half as many pairs as those of the median pair's cell."""
    n_pairs = np.bincount(paired, minlength=len(cells))
    k = min(N_NEIGHBORS, max(1, len(cells) // 10), len(cells) - 1)
    if k < 1:
        return np.ones(len(cells), bool)
    around = n_pairs[nearest_cells(cells, k)].mean(axis=1)
    out: NDArray[np.bool_] = around >= np.median(around[paired]) / 2
    return out


def _lower_quartile(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(reached, 0.25)])
