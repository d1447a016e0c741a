"""Correct an embedding that is there, beside harmonypy: ``python -m benchmarks.embedding [--n-cells N]``.

Times are of calls in this process after one small call that compiles: wall clock, and processor time, which
other work on the machine changes less. Cells are simulated in 50 dimensions: types, batches of other
proportions, and a shift of each type in each batch.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from mnndask.metrics import lisi
from mnndask.pp import mnn_integrate


def cells(n_cells: int, n_dims: int = 50, n_batches: int = 4, n_types: int = 12, seed: int = 0) -> ad.AnnData:
    """An AnnData without expression, of an embedding whose variances fall as those of components do."""
    rng = np.random.default_rng(seed)
    spread = 1 / np.sqrt(1 + np.arange(n_dims))
    types = 6 * rng.normal(size=(n_types, n_dims)) * spread
    shifts = (
        3 * rng.normal(size=(n_batches, 1, n_dims)) + rng.normal(size=(n_batches, n_types, n_dims))
    ) * spread
    shifts[0] = 0
    batch = rng.integers(n_batches, size=n_cells)
    shares = rng.dirichlet(np.full(n_types, 3.0), n_batches)
    type_ = np.zeros(n_cells, np.intp)
    for b in range(n_batches):
        own = batch == b
        type_[own] = rng.choice(n_types, own.sum(), p=shares[b])
    E = types[type_] + shifts[batch, type_] + rng.normal(size=(n_cells, n_dims)) * spread
    obs = pd.DataFrame(
        {"batch": batch.astype(str), "type": type_.astype(str)}, index=np.arange(n_cells).astype(str)
    )
    return ad.AnnData(obs=obs, obsm={"X_pca": E.astype(np.float32)})


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, seconds, and seconds of processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    out = function()
    return out, time.perf_counter() - wall, time.process_time() - cpu


def mixed(adata: ad.AnnData, E: np.ndarray, n: int = 2000) -> tuple[float, float]:
    """Median LISI of batches and of types, of some cells."""
    some = np.sort(np.random.default_rng(0).choice(adata.n_obs, min(n, adata.n_obs), replace=False))
    names = ("batch", "type")
    return tuple(float(np.median(lisi(E[some], adata.obs[name].to_numpy()[some]))) for name in names)


def ours(adata: ad.AnnData) -> np.ndarray:
    mnn_integrate(adata, "batch", basis="X_pca")
    return adata.obsm["X_mnn"]


def harmony(adata: ad.AnnData) -> np.ndarray:
    import harmonypy

    out = harmonypy.run_harmony(adata.obsm["X_pca"], adata.obs, "batch", verbose=False).Z_corr
    return np.asarray(out if out.shape[0] == adata.n_obs else out.T)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-cells", type=int, default=200_000)
    parser.add_argument("--without-harmony", action="store_true")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # that a sketch is used
    ours(cells(2000))
    adata = cells(given.n_cells)
    print(
        f"{given.n_cells:,} x 50 in 4 batches; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    )
    print("uncorrected: iLISI {:.2f}, cLISI {:.2f}".format(*mixed(adata, adata.obsm["X_pca"])))
    for name, function in {"mnn_integrate": ours, "harmonypy": harmony}.items():
        if name == "harmonypy" and given.without_harmony:
            continue
        E, wall, cpu = timed(lambda function=function: function(adata))
        i_lisi, c_lisi = mixed(adata, E)
        print(
            f"{name}: {wall:.1f} s, processors {cpu:.1f} s; iLISI {i_lisi:.2f}, cLISI {c_lisi:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
