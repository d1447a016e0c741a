"""The command on a cluster of two workers of one thread, against two threads; and a worker that is killed.

``python -m benchmarks.cluster --json cluster.json``. The scheduler and the workers are processes of this
machine. Rounds are interleaved, and ratios are taken within a round. ``on_the_wire_mb`` is all traffic over
the loopback interface during a run: graphs to the scheduler, tasks and their inputs to workers, heartbeats.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import zarr
from distributed import Client

from benchmarks.data import stored
from benchmarks.memory import HERE, MNNDASK
from benchmarks.report import benchmark
from mnndask.stores.missing_chunks import missing_chunks
from tests.clusters import cluster, kill, worker_pids

FULL = {
    "n_cells": 200_000,
    "n_genes": 2000,
    "n_batches": 4,
    "memory_limit": "2GB",
    "rounds": 3,
    "data": None,
    "scratch": None,
}
TOY = {"n_cells": 600, "n_genes": 50, "memory_limit": "1MB", "rounds": 1}


def sent_bytes() -> int:
    """Bytes sent over the loopback interface since the machine started."""
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def started(words: Sequence[Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *MNNDASK, "correct", *map(str, words)], cwd=HERE)


def timed(words: Sequence[Any]) -> dict[str, float]:
    start, before = time.perf_counter(), sent_bytes()
    if started(words).wait():
        sys.exit("the command failed")
    sent = sent_bytes() - before
    return {"wall_s": time.perf_counter() - start, "sent_mb": sent / 1e6}


def n_chunks(output: Path) -> int:
    return int(missing_chunks(zarr.open_group(output, mode="r")["X"]).size)


def recovery(words: Sequence[Any], output: Path, client: Client) -> dict[str, float]:
    """Time a run in which a worker is killed once a chunk is written."""
    pids = worker_pids(client)
    start = time.perf_counter()
    process = started(words)
    while not list(output.with_name(output.name + ".partial").glob("X/c/*")):
        time.sleep(0.01)
    kill(list(pids)[:1])
    killed = time.perf_counter()
    while not _others(client, pids):
        time.sleep(0.05)
    back = time.perf_counter() - killed
    if process.wait():
        sys.exit("the command failed")
    return {"wall_s": time.perf_counter() - start, "until_a_new_worker_s": round(back, 2)}


def _others(client: Client, pids: set[int]) -> set[int]:
    """Current worker processes other than these."""
    try:
        return worker_pids(client) - pids
    except OSError:  # one has just ended
        return set()


def run(given: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = Path(scratch)
        paths = stored(given.data or folder / "data", given.n_cells, given.n_genes, given.n_batches)
        output = folder / "corrected.zarr"
        words = [*paths, "--memory-limit", given.memory_limit, "--scratch", scratch, "-o", output]
        memory = ("--memory-limit", "4GB")
        with cluster(folder / "cluster", 2, worker=memory) as running, Client(running.address) as client:
            client.wait_for_workers(2)
            on_cluster = [*words, "--scheduler", running.address]
            rounds = []
            for _ in range(given.rounds):
                local = timed([*words, "--n-jobs", 2])
                shutil.rmtree(output)
                rounds.append((local, timed(on_cluster)))
                chunks = n_chunks(output)
                shutil.rmtree(output)
            disturbed = recovery(on_cluster, output, client)
    threads, workers = (median(r[side]["wall_s"] for r in rounds) for side in (0, 1))
    later = median(b["wall_s"] - a["wall_s"] for a, b in rounds)
    return {
        "two_threads_s": round(threads, 2),
        "two_workers_s": round(workers, 2),
        "workers_over_threads": round(median(b["wall_s"] / a["wall_s"] for a, b in rounds), 3),
        "n_chunks": chunks,
        "overhead_per_chunk_ms": round(1e3 * later / chunks, 1),
        "on_the_wire_mb": round(median(b["sent_mb"] for _, b in rounds), 1),
        "killed_worker": disturbed
        | {"wall_s": round(disturbed["wall_s"], 2), "lost_s": round(disturbed["wall_s"] - workers, 2)},
    }


def main(given: Sequence[str] | None = None) -> None:
    benchmark("cluster", __doc__, run, FULL, TOY, given)


if __name__ == "__main__":
    main()
