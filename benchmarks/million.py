"""The command on data of growing size: time, memory of its process tree, and a plain pass over the same data.

``python -m benchmarks.million --n-cells 100000 1000000 --json million.json``. With ``--data DIR`` the data is
simulated to (or found in) ``DIR/<cells>`` and kept; outputs, as large as the dense matrix, go to a folder in
``--scratch`` (default: the system's for temporary files) and are removed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import stored
from benchmarks.memory import MNNDASK, measured
from benchmarks.report import benchmark

FULL = {
    "n_cells": [1_000_000],
    "n_genes": 2000,
    "n_batches": 4,
    "memory_limit": "2GB",
    "data": None,
    "scratch": None,
}
TOY = {"n_cells": [200], "n_genes": 50}


def one_size(n_cells: int, folder: Path, scratch: Path, given: Any) -> dict[str, Any]:
    paths = stored(folder, n_cells, given.n_genes, given.n_batches)
    corrected, plain = scratch / "corrected.zarr", scratch / "plain.zarr"
    limit = ["--memory-limit", given.memory_limit]
    figures: dict[str, Any] = {"n_cells": n_cells}
    correct = measured([*MNNDASK, "correct", *paths, *limit, "-o", corrected])
    passed = measured(["-m", "benchmarks.plain_pass", *paths, "-o", plain, "--like", corrected])
    figures |= {"correct": correct, "plain_pass": passed}
    figures["cells_per_s"] = round(n_cells / correct["wall_s"], 1)
    figures["us_per_cell"] = round(1e6 * correct["wall_s"] / n_cells, 1)
    figures["times_the_plain_pass"] = round(correct["wall_s"] / passed["wall_s"], 2)
    for path in (corrected, plain):
        shutil.rmtree(path)
    return figures


def run(given: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        sizes = []
        for n in given.n_cells:
            folder = given.data / str(n) if given.data else Path(scratch) / f"data{n}"
            sizes.append(one_size(n, folder, Path(scratch), given))
    return {"sizes": sizes} | ({"last_over_first": growth(sizes)} if len(sizes) > 1 else {})


def growth(sizes: list[dict[str, Any]]) -> dict[str, float]:
    """What the last size costs over the first: time a cell, and peak memory."""
    first, last = sizes[0], sizes[-1]
    return {
        "time_per_cell": round(last["us_per_cell"] / first["us_per_cell"], 3),
        "peak": round(last["correct"]["peak_mb"] / first["correct"]["peak_mb"], 3),
    }


def main(given: Sequence[str] | None = None) -> None:
    benchmark("million", __doc__, run, FULL, TOY, given)


if __name__ == "__main__":
    main()
