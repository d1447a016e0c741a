"""Processes that end while they write: nothing that looks finished, nothing in scratch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import anndata as ad
import forked
import numpy as np
import pytest
from helpers import check_kept, make_batches, told

from mnndask.cli.main import main

SMALL_CHUNKS = """
import asyncio, pathlib, sys
import mnndask.engine.memory_budget, zarr
from mnndask.cli.main import main

ending = pathlib.Path("ending")

async def set_slowly(self, key, value, original=zarr.storage.LocalStore.set):
    await asyncio.sleep(0.02 if key.startswith("X/c/") else 0)
    await original(self, key, value)

async def get_slowly(self, key, *args, original=zarr.storage.LocalStore.get, **kwargs):
    await asyncio.sleep(0.3 if ending.exists() else 0)
    return await original(self, key, *args, **kwargs)

def consolidate(store, original=zarr.consolidate_metadata):
    ending.touch()
    return original(store)

mnndask.engine.memory_budget.CHUNK_BYTES = 4 * 40 * 8  # four cells
zarr.storage.LocalStore.set = set_slowly
zarr.storage.LocalStore.get = get_slowly
zarr.consolidate_metadata = consolidate
main(sys.argv[1:])
"""
WORDS = (
    "correct a.h5ad b.h5ad -k 5 --restrict used --n-jobs 2 -o out.zarr --scratch scratch --memory-limit 300kB"
)
N_CELLS = 200  # of each batch
N_CHUNKS = 2 * N_CELLS // 4


@pytest.fixture
def stopped_by(tmp_path):
    """Function that has the command write many small chunks, and sends it a signal while or after it does."""

    def stop(signal_, *, ending=False):
        (tmp_path / "scratch").mkdir()
        for name, X in zip("ab", make_batches((N_CELLS, N_CELLS)), strict=True):
            adata = ad.AnnData(X)
            adata.obs["used"] = np.arange(N_CELLS) < 60
            adata.write_h5ad(tmp_path / f"{name}.h5ad")
        process = forked.Process(SMALL_CHUNKS, *WORDS.split(), cwd=tmp_path)
        try:
            begun = partial(Path.exists, tmp_path / "ending") if ending else partial(written, tmp_path)
            while process.poll() is None and not begun():
                time.sleep(0.002)
            process.send_signal(signal_)
            start = time.monotonic()
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert time.monotonic() - start < 20  # at once, on a machine that has much else to do
        assert out == ""
        chunks = json.loads((tmp_path / "out.zarr.partial/X/zarr.json").read_text())["chunk_grid"]
        assert chunks["configuration"]["chunk_shape"] == [4, 40]
        assert len(written(tmp_path)) == N_CHUNKS if ending else 0 < len(written(tmp_path)) < N_CHUNKS
        warning = "mnndask: warning: 120 cells do not fit in 0.0003 GB together"  # so they are in scratch
        first, *others = filter(None, told(err))
        assert first.startswith(warning)
        return process.returncode, others

    return stop


def written(folder):
    """Chunks that are whole: zarr writes each beside its place, and renames it."""
    return list((folder / "out.zarr.partial" / "X" / "c").glob("*/0"))


@pytest.mark.parametrize("ending", [False, True], ids=["among chunks", "at the end"])
def test_ctrl_c(stopped_by, tmp_path, ending):
    check_interrupted(tmp_path, *stopped_by(signal.SIGINT, ending=ending), 130, "interrupted")


def test_ctrl_c_while_libraries_load(tmp_path):
    """One line, as ever: the import of a library is where most of the first second goes."""
    program = """
import importlib.abc, os, signal, sys

class Interrupted(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "anndata":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupted())
sys.argv = ["mnndask", "info", "there-is-none.zarr"]
from mnndask.__main__ import main
main()
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.lstrip("\n") == "mnndask: interrupted; nothing was written\n"


def test_ctrl_c_before_a_task_of_zarr_begins():
    """Python warns of a coroutine that is never awaited when the last reference to it goes."""
    program = """
import os, signal
from mnndask.cli import main as command

async def task():
    pass

def consolidate(task):
    os.kill(os.getpid(), signal.SIGINT)
    signal.sigtimedwait([], 10)

signal.signal(signal.SIGINT, signal.default_int_handler)
command.cli.main = lambda *_, **__: consolidate(task())
command.main()
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.lstrip("\n") == "mnndask: interrupted; nothing was written\n"


def test_request_to_end(stopped_by, tmp_path):
    """As job schedulers make it; no folder for scratch is left, either."""
    check_interrupted(tmp_path, *stopped_by(signal.SIGTERM), 143, "terminated")


def check_interrupted(tmp_path, status, err, expected, said):
    assert status == expected
    assert len(err) == 1
    assert err[0].startswith(f"mnndask: {said}; the unfinished output is kept in out.zarr.partial")
    assert not list((tmp_path / "scratch").iterdir())
    check_kept(tmp_path, err[0])
    assert not (tmp_path / "out.zarr").exists()


def test_a_killed_run_is_resumed(stopped_by, tmp_path, monkeypatch, capsys):
    assert stopped_by(signal.SIGKILL) == (-signal.SIGKILL, [])
    assert not (tmp_path / "out.zarr").exists()
    assert (tmp_path / "out.zarr.partial.lock").exists()  # held by nobody
    monkeypatch.chdir(tmp_path)
    assert run(WORDS) == 2
    check_kept(tmp_path, capsys.readouterr().err)
    before = {file.parent.name: file.stat().st_mtime_ns for file in written(tmp_path)}
    (tmp_path / f"out.zarr.partial/X/c/{N_CHUNKS - 1}").mkdir(exist_ok=True)
    # As zarr names what it is writing.
    (tmp_path / f"out.zarr.partial/X/c/{N_CHUNKS - 1}/0.{'0f' * 16}.partial").touch()
    assert run(f"{WORDS} --resume") == 0
    assert not list(tmp_path.glob("out.zarr.*"))
    assert run(WORDS.replace("out.zarr", "whole.zarr")) == 0
    ours, theirs = (ad.read_zarr(tmp_path / name).X for name in ("out.zarr", "whole.zarr"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    chunks = {file.parent.name: file.stat().st_mtime_ns for file in (tmp_path / "out.zarr/X/c").glob("*/0")}
    assert len(chunks) == len(list((tmp_path / "out.zarr/X/c").glob("*/*"))) == N_CHUNKS
    assert {name: chunks[name] for name in before} == before


def run(words):
    with pytest.raises(SystemExit) as end:
        main(words.split())
    return end.value.code or 0
