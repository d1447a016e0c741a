"""Correct an embedding that is there, beside harmonypy: ``python -m benchmarks.embedding``.

Times are of calls in this process after a small one that compiles: wall clock, and processor time, which
other work on the machine changes less; the load when a size begins is given. Cells are simulated in 50
dimensions: types, batches of other proportions, and a shift of each type in each batch. Mixing is median
LISI, of batches (4 at best) and of types (1 at best). Harmony is left out above `harmony_up_to` cells.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from benchmarks.report import benchmark
from mnndask.metrics import lisi
from mnndask.pp import mnn_integrate

FULL = {"n_cells": [200_000, 1_000_000], "harmony_up_to": 200_000}
TOY = {"n_cells": [600], "harmony_up_to": 600}
DIMS, BATCHES, TYPES = 50, 4, 12
SCORED = 2000


def cells(n_cells: int, seed: int = 0) -> ad.AnnData:
    """An AnnData without expression, of an embedding whose variances fall as those of components do."""
    rng = np.random.default_rng(seed)
    spread = 1 / np.sqrt(1 + np.arange(DIMS))
    types = 6 * rng.normal(size=(TYPES, DIMS))
    shifts = 3 * rng.normal(size=(BATCHES, 1, DIMS)) + rng.normal(size=(BATCHES, TYPES, DIMS))
    shifts[0] = 0
    shares = rng.dirichlet(np.full(TYPES, 3.0), BATCHES)
    batch, kind = rng.integers(BATCHES, size=n_cells), np.zeros(n_cells, np.intp)
    for b in range(BATCHES):
        own = batch == b
        kind[own] = rng.choice(TYPES, own.sum(), p=shares[b])
    E = (types[kind] + shifts[batch, kind] + rng.normal(size=(n_cells, DIMS))) * spread
    obs = pd.DataFrame({"batch": batch.astype(str), "type": kind.astype(str)})
    return ad.AnnData(obs=obs.set_axis(obs.index.astype(str)), obsm={"X_pca": E.astype(np.float32)})


def ours(adata: ad.AnnData, **options: Any) -> np.ndarray:
    mnn_integrate(adata, "batch", basis="X_pca", **options)
    return adata.obsm["X_mnn"]


def measured(adata: ad.AnnData) -> np.ndarray:
    return ours(adata, diagnostics=True)


def harmony(adata: ad.AnnData) -> np.ndarray:
    import harmonypy

    out = np.asarray(harmonypy.run_harmony(adata.obsm["X_pca"], adata.obs, "batch", verbose=False).Z_corr)
    return out if out.shape[0] == adata.n_obs else out.T


def figures(adata: ad.AnnData, call: Callable[[ad.AnnData], np.ndarray]) -> dict[str, float]:
    """Time of a call, and how well batches and types are mixed after it."""
    wall, cpu = time.perf_counter(), time.process_time()
    E = call(adata)
    times = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    n = min(SCORED, adata.n_obs)
    some = np.random.default_rng(0).choice(adata.n_obs, n, replace=False)
    mixed = {
        f"lisi_{name}": np.median(lisi(E[some], adata.obs[name].iloc[some])) for name in ("batch", "type")
    }
    return {name: round(float(value), 2) for name, value in (times | mixed).items()}


def run(options: Any) -> list[dict[str, Any]]:
    calls = {"mnn_integrate": ours, "mnn_integrate, measured": measured, "harmonypy": harmony}
    rows = []
    ours(cells(2000))
    for n in options.n_cells:
        adata, load = cells(n), os.getloadavg()[0]
        for name, call in calls.items():
            if call is not harmony or n <= options.harmony_up_to:
                rows.append({"n_cells": n, "call": name, "load": round(load, 1), **figures(adata, call)})
    return rows


def main(given: Sequence[str] | None = None) -> None:
    benchmark("embedding", __doc__, run, FULL, TOY, given)


if __name__ == "__main__":
    main()
