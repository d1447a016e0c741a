"""Small stores with every kind of element, to be damaged."""

from __future__ import annotations

import shutil
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem
from scipy import sparse

LAYOUTS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}
KINDS = (
    *("zarr2-dense", "zarr2-csr", "zarr3-dense", "zarr3-csr", "zarr3-csc", "shards-dense"),
    *("h5ad-dense", "h5ad-csr", "h5ad-csc"),
)
SIZES, N_GENES = {"a": 30, "b": 24}, 12


def batch(name, layout):
    """An AnnData of one batch."""
    rng = np.random.default_rng([7, ord(name)])
    n = SIZES[name]
    X = np.maximum(rng.gamma(1.0, 2.0, N_GENES) + rng.normal(0, 1, (n, N_GENES)) - 0.5, 0)
    kinds = rng.integers(3, size=n)
    obs = pd.DataFrame(
        {
            "depth": np.arange(n),
            "used": np.arange(n) % 4 > 0,
            "kind": pd.Categorical.from_codes(kinds, ["T", "B", "mono"]),
            "count": pd.array(np.where(kinds, kinds, None), dtype="Int64"),
            "note": [f"{name}, cell {i}" for i in range(n)],
        },
        index=[f"{name}{i}" for i in range(n)],
    )
    var = pd.DataFrame({"hvg": np.arange(N_GENES) % 3 > 0}, index=[f"g{i}" for i in range(N_GENES)])
    adata = ad.AnnData(LAYOUTS[layout](X), obs=obs, var=var)
    adata.raw = adata.copy()
    adata.layers["twice"] = LAYOUTS[layout](X * 2)
    adata.obsm["X_scVI"], adata.obsm["near"] = X[:, :3].copy(), sparse.csr_matrix(X[:, 3:6])
    adata.varm["loadings"] = rng.random((N_GENES, 2))
    table = pd.DataFrame({"value": [0.5, 1.5]}, index=["p", "q"])
    adata.uns = {"colours": np.array(["red", "blue"]), "nested": {"size": 3, "by": "kind", "table": table}}
    return adata


def write(folder, kind):
    """Write both batches; return their paths."""
    form, layout = kind.split("-")
    paths = []
    for name in SIZES:
        adata = batch(name, layout)
        paths.append(folder / f"{name}.{'h5ad' if form == 'h5ad' else 'zarr'}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_one(adata, paths[-1], form, layout)
    return paths


def write_corrected(folder, kind, output):
    """Write an output of the command in a format; return its path."""
    if kind == "corrected-zarr":
        shutil.copytree(output, folder / "corrected.zarr", dirs_exist_ok=True)
        return folder / "corrected.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ad.read_zarr(output).write_h5ad(folder / "corrected.h5ad")
    return folder / "corrected.h5ad"


def write_one(adata, path, form, layout):
    """Write an AnnData in small chunks."""
    chunks = {"chunks": (10, 5) if layout == "dense" else (60,)}
    if form == "h5ad":
        adata.write_h5ad(path)
        with h5py.File(path, "a") as file:
            del file["X"]
            write_elem(file, "X", adata.X, dataset_kwargs=chunks | {"compression": "gzip"})
        return
    known = hasattr(ad.settings, "auto_shard_zarr_v3")
    with ad.settings.override(**({"auto_shard_zarr_v3": False} if known else {})):
        root = zarr.open_group(path, mode="w", zarr_format=2 if form == "zarr2" else 3)
        write_elem(root, "/", adata)
        shards = {"shards": (20, 10)} if form == "shards" else {}
        write_elem(root, "X", adata.X, dataset_kwargs=chunks | shards)
    zarr.consolidate_metadata(path)
