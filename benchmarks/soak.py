"""Memory of scheduler, workers and client after each of many small corrections on one cluster.

``python -m benchmarks.soak --json soak.json``. Growth is the median of the last third of the runs minus that
of the third before. So memory loaded and cached in the first runs does not count as growth.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import dask.array as da
import psutil
from distributed import Client

from benchmarks.data import EFFECT
from benchmarks.report import benchmark
from mnndask import mnn_correct
from mnndask.datasets.simulated import simulate
from tests.clusters import cluster, worker_pids

FULL = {"runs": 30, "sizes": [3000, 3000], "n_genes": 500, "sketch_size": 500}
TOY = {"runs": 3, "sizes": [120, 100], "n_genes": 30, "sketch_size": 60}


def run(given: Any) -> dict[str, Any]:
    batches = [
        b.X.toarray() for b in simulate(given.sizes, given.n_genes, len(given.sizes), batch_effect=EFFECT)
    ]
    lazy = [da.from_array(X, chunks=(-(-len(X) // 6), -1)) for X in batches]
    memory: dict[str, list[float]] = {name: [] for name in ("scheduler", "workers", "client")}
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster(Path(folder) / "cluster", 2) as running,
        Client(running.address) as client,
    ):
        client.wait_for_workers(2)
        pids = {running.scheduler.pid}, worker_pids(client), {psutil.Process().pid}
        for _ in range(given.runs):
            mnn_correct(*lazy, sketch_size=given.sketch_size, k=5)[0].compute()
            gc.collect()
            for name, of in zip(memory, pids, strict=True):
                memory[name].append(sum(psutil.Process(pid).memory_info().rss for pid in of) / 1e6)
    third = max(1, given.runs // 3)
    return {
        name: {
            "after_first_mb": round(of[0], 1),
            "after_last_mb": round(of[-1], 1),
            "growth_mb_per_run": round((median(of[-third:]) - median(of[-2 * third : -third])) / third, 3),
        }
        for name, of in memory.items()
    }


def main(given: Sequence[str] | None = None) -> None:
    benchmark("soak", __doc__, run, FULL, TOY, given)


if __name__ == "__main__":
    main()
