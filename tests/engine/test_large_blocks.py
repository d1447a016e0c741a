"""Passes that keep few cells read sparse stores in large blocks, or run by run; and find the same."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from helpers import KINDS, as_anndata, make_batches, no_compute, values
from scipy import sparse
from sketches import assert_same_rows, sketched

from mnndask.engine import project_cells as coordinates
from mnndask.engine.memory_budget import Budget
from mnndask.io.inputs import read_inputs
from mnndask.io.opened_inputs import InputOptions
from mnndask.stores.lazy_matrix import BYTES_PER_ROW, in_large_blocks, reblocked

SIZES = (503, 407)
N_BYTES = 15_000


@pytest.fixture(params=[".zarr", ".h5ad"])
def stores(request, tmp_path):
    """Paths of two batches, a seventh of whose values are stored, and these."""
    batches, paths = [], []
    for i, X in enumerate(make_batches(SIZES)):
        X = X * (np.random.default_rng(i).random(X.shape) < 1 / 7)
        adata, path = as_anndata(sparse.csr_matrix(X), f"b{i}"), tmp_path / f"{i}{request.param}"
        adata.write_zarr(path) if request.param == ".zarr" else adata.write_h5ad(path)
        batches.append(X)
        paths.append(path)
    return paths, batches


def opened(paths, n_bytes=2 * 6 * 40 * 40 * 8):
    """Inputs, by default in chunks of 40 cells."""
    return read_inputs(paths, options=InputOptions(), budget=Budget(n_bytes, 1))


def dense(X):
    return X.map_blocks(lambda block: block.toarray(), dtype=X.dtype, meta=np.empty((0, 0))).compute()


def test_small_blocks_are_joined_up_to_a_size_as_stored(stores):
    paths, batches = stores
    inputs = opened(paths)
    with no_compute():
        large = inputs.in_large_blocks(Budget(2 * 6 * N_BYTES, 1), n_drawn=100)
    for source, before, X in zip(large.sources, inputs.sources, batches, strict=True):
        assert source.X.numblocks[0] < 0.6 * before.X.numblocks[0]
        assert {*np.cumsum(source.X.chunks[0])} <= {*np.cumsum(before.X.chunks[0])}
        sizes, ends = source.X.chunks[0], np.cumsum(source.X.chunks[0])
        stored = np.diff([12 * np.count_nonzero(X[:end]) + BYTES_PER_ROW * end for end in ends], prepend=0)
        assert (stored <= N_BYTES).all()
        assert min(sizes[1:-1]) > 40
        np.testing.assert_array_equal(dense(source.X), X)


def test_only_what_a_store_holds_by_rows_is_read_otherwise(stores, tmp_path):
    X = opened(stores[0]).sources[0].X
    others = [X[:, :20], X * 2, X[3:]]
    for kind in ("lazy-zarr-dense", "path-zarr-csc", "dask-csr"):
        made = [KINDS[kind](batch, tmp_path, f"{kind}{i}") for i, batch in enumerate(stores[1])]
        others.append(opened(made, 2**30).sources[0].X)
    for other in others:
        assert in_large_blocks(other, 2**20, 1) is other
        assert reblocked(other, (other.shape[0],)) is other


def test_few_cells_of_many_blocks_are_read_as_before(stores):
    inputs = opened(stores[0])
    large = inputs.in_large_blocks(Budget(2**30, 1), n_drawn=12)
    assert [s.X.numblocks[0] for s in inputs.sources] == [13, 11]
    assert [s.X.numblocks[0] for s in large.sources] == [13, 4 + 1], "four for each worker, and what is left"


@pytest.mark.parametrize("method", ["mixed", "random"])
def test_the_same_cells_are_drawn_as_in_memory(stores, method, monkeypatch):
    paths, batches = stores
    monkeypatch.setattr(coordinates, "PILOT_CELLS", 40)
    options = {"size": 30, "sketch_method": method, "memory_limit": "1MB", "n_jobs": 2}
    one, other = sketched(*paths, **options), sketched(*batches, **options)
    assert_same_rows(one.sketch_, other.sketch_)
    results = one.transform(paths), other.transform(batches)
    np.testing.assert_allclose(values(results[0]), results[1], atol=1e-9)


def test_a_pilot_reads_its_runs_only(stores, monkeypatch):
    monkeypatch.setattr(coordinates, "PILOT_CELLS", 80)
    read = []
    original = coordinates.RowProjector.read_chunk

    def counting(self, block, start, rows):
        read.append((block.shape[0], self.onto is None))
        return original(self, block, start, rows)

    monkeypatch.setattr(coordinates.RowProjector, "read_chunk", counting)
    sketched(*stores[0], size=30)
    assert sum(n for n, pilot in read if pilot) == 160
    assert sum(n for n, pilot in read if not pilot) == sum(SIZES)


def test_batches_that_take_turns_in_a_store_have_their_pilots_read(tmp_path, monkeypatch):
    """Their cells are no runs."""
    monkeypatch.setattr(coordinates, "PILOT_CELLS", 60)
    X = np.vstack(make_batches((300, 300)))
    adata = ad.AnnData(sparse.csr_matrix(X))
    adata.obs["sample"] = ["x", "y"] * 300
    adata.write_zarr(tmp_path / "all.zarr")
    options = {"size": 30, "batch_key": "sample", "memory_limit": "1MB", "n_jobs": 2}
    assert_same_rows(sketched(tmp_path / "all.zarr", **options).sketch_, sketched(adata, **options).sketch_)
