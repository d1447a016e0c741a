"""Chunks of lazy input, whose sizes follow from the memory allowed."""

import ast
import re

import dask.array as da
import numpy as np
import pytest
import zarr
from helpers import as_anndata, make_batches, no_compute, values
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from mnndask import mnn_correct
from mnndask.engine.chunks import moderate
from mnndask.engine.memory_budget import Budget
from mnndask.errors import InputError
from mnndask.io.inputs import read_inputs
from mnndask.io.opened_inputs import InputOptions

BUDGET = Budget(600_000, 1)  # a chunk of 50,000 bytes: 62 cells of 100 genes in double precision


def matrix(rows, n=1000, n_genes=100, *, csr=False):
    X = da.from_array(np.random.default_rng(0).random((n, n_genes)), chunks=(rows, n_genes))
    return X.map_blocks(sparse.csr_matrix) if csr else X


def moderated(X, budget=BUDGET, itemsize=8):
    with no_compute():
        return moderate(X, "batch 0", budget, itemsize)


@pytest.mark.parametrize(("rows", "csr"), [(63, False), (150, False), (186, False), (200, True), (300, True)])
def test_large_chunks_are_split(rows, csr):
    X = matrix(rows, csr=csr)
    out = moderated(X)
    assert max(out.chunks[0]) <= 62
    assert min(out.chunks[0]) >= 20
    assert set(np.cumsum(X.chunks[0])) <= set(np.cumsum(out.chunks[0]))  # no chunk is read for two
    assert sparse.issparse(out._meta) == csr
    np.testing.assert_array_equal(dense(out), dense(X))


@pytest.mark.parametrize("csr", [False, True])
def test_many_tiny_chunks_are_joined(csr):
    X = matrix(3, csr=csr)
    out = moderated(X)
    assert out.numblocks[0] == 17
    assert max(out.chunks[0]) <= 62
    np.testing.assert_array_equal(dense(out), dense(X))


@pytest.mark.parametrize("rows", [62, 50, 5])
def test_chunks_of_moderate_size_or_number_stay_as_they_are(rows):
    X = matrix(rows)
    assert moderated(X) is X


def test_a_huge_sparse_chunk_is_split():
    assert max(moderated(matrix(1000, csr=True)).chunks[0]) <= 62


@given(
    rows=st.lists(st.integers(1, 120), min_size=1, max_size=12),
    limit=st.integers(100_000, 3_000_000),
    n_workers=st.integers(1, 4),
)
@settings(deadline=None, max_examples=40)
def test_any_chunks_fit_the_budget_or_are_refused(rows, limit, n_workers):
    budget = Budget(limit, n_workers)
    X = da.zeros((sum(rows), 50), chunks=(tuple(rows), 50), dtype=np.float32)
    try:
        out = moderated(X, budget, 8)
    except InputError:
        assert 2 * max(rows) * 50 * 4 > budget.per_worker or budget.chunk_bytes < 50 * 8
    else:
        assert max(out.chunks[0]) * 50 * 8 <= budget.chunk_bytes
        assert out.shape == X.shape


def dense(X):
    X = X.compute()
    return X.toarray() if sparse.issparse(X) else X


# ---------------------------------------------------------------- too little memory


@pytest.mark.parametrize("n_genes", [5000, 5208])  # of the latter, two decimals are less than it takes
def test_one_cell_that_does_not_fit_names_the_least_that_would_do(n_genes):
    wide = [da.random.random((40, n_genes), chunks=(1, n_genes)) for _ in range(2)]
    with pytest.raises(InputError, match="too small for one cell of batch 0") as refused:
        mnn_correct(*wide, k=3, memory_limit=100_000, n_jobs=2)
    least = re.search(r"Give at least ([\d.]+ \w+), or fewer threads", str(refused.value)).group(1)
    assert mnn_correct(*wide, k=3, memory_limit=least, n_jobs=2)[0].shape == (80, n_genes)


@pytest.fixture
def huge():
    """Batches in one chunk each, of 64,000 bytes."""
    return [da.from_array(X, chunks=-1) for X in make_batches((200, 200))]


def test_a_dense_chunk_that_does_not_fit_names_the_call_that_mends_it(huge):
    with pytest.raises(InputError, match="too small for a chunk of batch 0: 200 cells x 40 genes") as refused:
        mnn_correct(*huge, k=5, memory_limit=125_000, n_jobs=1)
    call = re.search(r"X = X\.rechunk\((.*)\); or give", str(refused.value)).group(1)
    mended = [X.rechunk(ast.literal_eval(call)) for X in huge]
    assert mnn_correct(*mended, k=5, memory_limit=125_000, n_jobs=1)[0].shape == (400, 40)


def test_a_dense_chunk_that_does_not_fit_names_the_least_that_would_do(huge):
    with pytest.raises(InputError, match="too small for a chunk") as refused:
        mnn_correct(*huge, k=5, memory_limit=100_000, n_jobs=1)
    least = re.search(r"give at least (.*)\.$", str(refused.value)).group(1)
    assert mnn_correct(*huge, k=5, memory_limit=least, n_jobs=1)[0].shape == (400, 40)


def test_columns_that_have_to_become_rows_at_once_do_not_fit(tmp_path):
    """Of a CSC matrix of up to 1,000 genes, all are one chunk."""
    paths = []
    for i, X in enumerate(make_batches((4000, 60))):
        as_anndata(sparse.csc_matrix(X), f"b{i}").write_zarr(tmp_path / f"{i}.zarr")
        paths.append(tmp_path / f"{i}.zarr")
    with pytest.raises(
        InputError, match=r"chunk of batch 0 \(.*: 4,000 cells x 40 genes(?s:.*)by rows \(CSR"
    ):
        mnn_correct(*paths, k=5, memory_limit=500_000, n_jobs=1)


def test_the_batch_with_the_chunk_is_named(huge):
    with pytest.raises(InputError, match="a chunk of batch 1"):
        mnn_correct(huge[0].rechunk((10, -1)), huge[1], k=5, memory_limit=100_000, n_jobs=1)


def test_chunks_of_genes_count_with_all_their_genes(huge):
    by_genes = [X.rechunk((-1, 4)) for X in huge]
    with pytest.raises(InputError, match="too small for a chunk of batch 0: 200 cells x 40 genes"):
        mnn_correct(*by_genes, k=5, memory_limit=100_000, n_jobs=1)


@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_stores_are_read_in_chunks_that_fit(tmp_path, layout):
    paths = []
    for i, X in enumerate(make_batches((200, 200))):
        stored = sparse.csr_matrix(X) if layout == "csr" else zarr.array(X, chunks=(20, 40))[:]
        paths.append(tmp_path / f"{i}.zarr")
        as_anndata(stored, f"b{i}").write_zarr(paths[-1])
    budget = Budget.of(300_000, 1)
    sources = read_inputs(paths, options=InputOptions(), budget=budget).sources
    assert all(max(s.X.chunks[0]) * 40 * 8 <= budget.chunk_bytes for s in sources)


# ---------------------------------------------------------------- the result does not depend on them


@pytest.mark.parametrize("csr", [False, True])
@pytest.mark.parametrize("chunks", [(1, 40), (70, 40), (13, 3), (70, 1)])
def test_results_are_equal_whatever_the_chunks(chunks, csr):
    lazy = [da.from_array(X, chunks=chunks) for X in make_batches()]
    if csr:
        lazy = [X.map_blocks(sparse.csr_matrix) for X in lazy]
    found = mnn_correct(*lazy, k=5, memory_limit=1_000_000, n_jobs=1)[0]
    np.testing.assert_allclose(values(found), mnn_correct(*make_batches(), k=5)[0], rtol=0, atol=1e-10)


def test_blocks_of_sparse_batches_are_cut_where_the_outputs_are(tmp_path):
    """So that a written chunk is a block, but where one batch ends and the next begins."""
    sizes, paths = (103, 7, 250, 90), []
    for i, X in enumerate(make_batches(sizes)):
        as_anndata(sparse.csr_matrix(X), f"b{i}").write_zarr(tmp_path / f"{i}.zarr")
        paths.append(tmp_path / f"{i}.zarr")
    budget = Budget(2 * 6 * 40 * 40 * 8, 1)  # chunks of 40 cells
    sources = read_inputs(paths, options=InputOptions(), budget=budget).sources
    cuts = np.cumsum([n for source in sources for n in source.X.chunks[0]])
    assert {*range(40, 450, 40), *np.cumsum(sizes)} == set(cuts.tolist())
    for source, X in zip(sources, make_batches(sizes), strict=True):
        np.testing.assert_array_equal(dense(source.X), X)
