"""Time and memory of the command on many batches, with all genes corrected and few used for distances.

``python -m benchmarks.many_batches --json many_batches.json``. For a similar case, mnnpy's README reports
about 12 hours on 16 cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import zarr

from benchmarks.data import stored
from benchmarks.memory import MNNDASK, measured
from benchmarks.report import benchmark

FULL = {
    "n_cells": 50_000,
    "n_genes": 30_000,
    "n_batches": 19,
    "memory_limit": "2GB",
    "data": None,
    "scratch": None,
}
TOY = {"n_cells": 300, "n_genes": 200, "n_batches": 6}


def run(given: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = given.data or Path(scratch) / "data"
        paths = stored(folder, given.n_cells, given.n_genes, given.n_batches)
        output = Path(scratch) / "corrected.zarr"
        genes = ad.io.read_elem(zarr.open_group(paths[0], mode="r")["var"])["highly_variable"]
        command = [*MNNDASK, "correct", *paths, "--hvg-key", "highly_variable"]
        figures = measured([*command, "--memory-limit", given.memory_limit, "-o", output])
        shape = zarr.open_group(output, mode="r")["X"].shape
    return {
        "shape": list(shape),
        "n_genes_for_distances": int(genes.sum()),
        "correct": figures,
        "cells_per_s": round(shape[0] / figures["wall_s"], 1),
    }


def main(given: Sequence[str] | None = None) -> None:
    benchmark("many_batches", __doc__, run, FULL, TOY, given)


if __name__ == "__main__":
    main()
