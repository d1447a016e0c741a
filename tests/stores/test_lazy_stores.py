"""Stores: what is read of them, how often, and how much memory correcting takes."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from contextlib import contextmanager

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from helpers import GENES, as_anndata, make_batches
from scipy import sparse as sp

from mnndask import mnn_correct

# ---------------------------------------------------------------- reads of stores


@pytest.fixture
def count_reads(monkeypatch):
    """Make every folder that zarr opens count, in one counter."""
    reads = Counter()
    original = zarr.storage.LocalStore.get

    async def get(self, key, prototype=None, byte_range=None):
        if "zarr.json" not in key and not key.rsplit("/", 1)[-1].startswith("."):
            reads[f"{self.root.name}/{key}", byte_range] += 1
        return await original(self, key, prototype, byte_range)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", get)
    return reads


def of_matrix(reads, slot="X"):
    return {key: n for (key, *_), n in reads.items() if f"/{slot}/" in key}


def test_zarr_arrays_are_read_once_each_time(tmp_path, count_reads):
    datas = []
    for i, X in enumerate(make_batches()):
        array = zarr.create_array(tmp_path / f"{i}.zarr", shape=X.shape, chunks=(16, 10), dtype=X.dtype)
        array[:] = X
        datas.append(zarr.open_array(tmp_path / f"{i}.zarr", mode="r"))
    count_reads.clear()
    result = mnn_correct(*datas, k=5)[0]
    n_chunks = sum(-(-n // 16) * 4 for n in (60, 70, 50))
    assert len(count_reads) == n_chunks
    assert set(count_reads.values()) == {1}
    result.compute()
    assert set(count_reads.values()) == {2}


@pytest.mark.parametrize("opener", [str, ad.experimental.read_lazy], ids=["path", "read_lazy"])
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_anndata_stores_are_read_once_each_time(tmp_path, count_reads, layout, opener):
    for i, X in enumerate(make_batches()):
        adata = as_anndata(layout(X), f"b{i}")
        adata.write_zarr(tmp_path / f"{i}.zarr", chunks=(16, 40) if layout is np.asarray else None)
    datas = [opener(tmp_path / f"{i}.zarr") for i in range(3)]
    count_reads.clear()
    result = mnn_correct(*datas, k=5)[0]
    matrix = of_matrix(count_reads)
    values_read = {key: n for key, n in matrix.items() if "indptr" not in key}
    assert len({key.split("/")[0] for key in values_read}) == 3
    assert set(values_read.values()) == {1}
    assert not of_matrix(count_reads, "layers")
    assert not of_matrix(count_reads, "obsm")
    count_reads.clear()
    result.X.compute()
    assert {n for key, n in of_matrix(count_reads).items() if "indptr" not in key} == {1}


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix])
def test_a_slice_reads_only_its_row_chunks(tmp_path, count_reads, layout):
    """Of batches from ``read_lazy``: one chunk of values of 500 rows each, of 10 and 12."""
    for i, X in enumerate(make_batches((5000, 6000), 20)):
        adata = as_anndata(layout(X), f"b{i}", GENES)
        adata.write_zarr(tmp_path / f"{i}.zarr", chunks=(500, 20) if layout is np.asarray else (500 * 16,))
    lazy = [ad.experimental.read_lazy(tmp_path / f"{i}.zarr") for i in range(2)]
    result = mnn_correct(*lazy, k=5, restrict=[np.arange(0, n, 50) for n in (5000, 6000)])[0]
    count_reads.clear()
    part = result[:100, :5].X
    assert not count_reads
    assert part.compute().shape == (100, 5)
    read = {key for key in of_matrix(count_reads) if "indptr" not in key}
    assert {key.split("/")[0] for key in read} == {"0.zarr"}
    held = [f for f in (tmp_path / "0.zarr/X").rglob("*") if f.is_file() and "indptr" not in str(f)]
    assert 0 < len(read) <= len(held) / 3  # chunks of read_lazy are of 1,000 rows


# ---------------------------------------------------------------- memory

N_CELLS, N_GENES = 10_000, 1_000
DENSE_BYTES = 2 * N_CELLS * N_GENES * 4


@contextmanager
def peak_below(fraction):
    """Fail if more than this fraction of the dense result was held at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < fraction * DENSE_BYTES, f"{peak / 2**20:.0f} of {DENSE_BYTES / 2**20:.0f} MiB"


def corrected(n_cells):
    """Two lazy batches of so many cells each, corrected by a fit of 300 of them."""
    rng = np.random.default_rng(0)
    options = {"density": 0.01, "format": "csr", "dtype": np.float32, "rng": rng}
    batches = [sp.random_array((n_cells, N_GENES), **options) for _ in range(2)]
    return mnn_correct(
        *(da.from_array(X, chunks=(500, -1), asarray=False) for X in batches),
        n_jobs=2,
        var_index=[str(i) for i in range(N_GENES)],
        var_subset=[str(i) for i in range(0, N_GENES, 10)],
        restrict=[np.arange(0, n_cells, n_cells // 300)] * 2,
    )[0]


@pytest.mark.filterwarnings("ignore:.*express none of the genes:UserWarning")
def test_no_dense_matrix_of_all_cells(tmp_path):
    with dask.config.set(scheduler="threads", num_workers=2):
        corrected(600)[:500].compute()  # what is loaded and compiled once is not counted
        with peak_below(0.2):
            result = corrected(N_CELLS)
        target = zarr.create_array(
            tmp_path / "out.zarr", shape=result.shape, chunks=(500, N_GENES), dtype="f4", compressors=None
        )
        with peak_below(0.5):
            da.store(result, target, lock=False)
