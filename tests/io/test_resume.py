"""Unfinished outputs are continued: finished chunks stay, the others are those of an undisturbed run."""

from __future__ import annotations

import os
import threading
import time

import anndata as ad
import numpy as np
import pytest
from clusters import cluster
from distributed import Client
from helpers import as_anndata, check_kept, make_batches
from runs import N_CHUNKS, chunks, contents

import mnndask


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_the_lock_that_a_killed_run_leaves_goes_with_the_next(command, failing, tmp_path, option):
    assert failing(lambda key, n: n > 4)[0] == 2
    assert sorted(path.name for path in tmp_path.glob("out.zarr*")) == [
        "out.zarr.partial",
        "out.zarr.run.json",
    ]
    (tmp_path / "out.zarr.partial.lock").touch()
    assert command(option) == (0, [])
    assert [path.name for path in tmp_path.glob("out.zarr*")] == ["out.zarr"]


@pytest.mark.lowest
def test_only_missing_chunks_are_made(command, failing, check_same, tmp_path):
    status, err = failing(lambda key, n: n > 4)
    assert status == 2
    assert "No space left on device" in err[0]
    assert "out.zarr.partial: --resume continues it, --overwrite replaces it." in err[0]
    check_kept(tmp_path, err[0])
    before = chunks(tmp_path / "out.zarr.partial")
    assert len(before) == 4
    assert command("--resume") == (0, [])
    after = chunks(tmp_path / "out.zarr")
    assert len(after) == N_CHUNKS
    assert {key: after[key] for key in before} == before
    assert not list(tmp_path.glob("out.zarr.*"))
    check_same()


STAGES = {
    "first annotation": lambda key, n: key.startswith("obs/"),
    "last annotation": lambda key, n: key.startswith("layers"),
    "matrix": lambda key, n: key == "X/zarr.json",
    "first chunk": lambda key, n: n > 0,
    "last chunk": lambda key, n: n >= N_CHUNKS,
    "root": lambda key, n: key == "zarr.json",
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_run_is_resumed_whatever_stopped_it(command, failing, check_same, tmp_path, stage):
    status, err = failing(stage)
    assert status == 2
    check_kept(tmp_path, err[0])
    assert command()[0] == 2
    assert command("--resume") == (0, [])
    check_same()


def test_a_run_is_resumed_more_than_once(command, failing, check_same, tmp_path):
    failing(lambda key, n: n > 2)
    first = chunks(tmp_path / "out.zarr.partial")
    assert failing(lambda key, n: n > 3, "--resume")[0] == 2
    second = chunks(tmp_path / "out.zarr.partial")
    assert len(second) == len(first) + 3 == 5
    assert command("--resume") == (0, [])
    check_same()


def test_what_a_run_takes_may_change(command, failing):
    """Memory, threads and scratch do not change the result; the size of chunks stays."""
    failing(lambda key, n: n > 4)
    assert command("--resume", "--memory-limit", "1GB", "--n-jobs", "2", "--scratch", ".") == (0, [])


def test_continued_outputs_have_the_support_of_all_cells(command, failing, tmp_path):
    options = ["--refine", "--sketch-size", "30"]
    assert failing(lambda key, n: n > 4, *options)[0] == 2
    assert command("--resume", *options)[0] == 0
    assert command(*options, output="whole.zarr")[0] == 0
    found, whole = (ad.read_zarr(tmp_path / name).obs["mnn_support"] for name in ("out.zarr", "whole.zarr"))
    assert found.notna().sum() == 50
    np.testing.assert_array_equal(found, whole)


def touch(tmp_path):
    os.utime(tmp_path / "b.h5ad")


def rewrite(tmp_path):
    as_anndata(make_batches((60, 50), seed=1)[1], "b").write_h5ad(tmp_path / "b.h5ad")


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (None, ["--sigma", "2"], "sigma was 1.0 and is now 2.0"),
        (
            None,
            ["--no-var-adj", "--svd-dim", "2"],
            "--svd-dim was not given and is now 2; --var-adj was True",
        ),
        (None, ["--sketch-size", "none"], "--sketch-size was 'auto' and is now not given"),
        (rewrite, [], "input b.h5ad differs from b.h5ad of that run"),
        (touch, [], "input b.h5ad differs from b.h5ad of that run"),
        ("version", [], f"mnndask was {mnndask.__version__} and is now 9"),
    ],
)
def test_another_run_is_not_continued(command, failing, tmp_path, monkeypatch, change, options, said):
    failing(lambda key, n: n > 4)
    before = chunks(tmp_path / "out.zarr.partial")
    if change == "version":
        monkeypatch.setattr("mnndask.io.resume.__version__", "9")
    elif change:
        change(tmp_path)
    status, err = command("--resume", *options)
    assert status == 2
    assert len(err) == 1
    assert "The unfinished output out.zarr.partial belongs to another run: " in err[0]
    assert said in err[0]
    assert chunks(tmp_path / "out.zarr.partial") == before


def test_there_may_be_nothing_to_resume(command, tmp_path):
    assert command("--resume") == (0, [])
    before = contents(tmp_path / "out.zarr")
    assert command("--resume") == (0, [])  # it is complete
    assert contents(tmp_path / "out.zarr") == before
    status, err = command("--resume", "--sigma", "2")
    assert status == 2
    assert "The complete output out.zarr belongs to another run: --sigma was 1.0 and is now 2.0." in err[0]
    status, err = command()
    assert status == 2
    assert "The output out.zarr exists." in err[0]
    status, err = command("--resume", "--overwrite")
    assert status == 2
    assert "Both --overwrite and --resume" in err[0]


@pytest.mark.slow
@pytest.mark.xdist_group("cluster")
def test_a_lost_scheduler_is_told_and_the_run_resumed(command, check_same, tmp_path, monkeypatch):
    monkeypatch.setattr("mnndask.engine.cluster.CONNECT_SECONDS", 3)
    with cluster(tmp_path / "cluster", 1) as made:
        with Client(made.address) as client:
            client.wait_for_workers(1, timeout=60)
            client.run(slow_down)

        def kill():
            while not chunks(tmp_path / "out.zarr.partial"):
                time.sleep(0.01)
            made.scheduler.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        start = time.monotonic()
        status, err = command("--scheduler", made.address)
        killer.join()
        assert time.monotonic() - start < 60
        assert made.scheduler.wait(1) == -9
    assert status == 2
    assert len(err) == 1
    assert f"The scheduler at {made.address} was lost" in err[0]
    check_kept(tmp_path, err[0])
    assert 0 < len(chunks(tmp_path / "out.zarr.partial")) < N_CHUNKS
    assert command("--resume") == (0, [])
    check_same()


def slow_down():
    """Have this process take a while for each chunk that it writes."""
    import asyncio

    import zarr

    async def set_(self, key, value, original=zarr.storage.LocalStore.set):
        await asyncio.sleep(0.5 if key.startswith("X/c/") else 0)
        await original(self, key, value)

    zarr.storage.LocalStore.set = set_
