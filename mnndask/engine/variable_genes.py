"""Genes that vary most within batches, found in one pass over each batch.

As ``scanpy.pp.highly_variable_genes(flavor="seurat", batch_key=...)`` finds them on data in memory:
dispersions are those of Seurat (Satija et al., Nature Biotechnology 2015), normalised among genes of similar
mean. Genes that are among the most variable in more batches come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from mnndask._progress import counted, stage
from mnndask.engine.batches import check_finite
from mnndask.engine.block_tasks import added, compute_each, over_blocks
from mnndask.engine.normalise_counts import PreparedRows
from mnndask.engine.run_options import RunOptions
from mnndask.stores.lazy_matrix import in_large_blocks

N_BINS = 20  # of genes of similar mean
COLUMNS = (
    "highly_variable",
    "means",
    "dispersions",
    "dispersions_norm",
    "highly_variable_nbatches",
    "highly_variable_intersection",
)


@dataclass(frozen=True)
class Moments:
    """Sums over cells of expression that is not log-transformed.

    Parameters
    ----------
    n_cells
        Number of cells.
    sums, squares
        Sum, and sum of squares, of each gene.
    n_expressing
        Number of cells that express each gene.
    n_values, n_fractional, largest
        Of the values before anything is done to them: how many are not zero, how many are no integers, and
        the largest.
    """

    n_cells: int
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]
    n_expressing: NDArray[np.intp]
    n_values: int
    n_fractional: int
    largest: float

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each gene."""
        return self.sums / self.n_cells

    @property
    def variance(self) -> NDArray[np.float64]:
        """Unbiased variance of each gene."""
        of_all = np.maximum(self.squares / self.n_cells - self.mean**2, 0)
        return of_all * (self.n_cells / max(self.n_cells - 1, 1))


def add_moments(parts: Sequence[Moments]) -> Moments:
    """Moments of the cells of all parts."""
    return Moments(
        sum(part.n_cells for part in parts),
        np.sum([part.sums for part in parts], axis=0),
        np.sum([part.squares for part in parts], axis=0),
        np.sum([part.n_expressing for part in parts], axis=0),
        sum(part.n_values for part in parts),
        sum(part.n_fractional for part in parts),
        max(part.largest for part in parts),
    )


@dataclass(frozen=True)
class MomentsOfRows:
    """Computes moments of blocks of rows of one batch.

    Parameters
    ----------
    rows
        What is done to rows as they are stored. The results are log-transformed.
    log_base
        Base of the logarithm; None for e.
    """

    rows: PreparedRows
    log_base: float | None = None

    def __call__(self, block: Any, first: int) -> Moments:
        """Return the moments of a block whose first row has the number `first`."""
        check_finite(block, self.rows.label, first)
        X: Any = self.rows(block, first)
        is_sparse = sparse.issparse(X)
        values = (X.data if is_sparse else X).astype(np.result_type(X.dtype, np.float32))
        if self.log_base is not None:
            values *= np.log(self.log_base)
        with np.errstate(over="ignore"):  # of values that are no logarithms, which sums show
            np.expm1(values, out=values)
        values = values.astype(np.float64)
        if not is_sparse:
            sums, squares = values.sum(axis=0), (values**2).sum(axis=0)
            n_expressing = np.count_nonzero(values, axis=0)
        else:
            sums, squares = (np.bincount(X.indices, each, X.shape[1]) for each in (values, values**2))
            n_expressing = np.bincount(X.indices[values != 0], minlength=X.shape[1])
        return Moments(X.shape[0], sums, squares, n_expressing, *_kind_of_values(block))


def _kind_of_values(block: Any) -> tuple[int, int, float]:
    """How many values are not zero, how many are no integers, and the largest."""
    raw = block.data if sparse.issparse(block) else np.asarray(block)
    n_fractional = int((raw != np.floor(raw)).sum()) if raw.dtype.kind == "f" else 0
    return int(np.count_nonzero(raw)), n_fractional, float(raw.max(initial=0))


def moments_of(batches: Sequence[tuple[da.Array, MomentsOfRows]], run: RunOptions) -> list[Moments]:
    """Return the moments of all genes in each batch. Triggers one compute, which reads each cell once.

    Parameters
    ----------
    batches
        Matrix of each batch as it is stored, in chunks of whole rows, and what computes moments of its rows.
    run
        Options of the run.
    """
    tasks, n_cells = [], sum(X.shape[0] for X, _ in batches)
    with stage("finding variable genes", n_cells):
        for b, (stored, moments_of_rows) in enumerate(batches):
            X = in_large_blocks(stored, run.budget.chunk_bytes, run.budget.n_workers)
            starts = np.cumsum((0, *X.chunks[0]))
            call = counted(moments_of_rows, rows=lambda block, _: block.shape[0])
            firsts = {i: (int(start),) for i, start in enumerate(starts[:-1])}
            tasks.append(added("genes-sum", add_moments, over_blocks("genes", call, X, firsts, b)))
        return [moments for (moments,) in compute_each(tasks, run.n_jobs, n_cells)]


def variable_genes(moments: Sequence[Moments], genes: pd.Index, n_top: int) -> pd.DataFrame:
    """Rank genes over batches. Return the columns of ``var`` that scanpy has, by gene.

    Parameters
    ----------
    moments
        Of each batch.
    genes
        Names of the genes.
    n_top
        Number of genes to mark. Of equally variable ones, the first in alphabetical order are marked.
    """
    ranked = pd.concat([_in_batch(own, genes, n_top) for own in moments])
    ranked["highly_variable"] = ranked["highly_variable"].astype(int)
    how = dict.fromkeys(("means", "dispersions", "dispersions_norm"), "mean") | {"highly_variable": "sum"}
    out: pd.DataFrame = ranked.groupby(ranked.index, observed=True).agg(how)
    out["highly_variable_nbatches"] = out["highly_variable"]
    out["highly_variable_intersection"] = out["highly_variable_nbatches"] == len(moments)
    by = ["highly_variable_nbatches", "dispersions_norm"]
    out = out.sort_values(by, ascending=False, na_position="last")
    out["highly_variable"] = np.arange(len(out)) < n_top
    return out.loc[genes, list(COLUMNS)]


def _in_batch(moments: Moments, genes: pd.Index, n_top: int) -> pd.DataFrame:
    """Dispersions of the genes of one batch. Those that it does not express have zeros."""
    expressed = moments.n_expressing > 0
    mean = moments.mean[expressed]
    mean[mean == 0] = 1e-12
    dispersion = moments.variance[expressed] / mean
    dispersion[dispersion == 0] = np.nan
    own = pd.DataFrame({"means": np.log1p(mean), "dispersions": np.log(dispersion)}, index=genes[expressed])
    if len(own):
        own["dispersions_norm"] = _normalised(own["means"], own["dispersions"])
        own["highly_variable"] = _highest(own["dispersions_norm"].to_numpy(), n_top)
    columns = ("means", "dispersions", "dispersions_norm", "highly_variable")
    out = pd.DataFrame(0.0, genes, columns)
    if len(own):
        out.loc[own.index] = own.astype(float)
    return out


def _normalised(means: pd.Series, dispersions: pd.Series) -> pd.Series:
    """How many standard deviations dispersions are above those of genes of similar mean."""
    bins = pd.cut(means, bins=N_BINS)
    of_bin = dispersions.groupby(bins, observed=True).agg(["mean", "std"])
    alone = of_bin["std"].isna()  # its dispersion is then taken as 1 standard deviation
    of_bin.loc[alone, "std"] = of_bin.loc[alone, "mean"]
    of_bin.loc[alone, "mean"] = 0.0
    own = of_bin.loc[bins].set_axis(dispersions.index)
    out: pd.Series = (dispersions - own["mean"]) / own["std"]
    return out


def _highest(values: NDArray[np.float64], n_top: int) -> NDArray[np.bool_]:
    """Which values are among the `n_top` highest, equal ones included; NaN is not."""
    known = np.sort(values[~np.isnan(values)])[::-1]
    if not known.size:
        return np.zeros(len(values), bool)
    least = known[min(n_top, known.size) - 1]
    return np.asarray(np.where(np.isnan(values), -np.inf, values) >= least)
