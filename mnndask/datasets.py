"""Simulated batches: cell types with related profiles, seen through batch effects and sequencing depths."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from mnndask.errors import InputError


def simulate(
    n_cells: int = 2000, n_genes: int = 1000, n_batches: int = 3, *, n_types: int = 6, seed: int = 0
) -> list[AnnData]:
    """Simulate batches of one tissue.

    Counts are Poisson around a cell type's profile, times a batch's effect on each gene, times the cell's
    depth. Types are unequally frequent, each batch mixes them in its own proportions, and the last batch
    lacks the rarest.

    Parameters
    ----------
    n_cells
        Number of cells in all.
    n_genes
        Number of genes.
    n_batches
        Number of batches, which share the cells about equally.
    n_types
        Number of cell types.
    seed
        The same seed gives the same data.

    Returns
    -------
    One AnnData per batch: ``X`` is ``log1p`` of counts per 10,000 (CSR, single precision),
    ``obs["cell_type"]`` the truth, ``obs["batch"]`` the batch, ``var["highly_variable"]`` the genes that
    differ between types.

    Raises
    ------
    InputError
        If any number is too small.

    Examples
    --------
    >>> from mnndask.datasets import simulate
    >>> [batch.shape for batch in simulate(300, 50, 3)]
    [(100, 50), (100, 50), (100, 50)]
    """
    if min(n_genes, n_batches, n_types) < 1 or n_cells < n_batches:
        what = f"Cannot simulate {n_cells} cells x {n_genes} genes of {n_types} types in {n_batches} batches."
        raise InputError(what, "Give at least one gene, type and batch, and one cell per batch.")
    rng = np.random.default_rng(seed)
    base = rng.lognormal(0, 1.2, n_genes)
    markers = rng.random((n_types, n_genes)) < 0.12
    profiles = base * np.exp(markers * rng.normal(0, 1.6, (n_types, n_genes)))
    frequency = 0.75 ** np.arange(n_types)
    names = [f"gene{i}" for i in range(n_genes)]
    var = pd.DataFrame({"highly_variable": markers.any(axis=0)}, index=names)

    batches = []
    for b, n in enumerate(len(part) for part in np.array_split(np.arange(n_cells), n_batches)):
        share = rng.dirichlet(20 * frequency / frequency.sum())
        if n_types > 1 and n_batches > 1 and b == n_batches - 1:
            share[-1] = 0
        types = rng.choice(n_types, size=n, p=share / share.sum())
        effect = np.exp(rng.normal(0, 0.35, n_genes))
        depth = rng.lognormal(np.log(3.0 * n_genes), 0.35, n)
        X = _log_counts(profiles[types] * effect, depth, rng)
        obs = pd.DataFrame(
            {
                "cell_type": pd.Categorical(
                    [f"type{t}" for t in types], [f"type{t}" for t in range(n_types)]
                ),
                "batch": pd.Categorical([f"batch{b}"] * n),
            },
            index=[f"batch{b}-cell{i}" for i in range(n)],
        )
        batches.append(AnnData(X, obs=obs, var=var.copy()))
    return batches


def _log_counts(
    rates: NDArray[np.float64], depth: NDArray[np.float64], rng: np.random.Generator
) -> sparse.csr_matrix:
    counts = rng.poisson(rates / rates.sum(axis=1, keepdims=True) * depth[:, None])
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return sparse.csr_matrix(np.log1p(1e4 * counts / total).astype(np.float32))
