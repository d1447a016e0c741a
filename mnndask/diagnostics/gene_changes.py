"""What a correction did to each gene: how much of its variance it took away, and what it left of its pattern.

Measured on some of the fitted cells of each batch, which are in memory: no pass over the data is needed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask._typing import Floats
from mnndask.core.fit_cells import FitCells, FitCellsInMemory
from mnndask.core.history import MergeHistory
from mnndask.core.model import CorrectionModel
from mnndask.io.record_checks import OF_GENES

CELLS, ALL_CELLS = 500, 20_000  # measured, at most: of a batch, and of all
FEWEST_CELLS = 20  # of a batch, whatever the total
ROWS = 256  # of a block
VARIANCE_REMOVED, CORRELATION = OF_GENES
EXTREME = 10  # genes listed of each kind
LEAST = 1e-12  # of the largest variance, below which a gene does not vary


def gene_changes(model: CorrectionModel, history: MergeHistory) -> pd.DataFrame | None:
    """Compare corrected with uncorrected values, on the scale of the result; None for a fit on disk.

    Returns
    -------
    A row per gene. ``"mnn_variance_removed"``: share of the variance over all cells that is gone; negative if
    there is more than before. ``"mnn_correlation"``: correlation of corrected with uncorrected values within
    batches. NaN for genes that do not vary.
    """
    raw = history.cells.raw
    n = max(FEWEST_CELLS, min(CELLS, ALL_CELLS // len(raw)))
    before, after, within = (np.zeros((k, model.spaces.n_genes)) for k in (2, 2, 3))
    weights = 0.0
    for b, own in enumerate(raw):
        if not isinstance(own, FitCellsInMemory):
            return None
        sums = _sums_of_batch(model, b, own, n)
        m, weight = sums[0], own.n_cells / sums[0]
        weights += own.n_cells
        x, y, xx, yy, xy = sums[1]
        before += weight * np.array([x, xx])
        after += weight * np.array([y, yy])
        within += weight * np.array([xx - x * x / m, yy - y * y / m, xy - x * y / m])
    of_before, of_after = (squares / weights - (sums / weights) ** 2 for sums, squares in (before, after))
    with np.errstate(divide="ignore", invalid="ignore"):
        removed = 1 - of_after / of_before
        correlation = within[2] / np.sqrt(within[0] * within[1])
    still = of_before <= LEAST * of_before.max(initial=0)
    removed[still], correlation[still] = np.nan, np.nan
    correlation[within[:2].min(axis=0) <= LEAST * within[0].max(initial=0)] = np.nan
    columns = (VARIANCE_REMOVED, removed), (CORRELATION, np.clip(correlation, -1, 1))
    return pd.DataFrame({name: values.astype(np.float32) for name, values in columns})


def _sums_of_batch(
    model: CorrectionModel, batch: int, own: FitCellsInMemory, n: int
) -> tuple[int, NDArray[np.float64]]:
    """Return the number of cells, and sums of x, y, x x, y y and x y, before (x) and after (y), by gene."""
    n_fitted = len(own.rows)
    chosen = np.unique(np.linspace(0, n_fitted - 1, min(n, n_fitted)).astype(np.intp))
    sums = np.zeros((5, model.spaces.n_genes))
    for block in row_blocks(len(chosen), ROWS):
        rows = chosen[block]
        x = _normalised(model, own, rows, model.names[batch])
        y = np.asarray(model.correct(batch, own.X[rows], own.rows[rows]), np.float64)
        sums += [x.sum(axis=0), y.sum(axis=0), (x * x).sum(axis=0), (y * y).sum(axis=0), (x * y).sum(axis=0)]
    return len(chosen), sums


def _normalised(model: CorrectionModel, own: FitCells, rows: NDArray[np.intp], name: str) -> Floats:
    """Uncorrected values of some cells, on the scale of the result."""
    assert isinstance(own, FitCellsInMemory)
    X = model.spaces.dense(own.X[rows])
    if model.spaces.cos_norm_out:
        X = X / model.spaces.lengths(X[:, model.spaces.near], name)
    return np.asarray(X, np.float64)


def extremes(changes: pd.DataFrame, genes: pd.Index) -> pd.DataFrame:
    """Return the genes whose pattern changed most, then those that lost most of their variance."""
    named = changes.assign(gene=[str(gene) for gene in genes])
    changed = named.nsmallest(EXTREME, CORRELATION)
    flattened = named.nlargest(EXTREME, VARIANCE_REMOVED)
    listed = pd.concat([changed, flattened]).drop_duplicates("gene")
    return listed[["gene", *OF_GENES]].reset_index(drop=True).rename(index=str)
