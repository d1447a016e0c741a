"""What several test files share: data, every kind of input, and proof of laziness."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import sparse
import xarray as xr
import zarr
from scipy import sparse as sp

from mnndask import mnn_correct

GENES = [f"g{i}" for i in range(40)]
STAGE = re.compile(r"mnndask: (.+): [\d,]+ \w+ in \d+\.\d s")
ANNOUNCED = re.compile(r"mnndask: (memory limit|output|scratch): .+")


def told(err):
    """Lines of the command's stderr, but for those of stages that it has done, and of what it will need."""
    return [line for line in err.splitlines() if not (STAGE.fullmatch(line) or ANNOUNCED.fullmatch(line))]


def make_batches(sizes=(60, 70, 50), n_genes=40, *, seed=0, dtype=np.float64):
    """Log-expression of three cell types, shifted by a batch effect; a fifth of the values are zero."""
    rng = np.random.default_rng(seed)
    profiles = rng.gamma(1.0, 2.0, (3, n_genes))
    out = []
    for n in sizes:
        X = profiles[rng.integers(3, size=n)] + rng.normal(0, 0.4, (n, n_genes)) + rng.normal(0, 0.5, n_genes)
        out.append(np.where(rng.random(X.shape) < 0.2, 0, np.maximum(X, 0)).astype(dtype))
    return out


def as_anndata(X, name="a", genes=GENES):
    """An AnnData around a matrix, with a column, a layer and an embedding."""
    obs = pd.DataFrame({"depth": np.arange(X.shape[0])}, index=[f"{name}{i}" for i in range(X.shape[0])])
    adata = ad.AnnData(X, obs=obs, var=pd.DataFrame(index=pd.Index(list(genes[: X.shape[1]]))))
    adata.layers["twice"] = X * 2
    adata.obsm["X_scVI"] = np.arange(2.0 * X.shape[0]).reshape(-1, 2)
    return adata


def _rows(n):
    """An irregular chunking of n rows."""
    return (n,) if n < 4 else (n // 4, 1, n - n // 4 - 1)


def _stored(X, folder, name, suffix, layout):
    matrix = {"dense": np.asarray, "csr": sp.csr_matrix, "csc": sp.csc_matrix}[layout](X)
    path = Path(folder) / f"{name}-{layout}{suffix}"
    adata = as_anndata(matrix, name)
    adata.write_zarr(path) if suffix == ".zarr" else adata.write_h5ad(path)
    return path


# name -> function of (matrix, folder, name) that gives that kind of input
KINDS = {
    "ndarray": lambda X, folder, name: X,
    "fortran": lambda X, folder, name: np.asfortranarray(X),
    "strided": lambda X, folder, name: np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3],
    "csr_matrix": lambda X, folder, name: sp.csr_matrix(X),
    "csc_matrix": lambda X, folder, name: sp.csc_matrix(X),
    "csr_array": lambda X, folder, name: sp.csr_array(X),
    "coo_array": lambda X, folder, name: sp.coo_array(X),
    "dask": lambda X, folder, name: da.from_array(X, chunks=(_rows(len(X)), X.shape[1])),
    "dask-column-chunks": lambda X, folder, name: da.from_array(X, chunks=(_rows(len(X)), 7)),
    "dask-csr": lambda X, folder, name: da.from_array(X, chunks=(_rows(len(X)), X.shape[1])).map_blocks(
        sp.csr_matrix
    ),
    "dask-csr-column-chunks": lambda X, folder, name: da.from_array(X, chunks=(11, 9)).map_blocks(
        sp.csr_matrix
    ),
    "dask-coo": lambda X, folder, name: da.from_array(X, chunks=(13, X.shape[1])).map_blocks(sparse.COO),
    "zarr": lambda X, folder, name: zarr.array(X, chunks=(16, 10)),
    "dataarray": lambda X, folder, name: xr.DataArray(
        X, dims=("cell", "gene"), coords={"gene": GENES[: X.shape[1]]}
    ),
    "dataarray-dask": lambda X, folder, name: xr.DataArray(
        X, dims=("cell", "gene"), coords={"gene": GENES[: X.shape[1]]}
    ).chunk(cell=17),
    "anndata": lambda X, folder, name: as_anndata(X, name),
    "anndata-csr": lambda X, folder, name: as_anndata(sp.csr_matrix(X), name),
    "anndata-csc": lambda X, folder, name: as_anndata(sp.csc_matrix(X), name),
    "anndata-view": lambda X, folder, name: as_anndata(np.vstack([X, X]), name)[: len(X)],
    "anndata-dask": lambda X, folder, name: as_anndata(da.from_array(X, chunks=(19, 40)), name),
    "backed": lambda X, folder, name: ad.read_h5ad(_stored(X, folder, name, ".h5ad", "dense"), backed="r"),
    "backed-csr": lambda X, folder, name: ad.read_h5ad(_stored(X, folder, name, ".h5ad", "csr"), backed="r"),
    "backed-view": lambda X, folder, name: ad.read_h5ad(
        _stored(np.vstack([X[:1], X]), folder, name, ".h5ad", "csr"), backed="r"
    )[1:],
    "lazy-zarr": lambda X, folder, name: ad.experimental.read_lazy(_stored(X, folder, name, ".zarr", "csr")),
    "lazy-zarr-dense": lambda X, folder, name: ad.experimental.read_lazy(
        _stored(X, folder, name, ".zarr", "dense")
    ),
    "lazy-h5ad": lambda X, folder, name: ad.experimental.read_lazy(_stored(X, folder, name, ".h5ad", "csr")),
    "path-zarr": lambda X, folder, name: _stored(X, folder, name, ".zarr", "csr"),
    "path-zarr-csc": lambda X, folder, name: str(_stored(X, folder, name, ".zarr", "csc")),
    "path-h5ad": lambda X, folder, name: _stored(X, folder, name, ".h5ad", "csr"),
    "path-h5ad-dense": lambda X, folder, name: _stored(X, folder, name, ".h5ad", "dense"),
}
IN_MEMORY = {
    k
    for k in KINDS
    if k.split("-")[0]
    in {"ndarray", "fortran", "strided", "csr_matrix", "csc_matrix", "csr_array", "coo_array"}
} | {
    "dataarray",
    "anndata",
    "anndata-csr",
    "anndata-csc",
    "anndata-view",
}


@contextmanager
def zarr_store(path, version):
    """Root of a new AnnData store in a zarr format, with any anndata; consolidated, not sharded unasked."""
    known = hasattr(ad.settings, "auto_shard_zarr_v3")
    with ad.settings.override(**({"auto_shard_zarr_v3": False} if known else {})):
        yield zarr.open_group(path, mode="w", zarr_format=version)
    zarr.consolidate_metadata(path)


def values(result):
    """Dense matrix of whatever came out."""
    X = result.X if isinstance(result, ad.AnnData) else result
    X = X.data if isinstance(X, xr.DataArray) else X
    return X.compute(scheduler="threads") if isinstance(X, da.Array) else np.asarray(X)


def without_record(result):
    """The result without `uns["mnn"]`, whose many small arrays take most of the time that writing takes."""
    del result.uns["mnn"]
    return result


@contextmanager
def no_compute():
    """Fail if dask computes anything inside."""

    def refuse(*_, **__):
        msg = "dask computed, and nothing should have been"
        raise AssertionError(msg)

    with dask.config.set(scheduler=refuse):
        yield


def counted(X, chunks):
    """A dask array over `X`, and a counter of how often each of its chunks was read."""
    reads = Counter()

    def read(block, block_info):
        reads[tuple(block_info[0]["chunk-location"])] += 1
        return block

    lazy = da.from_array(X, chunks=chunks).map_blocks(read, dtype=X.dtype, meta=np.empty((0, 0), X.dtype))
    return lazy, reads


SIZES = (60, 70, 50)
EXPECTED = {}


def expected(**options):
    """Corrected values of the plain matrices."""
    key = repr(options)
    if key not in EXPECTED:
        EXPECTED[key] = mnn_correct(*make_batches(), k=10, **options)[0]
    return EXPECTED[key]


def batches(kind="anndata", folder=None):
    return [KINDS[kind](X, folder, f"b{i}") for i, X in enumerate(make_batches())]


def one_anndata(labels, *, shuffled=True):
    """All batches in one AnnData, in mixed order; and the rows of each batch in it."""
    order = np.random.default_rng(1).permutation(sum(SIZES)) if shuffled else np.arange(sum(SIZES))
    adata = as_anndata(np.vstack(make_batches())[order])
    batch = np.repeat(np.arange(3), SIZES)[order]
    adata.obs["sample"] = np.asarray(labels)[batch]
    adata.uns["colours"] = {"sample": ["red", "blue"]}
    adata.obsp["near"] = sp.eye_array(adata.n_obs, format="csr")
    adata.var["mean"] = np.asarray(adata.X.mean(axis=0))
    return adata, batch


def check_kept(folder, line):
    """The unfinished output is there, named, and does not open."""
    assert "out.zarr.partial" in line
    assert (folder / "out.zarr.partial").is_dir()
    assert not list((folder / "out.zarr.partial").glob("zarr.json"))
    with pytest.raises(FileNotFoundError):
        ad.read_zarr(folder / "out.zarr.partial")
