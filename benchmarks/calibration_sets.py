"""Parts of one batch for `benchmarks.calibration`, with an effect on some of them or without."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
from scipy import sparse

from mnndask.datasets.simulated import BATCH_EFFECT, simulate

SPLITS = {
    "halves": [0.5, 0.5],
    "80/20": [0.8, 0.2],
    "20/80": [0.2, 0.8],
    "3 parts": [1 / 3] * 3,
    "8 parts": [1 / 8] * 8,
}
SIZES = {"all": 1.0, "a half": 1 / 2, "a third": 1 / 3, "a tenth": 1 / 10}  # of an effect
SIMULATED = "simulated"
EFFECT = 0.3  # with as few counts as here, batches partly mix before correction, as real ones do


@dataclass(frozen=True)
class OneBatch:
    """Cells of one batch, log-normalised and dense, and what another batch would add to each.

    Parameters
    ----------
    name
        What tables call it.
    X
        Shape ``(n_cells, n_genes)``.
    types
        Labels of the cells.
    effect
        What the full batch effect adds, of the same shape.
    """

    name: str
    X: np.ndarray
    types: np.ndarray
    effect: np.ndarray

    def shifted(self, size: float, where: np.ndarray) -> np.ndarray:
        """The cells, some of which get a part of the effect; values stay at or above 0, as counts do."""
        X = self.X.copy()
        X[where] = np.maximum(0, X[where] + size * self.effect[where]) if size else X[where]
        return X

    def parts(self, shares: Sequence[float], seed: int) -> np.ndarray:
        """Number of the part of each cell, at random; parts have these shares of the cells."""
        n = len(self.X)
        ends = np.round(np.cumsum(shares) * n).astype(int)
        part = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
        return np.random.default_rng(seed).permutation(part)


def simulated(n_cells: int, n_genes: int, seed: int) -> OneBatch:
    """One simulated batch, and the effect of another on the rates of its genes."""
    [batch] = simulate(
        [n_cells], n_genes, 1, n_types=10, counts_per_gene=1.0, batch_effect=BATCH_EFFECT, seed=seed
    )
    X = batch.X.toarray()
    factors = np.exp(np.random.default_rng(seed).normal(0, EFFECT, X.shape[1])).astype(X.dtype)
    effect = np.log1p(np.expm1(X) * factors) - X
    return OneBatch(SIMULATED, X, batch.obs["cell_type"].to_numpy(str), effect)


def given(paths: Sequence[Path], label: str) -> Iterator[OneBatch]:
    """Each file as a batch of its own; its effect is the mean difference of the next file, type by type."""
    batches = [ad.read_h5ad(path) for path in paths]
    for path, batch in zip(paths, batches, strict=True):
        if label not in batch.obs:
            sys.exit(f"{path} has no column {label} in obs; name that of the cells' types with --label")
    cells = [_highly_variable(batch) for batch in batches]
    types = [batch.obs[label].to_numpy(str) for batch in batches]
    for b, path in enumerate(paths):
        other = (b + 1) % len(paths)
        effect = _by_type((cells[b], types[b]), (cells[other], types[other]))
        yield OneBatch(path.stem, cells[b], types[b], effect)


def _highly_variable(batch: ad.AnnData) -> np.ndarray:
    marked = batch.var.get("highly_variable", np.ones(batch.n_vars, bool))
    X = batch.X[:, np.asarray(marked)]
    return np.asarray(X.toarray() if sparse.issparse(X) else X)


def _by_type(own: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Difference of the means of each cell's type; of types that only one has, the mean over the others."""
    (X, types), (Y, others) = own, other
    shared = np.intersect1d(types, others)
    shifts = {t: Y[others == t].mean(axis=0) - X[types == t].mean(axis=0) for t in shared}
    usual = np.mean(list(shifts.values()), axis=0)
    return np.stack([shifts.get(t, usual) for t in types])
