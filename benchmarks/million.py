"""The command on data of growing size: time, memory of its process tree, and a plain pass over the same data.

``python -m benchmarks.million --n-cells 100000 1000000 --json million.json``. With ``--data DIR``, the data
is simulated in (or found in) ``DIR/<cells>`` and kept. Outputs, as large as the dense matrix, go to a folder
in ``--scratch`` (default: the system's folder for temporary files) and are removed. The command is run with
its defaults, and with 50 components. Both are compared with their minimum cost: the matrix products that
:mod:`benchmarks.limit` counts, at the rate of a plain product measured here, and the plain pass. The plain
pass is run before and after the second command; its time is the mean of the two.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import zarr

from benchmarks.data import stored
from benchmarks.limit import flops
from benchmarks.memory import MNNDASK, measured
from benchmarks.report import benchmark, seconds

FULL = {
    "n_cells": [1_000_000],
    "n_genes": 2000,
    "n_batches": 4,
    "memory_limit": "2GB",
    "sketch_size": "auto",
    "n_components": 50,
    "data": None,
    "scratch": None,
}
TOY = {"n_cells": [200], "n_genes": 50, "sketch_size": "20", "n_components": 10}


def one_size(n_cells: int, folder: Path, scratch: Path, given: Any) -> dict[str, Any]:
    paths = stored(folder, n_cells, given.n_genes, given.n_batches)
    corrected, low, plain = (scratch / f"{name}.zarr" for name in ("corrected", "low", "plain"))
    limit = ["--memory-limit", given.memory_limit, "--sketch-size", given.sketch_size]
    figures: dict[str, Any] = {"n_cells": n_cells}
    correct = measured([*MNNDASK, "correct", *paths, *limit, "-o", corrected])
    n_flops, rate = necessary(corrected, given.n_genes), gemm_rate(given.n_genes)
    passing = ["-m", "benchmarks.plain_pass", *paths, "-o", plain, "--like", corrected]
    before = measured(passing)
    components = ["--n-components", given.n_components, "-o", low]
    in_components = measured([*MNNDASK, "correct", *paths, *limit, *components])
    shutil.rmtree(plain)
    after = measured(passing)
    for path in (corrected, low, plain):
        shutil.rmtree(path)
    passed = (before["wall_s"] + after["wall_s"]) / 2
    least = 1.5 * n_flops / rate + 2 * passed
    return figures | {
        "correct": correct,
        "in_components": in_components,
        "plain_passes": [before, after],
        "flops": n_flops,
        "gemm_gflops_per_s": round(rate / 1e9, 1),
        "share_of_allowed": round(correct["wall_s"] / least, 3),
        "times_the_plain_pass": round(correct["wall_s"] / passed, 2),
        "in_components_times_the_plain_pass": round(in_components["wall_s"] / passed, 2),
        "cells_per_s": round(n_cells / correct["wall_s"], 1),
        "us_per_cell": round(1e6 * correct["wall_s"] / n_cells, 1),
    }


def necessary(corrected: Path, n_genes: int) -> int:
    """Operations needed to apply the correction's steps to all cells of their batches."""
    steps = ad.io.read_elem(zarr.open_group(corrected, mode="r")["uns/mnn/steps"]).iloc[1:]
    sides = steps[["n_used", "n_reference_used", "n_cells", "n_paired_cells"]].to_numpy()
    return sum(flops(*map(int, of_step), n_genes) for of_step in sides)


def gemm_rate(n_genes: int, rounds: int = 5) -> float:
    """Operations per second of a product of a block of cells with a sketch's cells."""
    block, sketch = np.ones((2048, n_genes), np.float32), np.ones((5000, n_genes), np.float32)
    buffer = np.empty((2048, 5000), np.float32)
    fastest = min(seconds(lambda: np.matmul(block, sketch.T, out=buffer)) for _ in range(rounds))
    return 2 * 2048 * 5000 * n_genes / fastest


def run(given: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        sizes = []
        for n in given.n_cells:
            folder = given.data / str(n) if given.data else Path(scratch) / f"data{n}"
            sizes.append(one_size(n, folder, Path(scratch), given))
    return {"sizes": sizes} | ({"last_over_first": growth(sizes)} if len(sizes) > 1 else {})


def growth(sizes: list[dict[str, Any]]) -> dict[str, float]:
    """Ratio of the last size to the first, in time per cell and in peak memory."""
    first, last = sizes[0], sizes[-1]
    return {
        "time_per_cell": round(last["us_per_cell"] / first["us_per_cell"], 3),
        "peak": round(last["correct"]["peak_mb"] / first["correct"]["peak_mb"], 3),
    }


def main(given: Sequence[str] | None = None) -> None:
    benchmark("million", __doc__, run, FULL, TOY, given)


if __name__ == "__main__":
    main()
