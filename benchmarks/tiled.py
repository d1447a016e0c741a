"""Correction of all cells of batches that do not fit in the memory limit, against the same in memory.

``python -m benchmarks.tiled --json tiled.json``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import zarr

from benchmarks.data import stored
from benchmarks.memory import MNNDASK, measured
from benchmarks.report import benchmark

FULL = {
    "sizes": [30_000, 30_000],
    "n_genes": 2000,
    "memory_limit": "200MB",
    "data": None,
    "scratch": None,
}
TOY = {"sizes": [400, 300], "n_genes": 200, "memory_limit": "20MB"}


def largest_difference(a: Path, b: Path) -> float:
    """Largest difference relative to the largest value, computed a chunk at a time."""
    X, Y = (da.from_zarr(zarr.open_group(path, mode="r")["X"]) for path in (a, b))
    difference, largest = da.compute(abs(X - Y.rechunk(X.chunks)).max(), abs(Y).max())
    return float(difference / largest)


def run(given: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        paths = stored(given.data or Path(scratch) / "data", given.sizes, given.n_genes, len(given.sizes))
        command = [*MNNDASK, "correct", *paths, "--sketch-size", "none"]
        outputs = {"tiled": Path(scratch) / "tiled.zarr", "in_memory": Path(scratch) / "in_memory.zarr"}
        limits = {"tiled": ["--memory-limit", given.memory_limit], "in_memory": []}
        figures: dict[str, Any] = {}
        for name, output in outputs.items():
            figures[name] = measured([*command, *limits[name], "-o", output])
        figures["largest_difference"] = largest_difference(outputs["tiled"], outputs["in_memory"])
    figures["times_in_memory"] = round(figures["tiled"]["wall_s"] / figures["in_memory"]["wall_s"], 2)
    return figures


def main(given: Sequence[str] | None = None) -> None:
    benchmark("tiled", __doc__, run, FULL, TOY, given)


if __name__ == "__main__":
    main()
