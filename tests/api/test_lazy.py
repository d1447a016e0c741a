"""Lazy data: what is read when, how often, and what stays lazy."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from dask.callbacks import Callback
from helpers import GENES, as_anndata, counted, make_batches, no_compute, values
from scipy import sparse as sp

from mnndask import MNNCorrector, mnn_correct

CHUNKS = ((20, 13, 27), (35, 35), (50,))
N_CHUNKS = sum(map(len, CHUNKS))


def lazy_batches(width=40):
    """Three lazy batches, in chunks of `width` genes, and a counter of reads of each."""
    pairs = [counted(X, (rows, width)) for X, rows in zip(make_batches(), CHUNKS, strict=True)]
    return [X for X, _ in pairs], [reads for _, reads in pairs]


def expect(reads, times, chunks=None):
    """Every chunk (or those of `chunks`, and no other) was read so often."""
    for b, counter in enumerate(reads):
        wanted = range(len(CHUNKS[b])) if chunks is None else chunks[b]
        assert counter == Counter({(c, 0): times for c in wanted}), f"batch {b}"


@contextmanager
def tasks_run():
    """List the keys of all tasks that dask runs inside."""
    keys = []
    with Callback(pretask=lambda key, *_: keys.append(key)):
        yield keys


def interleaved(X, chunks=20):
    """One lazy AnnData whose batches take turns, and a counter of reads."""
    lazy, reads = counted(np.vstack(X), (chunks, 40))
    n = lazy.shape[0]
    adata = as_anndata(lazy)
    adata.obs["sample"] = np.random.default_rng(0).permutation(np.repeat(["x", "y", "z"], [60, 70, 50]))
    del adata.layers["twice"]
    assert len(adata.obs) == n
    return adata, reads


# ---------------------------------------------------------------- reads of chunks


def test_fit_reads_each_chunk_once():
    datas, reads = lazy_batches()
    mnn_correct(*datas, k=5)
    expect(reads, 1)


def test_column_chunks_are_read_once_each():
    datas, reads = lazy_batches(width=11)
    result = mnn_correct(*datas, k=5)[0]
    assert all(set(counter.values()) == {1} for counter in reads)
    assert [len(counter) for counter in reads] == [len(rows) * 4 for rows in CHUNKS]
    result.compute()
    assert all(set(counter.values()) == {2} for counter in reads)


@pytest.mark.parametrize("options", [{}, {"var_subset": GENES[:9], "var_index": GENES, "svd_dim": 2}])
def test_compute_reads_each_chunk_once_more(options):
    datas, reads = lazy_batches()
    result = mnn_correct(*datas, k=5, **options)[0]
    result.compute()
    expect(reads, 2)


def test_restrict_reads_only_chunks_that_hold_its_cells():
    datas, reads = lazy_batches()
    mnn_correct(*datas, k=5, restrict=[[1, 2, 19, 33, 59], np.arange(30), np.arange(9)])
    expect(reads, 1, [[0, 2], [0], [0]])


def test_boolean_restrict_reads_no_more_than_row_numbers():
    datas, reads = lazy_batches()
    mask = np.arange(60) >= 33
    mnn_correct(*datas, k=5, restrict=[mask, np.arange(35, 70), None])
    expect(reads, 1, [[2], [1], [0]])


def test_first_rows_read_only_their_chunk():
    datas, reads = lazy_batches()
    result = mnn_correct(*datas, k=5)[0]
    for counter in reads:
        counter.clear()
    part = result[:5].compute()
    expect(reads, 1, [[0], [], []])
    np.testing.assert_array_equal(part, result.compute()[:5])


def test_split_of_one_anndata_reads_each_chunk_once():
    adata, reads = interleaved(make_batches())
    result = mnn_correct(adata, batch_key="sample", k=5)[0]
    assert reads == Counter({(c, 0): 1 for c in range(9)})
    result.X.compute()
    assert reads == Counter({(c, 0): 2 for c in range(9)})


def test_split_with_restrict_reads_only_what_it_needs():
    adata, reads = interleaved(make_batches())
    first = [
        np.flatnonzero(np.flatnonzero(adata.obs["sample"] == b) < 60) for b in adata.obs["sample"].unique()
    ]
    mnn_correct(adata, batch_key="sample", k=5, restrict=first)
    assert reads == Counter({(c, 0): 1 for c in range(3)})


def test_angles_of_cells_that_the_fit_read_are_not_read_again():
    datas, reads = lazy_batches()
    _, _, angles = mnn_correct(*datas, k=5, compute_angle=True)
    dask.compute(*angles)
    expect(reads, 1)


def test_angles_of_restricted_batches_are_read_with_the_values():
    datas, reads = lazy_batches()
    result, _, angles = mnn_correct(*datas, k=5, compute_angle=True, restrict=[None, range(9), None])
    before = [sum(counter.values()) for counter in reads]
    dask.compute(result, *angles)
    after = [sum(counter.values()) for counter in reads]
    assert [b - a for a, b in zip(before, after, strict=True)] == [len(c) for c in reads]


def test_list_out_reads_what_one_result_does():
    datas, reads = lazy_batches()
    parts = mnn_correct(*datas, k=5, do_concatenate=False)[0]
    expect(reads, 1)
    parts[1].compute()
    assert [set(counter.values()) for counter in reads] == [{1}, {2}, {1}]


def test_save_raw_reads_nothing_more():
    pairs = [counted(X, (rows, 40)) for X, rows in zip(make_batches(), CHUNKS, strict=True)]
    datas, reads = [as_anndata(X, f"b{i}") for i, (X, _) in enumerate(pairs)], [r for _, r in pairs]
    result = mnn_correct(*datas, k=5, save_raw=True)[0]
    expect(reads, 1)
    dask.compute(result.X, result.raw.X)
    expect(reads, 2)


# ---------------------------------------------------------------- what stays lazy


def test_transform_computes_nothing():
    datas, reads = lazy_batches()
    corrector = MNNCorrector(k=5).fit(datas)
    expect(reads, 1)
    with no_compute():
        result = corrector.transform(datas)
    expect(reads, 1)
    assert result.shape == (180, 40)


def test_transform_of_a_split_anndata_computes_nothing():
    adata, reads = interleaved(make_batches())
    corrector = MNNCorrector(k=5, batch_key="sample").fit([adata])
    reads.clear()
    with no_compute():
        result = corrector.transform([adata])
    assert not reads
    assert isinstance(result.X, da.Array)


def refusing(X):
    """A lazy array that fails when it is computed."""

    def refuse(block):
        msg = "computed"
        raise AssertionError(msg)

    return da.from_array(X, chunks=(17, -1)).map_blocks(refuse, dtype=X.dtype, meta=np.empty((0, 0)))


@pytest.mark.parametrize("options", [{}, {"do_concatenate": False}, {"save_raw": True}])
def test_layers_and_obsm_stay_lazy(options):
    datas = [as_anndata(da.from_array(X, chunks=(17, 40)), f"b{i}") for i, X in enumerate(make_batches())]
    for data in datas:
        data.layers["twice"] = refusing(np.ones(data.shape))
        data.obsm["X_scVI"] = refusing(np.ones((data.n_obs, 2)))
    result = mnn_correct(*datas, k=5, **options)[0]
    for part in result if isinstance(result, list) else [result]:
        assert isinstance(part.layers["twice"], da.Array)
        assert isinstance(part.obsm["X_scVI"], da.Array)
        assert part.layers["twice"].shape == part.shape


def test_layers_of_a_split_anndata_stay_lazy():
    adata, _ = interleaved(make_batches())
    adata.layers["twice"] = refusing(np.ones(adata.shape))
    for concatenate in (True, False):
        result = mnn_correct(adata, batch_key="sample", k=5, do_concatenate=concatenate)[0]
        for part in [result] if concatenate else result:
            assert isinstance(part.layers["twice"], da.Array)


def test_read_lazy_input_stays_lazy(tmp_path):
    for i, X in enumerate(make_batches()):
        as_anndata(sp.csr_matrix(X), f"b{i}").write_zarr(tmp_path / f"{i}.zarr")
    datas = [ad.experimental.read_lazy(tmp_path / f"{i}.zarr") for i in range(3)]
    result = mnn_correct(*datas, k=5)[0]
    assert isinstance(result.X, da.Array)
    assert isinstance(result.layers["twice"], da.Array)
    assert isinstance(result.obsm["X_scVI"], da.Array)
    assert isinstance(result.obs, pd.DataFrame)
    assert isinstance(result.var, pd.DataFrame)
    twice = result.layers["twice"].compute()
    np.testing.assert_array_equal(twice.toarray(), 2 * np.vstack(make_batches()))


# ---------------------------------------------------------------- the graph


def test_graph_is_named_and_small():
    datas, _ = lazy_batches()
    result, _, angles = mnn_correct(*datas, k=5, compute_angle=True, restrict=[None, range(9), None])
    for layers, name in ((result.dask.layers, "mnn-correct-"), (angles[1].dask.layers, "mnn-angle-")):
        assert any(layer.startswith(name) for layer in layers)
    assert len(result.dask) <= 6 * N_CHUNKS
    with tasks_run() as keys:
        result.compute(optimize_graph=False)
    assert sum(str(key[0]).startswith("mnn-correct-") for key in keys if isinstance(key, tuple)) == N_CHUNKS


def test_result_keeps_the_chunks_of_cells():
    datas, _ = lazy_batches()
    assert mnn_correct(*datas, k=5)[0].chunks == ((*CHUNKS[0], *CHUNKS[1], *CHUNKS[2]), (40,))


def test_schedulers_agree_and_results_repeat():
    datas, _ = lazy_batches()
    result = mnn_correct(*datas, k=5)[0]
    runs = [result.compute(scheduler=s) for s in ("threads", "synchronous", "threads")]
    for run in runs[1:]:
        np.testing.assert_array_equal(run, runs[0])
    np.testing.assert_array_equal(result.persist().compute(), runs[0])


@pytest.mark.parametrize("sparse", [False, True])
def test_chunking_does_not_matter(sparse):
    X = make_batches()
    expected = mnn_correct(*X, k=5, svd_dim=2)[0]
    for rows in (1, 7, 64):
        datas = [da.from_array(x, chunks=(rows, -1)) for x in X]
        datas = [d.map_blocks(sp.csr_array) for d in datas] if sparse else datas
        np.testing.assert_allclose(
            values(mnn_correct(*datas, k=5, svd_dim=2)[0]), expected, rtol=0, atol=1e-10
        )


def test_two_corrections_of_the_same_data_do_not_mix():
    """Names of tasks differ, so that one compute gives both."""
    datas, _ = lazy_batches()
    one, other = (mnn_correct(*datas, k=k)[0] for k in (3, 15))
    together = dask.compute(one, other)
    np.testing.assert_array_equal(together[0], one.compute())
    np.testing.assert_array_equal(together[1], other.compute())
    assert not np.array_equal(*together)
