"""From raw counts of four labs to mixed coordinates: ``python -m benchmarks.road``.

Each lab has a file of raw counts (CSR, ``.h5ad``) with genes of its own in an order of its own. The command
aligns, normalises and ranks genes while it reads, and writes coordinates, or the variable genes too. Beside
it, scanpy in memory: concat, normalize_total, log1p, highly_variable_genes, pca, then harmonypy (left out if
it is not installed). Time and memory are those of whole processes, files read and written included. Mixing is
median LISI of labs (4 at best) and of types (1 at best) among cells.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.memory import MNNDASK, measured
from benchmarks.report import benchmark
from mnndask.metrics import lisi

FULL = {"n_cells": 200_000, "n_genes": 20_000, "n_top_genes": 2000, "scratch": None}
TOY = {"n_cells": 800, "n_genes": 400, "n_top_genes": 100}
LABS, TYPES = 4, 8
SCORED = 2000
ROWS = 10_000  # that are simulated at a time

IN_MEMORY = """
import sys, warnings
warnings.simplefilter("ignore")
import anndata as ad, numpy as np, scanpy as sc
n_top, out, *paths = sys.argv[1:]
adata = ad.concat([ad.read_h5ad(path) for path in paths], label="lab", index_unique="-")
adata.layers["counts"] = adata.X.copy()
sc.pp.normalize_total(adata, target_sum=1e4)
sc.pp.log1p(adata)
sc.pp.highly_variable_genes(adata, flavor="seurat", batch_key="lab", n_top_genes=int(n_top))
sc.pp.pca(adata, n_comps=50, mask_var="highly_variable")
import harmonypy
mixed = np.asarray(harmonypy.run_harmony(adata.obsm["X_pca"], adata.obs, "lab", verbose=False).Z_corr)
adata.obsm["X_harmony"] = mixed if mixed.shape[0] == adata.n_obs else mixed.T
adata.write_h5ad(out)
"""


def write_labs(folder: Path, n_cells: int, n_genes: int) -> list[Path]:
    """Write raw counts of four labs with types in common, an effect each, and genes in other orders."""
    rng = np.random.default_rng(0)
    profiles = rng.gamma(0.2, 1.0, (TYPES, n_genes)) + rng.gamma(0.2, 1.0, n_genes)
    paths = []
    for lab in range(LABS):
        effect = rng.gamma(8.0, 1 / 8, n_genes)
        kinds = rng.integers(TYPES, size=n_cells // LABS)
        genes = rng.permutation(n_genes)[: int(0.95 * n_genes)]
        rates = (profiles * effect)[:, genes]
        rates *= 0.1 * n_genes / rates.sum(axis=1, keepdims=True)  # counts of a cell
        parts = []
        for start in range(0, len(kinds), ROWS):
            own = kinds[start : start + ROWS]
            depth = rng.gamma(4.0, 1 / 4, (len(own), 1))
            parts.append(sparse.csr_matrix(rng.poisson(rates[own] * depth).astype(np.float32)))
        obs = pd.DataFrame({"type": kinds.astype(str)}, index=[f"cell{i}" for i in range(len(kinds))])
        var = pd.DataFrame(index=[f"gene{i}" for i in genes])
        paths.append(folder / f"lab{lab}.h5ad")
        ad.AnnData(sparse.vstack(parts, format="csr"), obs=obs, var=var).write_h5ad(paths[-1])
    return paths


def mixing(path: Path, key: str, batch: str) -> dict[str, float]:
    """Mixing of labs and types in coordinates of a file."""
    read = ad.read_zarr if path.suffix == ".zarr" else ad.read_h5ad
    adata = read(path)
    some = np.random.default_rng(0).choice(adata.n_obs, min(SCORED, adata.n_obs), replace=False)
    E, obs = np.asarray(adata.obsm[key])[some], adata.obs.iloc[some]
    return {f"lisi_{name}": round(float(np.median(lisi(E, obs[name]))), 2) for name in (batch, "type")}


def run(given: Any) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=given.scratch) as place:
        folder = Path(place)
        paths = write_labs(folder, given.n_cells, given.n_genes)
        words = ["--counts", "--n-top-genes", given.n_top_genes, "--recommended", "--memory-limit", "2GB"]
        rows = []
        written = {
            "coordinates": ["--genes", "none"],
            "variable genes and coordinates": ["--genes", "subset"],
        }
        for name, options in written.items():
            out = folder / f"{len(rows)}.zarr"
            used = measured([*MNNDASK, "correct", *paths, *words, *options, "-q", "-o", out])
            rows.append({"road": f"mnndask, {name}", **used, **mixing(out, "X_mnn", "batch")})
        if find_spec("harmonypy") is not None:
            out = folder / "memory.h5ad"
            used = measured(["-c", IN_MEMORY, given.n_top_genes, out, *paths])
            rows.append({"road": "scanpy and harmonypy", **used, **mixing(out, "X_harmony", "lab")})
        return rows


def main(given: Sequence[str] | None = None) -> None:
    benchmark("road", __doc__, run, FULL, TOY, given)


if __name__ == "__main__":
    main()
