"""What a correction did to each gene: how much of its variance it took away, and what it left of its pattern.

Measured on some of the fitted cells of each batch, which are in memory: no pass over the data is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask._typing import Block, Floats
from mnndask.core.fit_cells import FitCellsInMemory
from mnndask.core.history import MergeHistory
from mnndask.core.model import CorrectionModel
from mnndask.diagnostics.label_differences import SignChanges
from mnndask.io.record_checks import OF_GENES, SIGNS_CHANGED

CELLS, ALL_CELLS = 500, 20_000  # measured, at most: of a batch, and of all
VALUES = 2**22  # in memory at once: of a batch
FEWEST_CELLS = 20  # of a batch, whatever the total
ROWS = 256  # of a block
VARIANCE_REMOVED, CORRELATION = OF_GENES
EXTREME = 10  # genes listed of each kind
LEAST = 1e-12  # of the largest variance, below which a gene does not vary


def gene_changes(
    model: CorrectionModel, history: MergeHistory, labels: Sequence[NDArray[np.object_]] | None = None
) -> pd.DataFrame | None:
    """Compare corrected with uncorrected values, on the scale of the result; None for a fit on disk.

    Parameters
    ----------
    model, history
        A fitted correction, and what its fit left.
    labels
        Labels of the fitted cells of each batch, None for cells without; or None.

    Returns
    -------
    A row per gene. ``"mnn_variance_removed"``: share of the variance over all cells that is gone; negative if
    there is more than before. ``"mnn_correlation"``: correlation of corrected with uncorrected values within
    batches. NaN for genes that do not vary. With labels, ``"mnn_signs_changed"``: share of the differences
    between labels within batches, as far as they are more than noise, that have the other sign.
    """
    raw = history.cells.raw
    n = max(FEWEST_CELLS, min(CELLS, ALL_CELLS // len(raw), VALUES // max(1, model.spaces.n_genes)))
    before, after, within = (np.zeros((k, model.spaces.n_genes)) for k in (2, 2, 3))
    signs, weights = SignChanges(model.spaces.n_genes), 0.0
    for b, own in enumerate(raw):
        if not isinstance(own, FitCellsInMemory):
            return None
        rows = np.unique(np.linspace(0, len(own.rows) - 1, min(n, len(own.rows))).astype(np.intp))
        m, weight = len(rows), own.n_cells / len(rows)
        weights += own.n_cells
        x, y = _values(model, b, own, rows)
        if labels is not None:
            signs.add_batch(x, y, labels[b][rows])
        sx, sy = x.sum(axis=0), y.sum(axis=0)
        xx, yy, xy = (np.einsum("ij,ij->j", *both) for both in ((x, x), (y, y), (x, y)))
        before += weight * np.array([sx, xx])
        after += weight * np.array([sy, yy])
        within += weight * np.array([xx - sx * sx / m, yy - sy * sy / m, xy - sx * sy / m])
    of_before, of_after = (squares / weights - (sums / weights) ** 2 for sums, squares in (before, after))
    with np.errstate(divide="ignore", invalid="ignore"):
        removed = 1 - of_after / of_before
        correlation = np.clip(within[2] / np.sqrt(within[0] * within[1]), -1, 1)
    still = of_before <= LEAST * of_before.max(initial=0)
    removed[still], correlation[still] = np.nan, np.nan
    correlation[within[:2].min(axis=0) <= LEAST * within[0].max(initial=0)] = np.nan
    columns = {VARIANCE_REMOVED: removed, CORRELATION: correlation}
    if labels is not None:
        columns[SIGNS_CHANGED] = signs.shares()
    return pd.DataFrame({name: values.astype(np.float32) for name, values in columns.items()})


def _values(
    model: CorrectionModel, batch: int, own: FitCellsInMemory, rows: NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """Values of some fitted cells on the scale of the result, in double precision: before, and after."""
    x = np.empty((len(rows), model.spaces.n_genes))
    y = np.empty_like(x)
    for block in row_blocks(len(rows), ROWS):
        X = own.X[rows[block]]
        x[block] = _normalised(model, X, model.names[batch])
        y[block] = model.correct(batch, X, own.rows[rows[block]])
    return x, y


def _normalised(model: CorrectionModel, cells: Block, name: str) -> Floats:
    """Uncorrected values of some cells, on the scale of the result."""
    X = model.spaces.dense(cells)
    if model.spaces.cos_norm_out:
        X = X / model.spaces.lengths(X[:, model.spaces.near], name)
    return X


def extremes(changes: pd.DataFrame, genes: pd.Index) -> pd.DataFrame:
    """Return the genes that lost most of their pattern, of their variance, and of their signs, in turn."""
    named = changes.assign(gene=[str(gene) for gene in genes])
    lists = [named.nsmallest(EXTREME, CORRELATION), named.nlargest(EXTREME, VARIANCE_REMOVED)]
    if SIGNS_CHANGED in named:
        lists.append(named[named[SIGNS_CHANGED] > 0].nlargest(EXTREME, SIGNS_CHANGED))
    listed = pd.concat(lists).drop_duplicates("gene")
    return listed[["gene", *changes.columns]].reset_index(drop=True).rename(index=str)
