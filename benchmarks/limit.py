"""Time of the correction compared with that of its matrix products alone.

``python -m benchmarks.limit --json limit.json``. Each distinct product is counted once: new × reference,
new × new, gradients × reference, gradients × new, and weights × vectors. The rate is that of these products
in the same process and for the same shapes, a block of cells at a time. Rounds are interleaved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from benchmarks.data import EFFECT
from benchmarks.report import benchmark, seconds
from mnndask import MNNCorrector, mnn_correct
from mnndask.datasets.simulated import simulate

ROWS = 2048  # cells per block in the bare products
FULL = {"exact": [4000, 20_000], "n_genes": 2000, "sketch": 5000, "applied": 20_000, "rounds": 3}
TOY = {"exact": [120], "n_genes": 60, "sketch": 100, "applied": 200, "rounds": 2}


def flops(n_new: int, n_ref: int, n_cells: int, n_anchors: int, n_genes: int) -> int:
    """Number of operations needed for `n_cells` of the new batch."""
    return 2 * n_genes * n_cells * (2 * n_ref + 2 * n_new + n_anchors)


def products(cells: np.ndarray, new: np.ndarray, ref: np.ndarray, vectors: np.ndarray) -> Callable[[], None]:
    """The products alone, written to reused buffers."""
    widest = max(len(new), len(ref))
    buffer = np.empty((min(ROWS, len(cells)), widest), np.float32)
    moved = np.empty((len(buffer), vectors.shape[1]), np.float32)

    def compute() -> None:
        for start in range(0, len(cells), ROWS):
            block = cells[start : start + ROWS]
            n = len(block)
            for side in (new, ref) * 2:
                np.matmul(block, side.T, out=buffer[:n, : len(side)])
            np.matmul(np.ascontiguousarray(buffer[:n, : len(vectors)]), vectors, out=moved[:n])

    return compute


def against_products(
    call: Callable[[], Any], alone: Callable[[], None], n_flops: int, rounds: int
) -> dict[str, Any]:
    times: dict[str, list[float]] = {"call": [], "products": []}
    for _ in range(rounds):
        times["products"].append(seconds(alone))
        times["call"].append(seconds(call))
    ratios = [a / b for a, b in zip(times["call"], times["products"], strict=True)]
    return {
        "flops": n_flops,
        "gemm_gflops_per_s": round(n_flops / median(times["products"]) / 1e9, 1),
        "products_s": round(median(times["products"]), 3),
        "elapsed_s": round(median(times["call"]), 3),
        "elapsed_over_products": round(median(ratios), 3),
    }


def exact(n: int, n_genes: int, rounds: int) -> dict[str, Any]:
    """Fit on and correct all cells of two batches."""
    ref, new = (b.X.toarray() for b in simulate([n, n], n_genes, 2, batch_effect=EFFECT))
    call = lambda: mnn_correct(ref, new, sketch_size=None)  # noqa: E731
    n_anchors = call()[1][1]["new cell"].nunique()
    alone = products(new, new, ref, np.ones((n_anchors, n_genes), np.float32))
    figures = against_products(call, alone, flops(n, n, n, n_anchors, n_genes), rounds)
    return {"cells": [n, n], "anchors": n_anchors, **figures}


def application(given: Any, n_components: int | None) -> dict[str, Any]:
    """Correct cells outside the sketch, of the second of two batches."""
    n, s = given.applied, given.sketch
    ref, new = (b.X.toarray() for b in simulate([s, n + s], given.n_genes, 2, batch_effect=EFFECT))
    rest = new[s:]
    fitted = MNNCorrector(restrict=[range(s), range(s)], n_components=n_components).fit([ref, new])
    step = fitted.model_.steps[0]
    call = lambda: fitted.transform([rest], batches=["1"])  # noqa: E731
    call()
    alone = products(
        rest,
        new[:s],
        ref,
        np.ones(step.rest_vectors.shape if n_components else step.near_vectors.shape, np.float32),
    )
    n_flops = flops(s, s, len(rest), len(step.anchors), given.n_genes)
    return {
        "cells": len(rest),
        "sketch": [s, s],
        "n_components": n_components,
        "anchors": len(step.anchors),
    } | against_products(call, alone, n_flops, given.rounds)


def run(given: Any) -> dict[str, Any]:
    mnn_correct(*(b.X.toarray() for b in simulate([60, 60], 30, 2, batch_effect=EFFECT)))  # compiles
    return {
        "n_genes": given.n_genes,
        "exact": [exact(n, given.n_genes, given.rounds) for n in given.exact],
        "application": [application(given, n) for n in (None, min(50, given.n_genes // 2))],
    }


def main(given: Sequence[str] | None = None) -> None:
    benchmark("limit", __doc__, run, FULL, TOY, given)


if __name__ == "__main__":
    main()
