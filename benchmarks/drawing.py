"""Time to draw a sketch of stored batches, compared with reading them once.

``python -m benchmarks.drawing --json drawing.json``. Rounds are interleaved, and ratios are taken within a
round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import dask

from benchmarks.data import stored
from benchmarks.report import benchmark, seconds
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.parameters import Parameters
from mnndask.engine.memory_budget import Budget
from mnndask.engine.run_options import RunOptions
from mnndask.engine.sketch import choose_cells, draw_cells
from mnndask.io.inputs import read_inputs
from mnndask.io.opened_inputs import InputOptions, Inputs

FULL = {
    "n_cells": 1_000_000,
    "n_genes": 2000,
    "n_batches": 4,
    "memory_limit": "2GB",
    "sketch_size": 5000,
    "rounds": 3,
    "data": None,
    "scratch": None,
}
TOY = {"n_cells": 400, "n_genes": 50, "sketch_size": 50, "rounds": 2}


def read(inputs: Inputs) -> None:
    """Decode every chunk and discard it."""
    blocks = [block for source in inputs.sources for block in source.X.to_delayed().ravel()]
    dask.compute([dask.delayed(lambda X: X.shape)(block) for block in blocks])


def draw(inputs: Inputs, method: str, size: int, limit: str) -> None:
    spaces = GeneSpaces(inputs.n_genes, None, True, True, inputs.dtype)
    parameters, run = Parameters(sketch_size=size, sketch_method=method), RunOptions(memory_limit=limit)
    chosen = choose_cells(inputs, spaces, list(range(len(inputs.sources))), parameters)
    rows = draw_cells(inputs.in_large_blocks(run.budget, size), spaces, chosen, parameters, run)
    assert all(own is None or len(own) == size for own in rows)


def run(given: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = given.data or Path(scratch) / "data"
        paths = stored(folder, given.n_cells, given.n_genes, given.n_batches)
        inputs = read_inputs(paths, options=InputOptions(), budget=Budget.of(given.memory_limit, None))
        todo: dict[str, Callable[[], None]] = {"read": partial(read, inputs)}
        for method in ("mixed", "geometric", "random"):
            todo[method] = partial(draw, inputs, method, given.sketch_size, given.memory_limit)
        times: dict[str, list[float]] = {name: [] for name in todo}
        for _ in range(given.rounds):
            for name, function in todo.items():
                times[name].append(seconds(function))
    reads = times.pop("read")
    figures: dict[str, Any] = {"read_s": round(median(reads), 3)}
    for name, of in times.items():
        ratios = [own / one for own, one in zip(of, reads, strict=True)]
        figures[name] = {"s": round(median(of), 3), "reads": round(median(ratios), 4)}
    return figures


def main(given: Sequence[str] | None = None) -> None:
    benchmark("drawing", __doc__, run, FULL, TOY, given)


if __name__ == "__main__":
    main()
