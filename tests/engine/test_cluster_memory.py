"""On a cluster, chunks are as large as its workers' memory allows, of which the scheduler is asked seldom."""

from __future__ import annotations

from contextlib import contextmanager

import dask
import dask.array as da
import pytest
from distributed import Client, LocalCluster
from helpers import make_batches

from mnndask import mnn_correct
from mnndask.engine.memory_budget import COPIES_OF_CHUNK, Budget

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]

BATCHES = make_batches((1000, 900))
ROW = 40 * 8


@contextmanager
def workers(memory, threads=1):
    """Two of little memory, in this process, which do not mind that they have more than that already."""
    heedless = {f"distributed.worker.memory.{at}": False for at in ("target", "spill", "pause", "terminate")}
    options = {"n_workers": 2, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with (
        dask.config.set(heedless),
        LocalCluster(threads_per_worker=threads, memory_limit=memory, **options) as cluster,
        Client(cluster) as client,
    ):
        yield client


def largest_chunk(**options):
    lazy = [da.from_array(X, chunks=(400, -1)) for X in BATCHES]
    return max(mnn_correct(*lazy, k=5, sketch_size=100, **options)[0].chunks[0])


@pytest.mark.parametrize(
    ("memory", "threads", "asked", "limit", "rows"),
    [
        (2_000_000, 1, None, 1_200_000, 200),  # chunks of 400 cells in two, as 312 are allowed
        (2_000_000, 2, None, 1_200_000, 134),
        (1_000_000, 1, None, 600_000, 134),
        (2_000_000, 1, "1GB", 1_200_000, 200),
        (2_000_000, 1, "600kB", 600_000, 134),
        (200_000_000, 1, None, 120_000_000, 400),
    ],
)
def test_chunks_follow_the_memory_of_workers(memory, threads, asked, limit, rows):
    """Workers give 60 % at most; half of that is for chunks, a sixth of it for each thread's."""
    with workers(memory, threads):
        assert Budget.of(asked, n_jobs=7) == Budget(limit, threads)
        assert largest_chunk(memory_limit=asked, n_jobs=7) == rows
    assert rows * ROW <= limit / 2 / threads / COPIES_OF_CHUNK


def test_a_call_asks_the_scheduler_of_its_workers_once(monkeypatch):
    """However many batches there are, and whatever is asked for."""
    asked = []
    info = Client.scheduler_info

    def counted(self, *args, **options):
        asked.append(options)
        return info(self, *args, **options)

    with workers(200_000_000):
        monkeypatch.setattr(Client, "scheduler_info", counted)
        lazy = [da.from_array(X, chunks=(100, -1)) for X in make_batches((300,) * 4)]
        mnn_correct(*lazy, k=5, sketch_size=100, svd_dim=2, compute_angle=True)[0].compute()
    assert len(asked) == 1
