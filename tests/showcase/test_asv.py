"""The suite for asv runs: every benchmark of it, at toy size."""

import itertools

import numpy as np
import pytest

from benchmarks.asv import kernels, whole_call

TOY = {
    kernels.Block: {
        "n_cells": 30,
        "n_sketched": 60,
        "n_anchors": 40,
        "params": ([8], ["float32", "float64"]),
    },
    whole_call.Call: {"n_cells": 120, "n_genes": 60, "params": ([None, 5],)},
}


@pytest.mark.parametrize("suite", TOY, ids=lambda suite: suite.__name__)
def test_every_benchmark_runs(suite, monkeypatch):
    for name, value in TOY[suite].items():
        monkeypatch.setattr(suite, name, value)
    names = [name for name in dir(suite) if name.startswith(("time_", "peakmem_"))]
    assert len(names) >= 4
    for parameters in itertools.product(*suite.params):
        benchmark = suite()
        benchmark.setup(*parameters)
        for name in names:
            getattr(benchmark, name)(*parameters)
        getattr(benchmark, "teardown", lambda *_: None)(*parameters)


def test_blocks_are_of_one_kind():
    block = kernels.Block()
    block.n_cells, block.n_sketched, block.n_anchors = 5, 30, 20
    block.setup(4, "float32")
    assert {side.X.dtype for side in (block.cells, block.new, block.ref)} == {np.dtype(np.float32)}
    assert [len(side) for side in (block.cells, block.new, block.ref, block.anchors)] == [5, 30, 30, 20]
