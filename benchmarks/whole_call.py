"""The whole call against its necessary matrix products, in one process.

Figures are medians of interleaved rounds, because a machine's speed drifts, ratios less so.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.data import EFFECT
from benchmarks.report import seconds
from mnndask import mnn_correct
from mnndask.api.write import write_zarr
from mnndask.datasets.simulated import simulate


def products(n: int, genes: int) -> None:
    """Compute the products of one step of two batches of n cells: new x reference, new x new, gradients."""
    X = np.ones((n, genes), np.float32)
    for _ in range(4):
        X @ X.T
    np.ones((n, n), np.float32) @ X


def through_files(paths: list[Path], output: Path) -> None:
    write_zarr(mnn_correct(*paths)[0], output, overwrite=True)


def run(n_cells: int = 8000, n_genes: int = 1000, rounds: int = 3) -> dict[str, Any]:
    """Time two batches with `n_cells` in all: in memory, through files, and the bare products."""
    batches = simulate([n_cells - n_cells // 2, n_cells // 2], n_genes, 2, batch_effect=EFFECT)
    dense = [b.X.toarray() for b in batches]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.zarr" for i in range(2)]
        for batch, path in zip(batches, paths, strict=True):
            batch.write_zarr(path)
        todo: dict[str, Callable[[], Any]] = {
            "in_memory_s": lambda: mnn_correct(*dense),
            "in_memory_one_thread_s": lambda: mnn_correct(*dense, n_jobs=1),
            "without_var_adj_s": lambda: mnn_correct(*dense, var_adj=False),
            "through_files_s": lambda: through_files(paths, Path(folder) / "out.zarr"),
            "products_s": lambda: products(n_cells // 2, n_genes),
        }
        times: dict[str, list[float]] = {name: [] for name in todo}
        for _ in range(rounds):
            for name, function in todo.items():
                times[name].append(seconds(function))
    figures: dict[str, Any] = {name: round(median(t), 6) for name, t in times.items()}
    figures["in_memory_over_products"] = round(figures["in_memory_s"] / figures["products_s"], 2)
    unit = 1 if sys.platform == "darwin" else 1024
    figures["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
    return {"n_cells": n_cells, "n_genes": n_genes, "rounds": rounds} | figures
