"""Loops are compiled before a fit, in a stage of its own, for the types that fits call them with."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
from helpers import GENES, make_batches
from numba import typeof
from numba.core import caching
from numba.core.dispatcher import Dispatcher

from mnndask import mnn_correct
from mnndask.core.kernels import ahead, jit
from mnndask.core.kernels.jit import FAST_MATH, compiled

OPTIONS = {
    "default": {"n_genes": 150},
    "no variance adjustment": {"var_adj": False},
    "few dimensions": {},
    "components": {"n_components": 10},
    "some genes": {"var_index": GENES, "var_subset": GENES[::2]},
    "sketch": {"sketch_size": 40},
    "angles": {"svd_dim": 2, "compute_angle": True},
    "on disk": {"memory_limit": 300_000, "n_jobs": 1},
    "refined": {"refine": True, "n_components": 10},
    "refined, some genes": {
        "refine": True,
        "var_index": GENES,
        "var_subset": GENES[::2],
        "cos_norm_out": False,
    },
    "refined on disk": {"refine": True, "memory_limit": 300_000, "n_jobs": 1},
}


class Spy:
    """A compiled loop that remembers the types it is called with."""

    def __init__(self, loop):
        self.loop, self.called = loop, set()

    def __call__(self, *args):
        self.called.add(tuple(map(typeof, args)))
        return self.loop(*args)


@pytest.fixture
def spies(monkeypatch):
    """Loops that are compiled ahead, wherever the package calls them."""
    needed = ahead._needed(np.dtype(np.float32), var_adj=True, few=True, sparse=True, refine=True)
    found = {loop: Spy(loop) for loop, _ in needed}
    modules = [module for name, module in sys.modules.items() if name.startswith("mnndask.")]
    places = [
        (module, name, found[value])
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Dispatcher) and value in found
    ]
    assert len(places) > len(found)
    for dtype in (np.float64, np.float32):
        ahead.compile_ahead(np.dtype(dtype), 10, var_adj=True, sparse=True, refine=True)
    monkeypatch.setattr(ahead, "compile_ahead", lambda *_, **__: None)
    monkeypatch.setattr("mnndask.engine.fit_batches.compile_ahead", lambda *_, **__: None)
    for place in places:
        monkeypatch.setattr(*place)
    return found


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", OPTIONS)
def test_fits_call_loops_with_the_types_that_are_compiled_ahead(case, dtype, spies, monkeypatch):
    """So no other stage compiles in silence."""
    options, n_dims = dict(OPTIONS[case]), OPTIONS[case].get("n_genes", 40)
    monkeypatch.setattr("mnndask.engine.memory_budget.FEWEST_TILE_ROWS", 1)
    options.pop("n_genes", None)
    mnn_correct(*make_batches((60, 70), n_dims, dtype=dtype), k=5, **options)
    var_adj, sparse = options.get("var_adj", True), "sketch_size" in options
    kinds = {"var_adj": var_adj, "sparse": sparse, "refine": options.get("refine", False)}
    ready = ahead._needed(np.dtype(dtype), few=n_dims <= 128, **kinds)
    expected = {}
    for spy, types in ready:
        expected.setdefault(spy.loop, set()).add(tuple(types))
    called = {loop: spy.called for loop, spy in spies.items() if spy.called}
    assert len(called) >= 4
    assert {loop.__name__ for loop in called} <= {loop.__name__ for loop in expected}
    for loop, types in called.items():
        assert types <= expected[loop], loop.__name__


# ---------------------------------------------------------------- the stage


def shifted(x):
    return x + 1.5


@pytest.fixture
def fits(monkeypatch, tmp_path, caplog):
    """Function that fits where one small loop is needed, whose code is kept in a folder; gives the stages."""
    monkeypatch.setattr(caching.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(jit, "_lost", set())

    def fit():
        loop = compiled(FAST_MATH)(shifted)
        monkeypatch.setattr(ahead, "_needed", lambda *_, **__: iter([(loop, (ahead.types.float64,))]))
        monkeypatch.setattr(ahead, "_done", set())
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="mnndask"):
            mnn_correct(*make_batches((60, 70)), k=5)
            mnn_correct(*make_batches((60, 70)), k=5)
        return [r.getMessage().split(":")[0] for r in caplog.records if r.name == "mnndask._progress"]

    return fit


def test_compiling_is_a_stage_only_when_it_happens(fits):
    """The first of two calls, and not the next process, which finds the code."""
    once = "compiling, once per installation"
    stages = fits()
    assert stages[0] == once
    assert stages.count(once) == 1
    assert once not in fits()


def test_where_no_folder_can_be_written_every_process_says_that_it_compiles(fits, monkeypatch):
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    for _ in range(2):
        with pytest.warns(UserWarning, match="cannot be kept(?s:.*)NUMBA_CACHE_DIR") as warned:
            assert fits()[0] == "compiling, in every process"
        assert len(warned) == 1
        assert warned[0].filename == __file__


def test_a_full_disk_does_not_stop_the_work(fits, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    with pytest.warns(UserWarning, match=r"cannot be kept.*or its disk is full"):
        assert fits()[0] == "compiling, once per installation"
