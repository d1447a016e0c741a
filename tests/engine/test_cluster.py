"""Clusters of real processes: the same result as here, whatever happens to the workers."""

from __future__ import annotations

import os
import time
from collections import Counter

import anndata as ad
import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from cluster_fixtures import BATCHES, run
from clusters import kill, worker_pids
from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.scheduler import key_split_group
from helpers import as_anndata
from scipy import sparse

from mnndask import mnn_correct
from mnndask.engine.support import reading_all_cells
from mnndask.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.usefixtures("short_record")]

OPTIONS = {"k": 5, "sketch_size": 100}


def lazily(rows=37):
    return [da.from_array(X, chunks=(rows, -1)) for X in BATCHES]


def slowly(folder, rows=37):
    """Batches whose chunks take a while once the fit is done, and note which process they are read in."""

    def read(block):
        if (folder / "slow").exists():
            (folder / f"read-by-{os.getpid()}").touch()
            time.sleep(0.2)
        return block

    return [X.map_blocks(read, dtype=X.dtype, meta=np.empty((0, 0))) for X in lazily(rows)]


@pytest.fixture(scope="module")
def expected():
    return mnn_correct(*BATCHES, **OPTIONS)[0]


def done(client):
    """How many tasks of each stage a scheduler has seen done."""

    def count(dask_scheduler):
        return {name: prefix.state_counts["memory"] for name, prefix in dask_scheduler.task_prefixes.items()}

    return Counter(client.run_on_scheduler(count))


# ---------------------------------------------------------------- the same result


@pytest.mark.lowest
def test_an_active_client_is_used_for_the_fit_and_the_result(client, expected):
    before = done(client)
    result = mnn_correct(*lazily(), **OPTIONS)[0]
    assert (done(client) - before)["mnn-sketch"] > 0
    np.testing.assert_allclose(result.compute(), expected, atol=1e-10)


def test_workers_find_the_support_of_cells_outside_the_fit(client):
    options = {"k": 5, "sketch_size": 60, "refine": True, "diagnostics": False}
    expected = mnn_correct(*map(as_anndata, BATCHES), **options)[0].obs["mnn_support"]
    before = done(client)
    with reading_all_cells():
        result = mnn_correct(*map(as_anndata, lazily()), **options)[0]
    assert (done(client) - before)["mnn-support"] == 17  # chunks of the batches that move
    np.testing.assert_array_equal(result.obs["mnn_support"], expected)


@pytest.mark.parametrize("refine", [False, True])
def test_a_fit_on_disk_is_spread_over_the_workers(client, refine):
    options = {"k": 5, "sketch_size": 60, "svd_dim": 2, "compute_angle": True, "memory_limit": 250_000}
    options["refine"] = refine
    batches = [X[:80] for X in BATCHES]
    expected = mnn_correct(*batches, **options | {"memory_limit": None})
    before = done(client)
    result = mnn_correct(*(da.from_array(X, chunks=(30, -1)) for X in batches), **options)
    stages = {"mnn-cosine", "mnn-neighbours", "mnn-variance-partial", "mnn-variance-bracket"}
    assert stages <= set(done(client) - before)
    assert ({"mnn-refine", "mnn-shrink"} <= set(done(client) - before)) == refine
    np.testing.assert_allclose(result[0].compute(), expected[0], atol=1e-10)
    for ours, theirs in zip(result[2][1:], expected[2][1:], strict=True):
        np.testing.assert_allclose(ours.compute(), theirs, atol=1e-6)


@pytest.mark.parametrize("genes", ["all", "none"])
def test_embeddings_are_written_from_a_cluster(client, two_workers, tmp_path, genes):
    for i, X in enumerate(BATCHES):
        as_anndata(X, str(i)).write_zarr(tmp_path / f"{i}.zarr")
    options = OPTIONS | {"n_components": 5, "cos_norm_out": False, "genes": genes}
    expected = mnn_correct(*(tmp_path / f"{i}.zarr" for i in range(3)), **options)[0]
    before = done(client)
    words = ["-k5", "--sketch-size=100", "--n-components=5", "--no-cos-norm-out", f"--genes={genes}", "-q"]
    words += [f"--scheduler={two_workers.address}", "-o", str(tmp_path / "out.zarr")]
    assert run([*(str(tmp_path / f"{i}.zarr") for i in range(3)), *words]) == 0
    assert (done(client) - before)["mnn-embedding"] >= 3
    found = ad.read_zarr(tmp_path / "out.zarr")
    np.testing.assert_allclose(found.obsm["X_mnn"], expected.obsm["X_mnn"].compute(), atol=1e-10)
    if genes == "all":
        np.testing.assert_allclose(found.X, expected.X.compute(), atol=1e-10)


def test_threads_of_this_process_serve_as_workers(expected):
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
    ) as local:
        assert "127.0.0.1" in local.scheduler_address or local.scheduler_address.startswith("inproc")
        with Client(local):
            result = mnn_correct(*lazily(), **OPTIONS)[0]
            np.testing.assert_allclose(result.compute(), expected, atol=1e-10)


def test_a_result_outlives_its_client(two_workers, expected):
    with Client(two_workers.address) as made:
        made.wait_for_workers(2, timeout=60)
        result = mnn_correct(*lazily(), **OPTIONS)[0]
        half = result[:400].compute()
    np.testing.assert_allclose(half, expected[:400], atol=1e-10)
    np.testing.assert_allclose(result.compute(scheduler="threads"), expected, atol=1e-10)


# ---------------------------------------------------------------- what is sent


def test_the_graph_of_a_million_cells_is_small(tmp_path):
    """The model is not sent with tasks, nor is anything that has a value for each cell."""
    n_cells, n_genes = 500_000, 2000
    genes = np.random.default_rng(0).integers(n_genes, size=n_cells)
    X = sparse.csr_matrix((np.ones(n_cells, np.float32), genes, np.arange(n_cells + 1)), (n_cells, n_genes))
    ad.AnnData(X).write_zarr(tmp_path / "a.zarr")
    X = mnn_correct(
        *[tmp_path / "a.zarr"] * 2, k=5, restrict=[np.arange(400)] * 2, memory_limit="2GB", n_jobs=2
    )[0].X
    graph = dict(X.__dask_graph__())
    n_chunks = X.numblocks[0]
    assert n_chunks > 200
    assert len(graph) <= 4 * n_chunks
    assert len(cloudpickle.dumps(graph)) < 2e6
    assert max(len(cloudpickle.dumps(task)) for task in graph.values()) < 20_000


def test_each_worker_loads_the_model_once(client):
    result = mnn_correct(*lazily(10), **OPTIONS)[0]

    def forget():
        import mnndask.engine.shared_model

        mnndask.engine.shared_model._loaded.clear()
        original = mnndask.engine.shared_model.read_tree
        mnndask.engine.shared_model.n_reads = 0

        def read(path, kinds):
            mnndask.engine.shared_model.n_reads += 1
            return original(path, kinds)

        mnndask.engine.shared_model.read_tree = read

    def count():
        import mnndask.engine.shared_model

        return mnndask.engine.shared_model.n_reads

    client.run(forget)
    result.compute()
    assert list(client.run(count).values()) == [1, 1]


def test_few_tasks_for_each_chunk_and_stages_that_tell_the_batch(two_workers, client, tmp_path, monkeypatch):
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", 100 * 40 * 8)  # 100 cells
    for name, X in zip("ab", BATCHES, strict=False):
        as_anndata(sparse.csr_matrix(X), name).write_zarr(tmp_path / f"{name}.zarr")
    inputs = [str(tmp_path / f"{name}.zarr") for name in "ab"]
    words = ["-k", "5", "--sketch-size", "100", "-o", str(tmp_path / "out.zarr")]
    client.register_plugin(Groups(), name="groups")
    before = done(client)
    assert run([*inputs, *words, "--scheduler", two_workers.address]) == 0
    n_chunks = len(list((tmp_path / "out.zarr" / "X" / "c").iterdir()))
    made = done(client) - before
    assert n_chunks > 5
    assert made["mnn-write"] == n_chunks
    assert made["mnn-write-layer"] == n_chunks
    of_sketch = made["mnn-sketch"] + made["mnn-gather"]
    assert made.total() - of_sketch - made["mnn-write-layer"] < 10 * n_chunks
    seen = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.plugins["groups"].seen)
    assert {"mnn-correct-batch0", "mnn-correct-batch1"} <= {name.rsplit("-", 1)[0] for name in seen}


class Groups(SchedulerPlugin):
    """Names of the groups of tasks that there were."""

    def __init__(self):
        self.seen = set()

    async def start(self, scheduler):
        self.scheduler = scheduler

    def transition(self, key, start, finish, *args, **kwargs):
        self.seen.add(key_split_group(key))


# ---------------------------------------------------------------- workers that die


def test_a_killed_worker_does_not_change_the_result(client, tmp_path, expected):
    result = mnn_correct(*slowly(tmp_path), **OPTIONS)[0]
    before = worker_pids(client)
    assert len(before) == 2
    (tmp_path / "slow").touch()
    future = client.compute(result)
    while len({path.name for path in tmp_path.glob("read-by-*")}) < 2:
        time.sleep(0.01)
    kill(list(before)[:1])
    (tmp_path / "slow").unlink()
    np.testing.assert_allclose(future.result(timeout=120), expected, atol=1e-10)
    client.wait_for_workers(2, timeout=60)
    assert len(before - worker_pids(client)) == 1


def test_a_result_that_is_kept_by_workers_is_made_again_when_they_die(client, tmp_path, expected):
    """All of them, and the object that it came from is gone."""
    kept = client.persist(mnn_correct(*lazily(), **OPTIONS)[0])
    before = worker_pids(client)
    kill(before)
    np.testing.assert_allclose(kept.compute(), expected, atol=1e-10)
    assert not before & worker_pids(client)


def test_a_worker_of_little_memory_spills(expected):
    little = {"target": 0.0005, "spill": False, "pause": False, "terminate": False}
    options = {"n_workers": 1, "memory_limit": "1GB", "processes": False, "dashboard_address": None}
    with (
        dask.config.set({f"distributed.worker.memory.{name}": value for name, value in little.items()}),
        LocalCluster(**options) as local,
        Client(local) as client,
    ):
        kept = client.persist(mnn_correct(*lazily(), **OPTIONS)[0])
        result = kept.compute()
        spilled = client.run(lambda dask_worker: dask_worker.data.spilled_total.disk)
    assert sum(spilled.values()) > 0
    np.testing.assert_allclose(result, expected, atol=1e-10)


# ---------------------------------------------------------------- what goes wrong


def test_a_cluster_without_workers_is_waited_for(expected, caplog):
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as local, Client(local):
        local.adapt(minimum=0, maximum=1, interval="100ms")
        result = mnn_correct(*lazily(), **OPTIONS)[0]
        np.testing.assert_allclose(result.compute(), expected, atol=1e-10)
    assert "has no workers yet" in caplog.text


def test_errors_of_inputs_come_back_from_workers(client, tmp_path):
    spoiled = [X.copy() for X in BATCHES]
    spoiled[1][200, 3] = np.nan
    lazy = [da.from_array(X, chunks=(37, -1)) for X in spoiled]
    with pytest.raises(InputError, match="batch '1' contains NaN or infinity in row 200"):
        mnn_correct(*lazy, k=5, restrict=[np.arange(100)] * 3)[0].compute()
