"""Faults while the output is written: it is whole or does not open; what there is of it is kept and named."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pytest
import zarr
from helpers import as_anndata, make_batches

from mnndask.cli import main
from mnndask.errors import OutputExistsError
from mnndask.writer import only_writer


@pytest.fixture
def command(tmp_path, capsys, monkeypatch):
    """Function that corrects two files into out.zarr; gives status and error lines."""
    monkeypatch.chdir(tmp_path)
    for name, X in zip("ab", make_batches((60, 50)), strict=True):
        as_anndata(X, name).write_h5ad(tmp_path / f"{name}.h5ad")

    def command(*options):
        with pytest.raises(SystemExit) as end:
            main(["correct", "a.h5ad", "b.h5ad", "-k", "5", "-o", "out.zarr", *options])
        return end.value.code or 0, capsys.readouterr().err.splitlines()

    return command


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def check_kept(folder, line):
    """The unfinished output is there, named, and does not open."""
    assert "out.zarr.partial" in line
    assert (folder / "out.zarr.partial").is_dir()
    assert not list((folder / "out.zarr.partial").glob("zarr.json"))
    with pytest.raises(FileNotFoundError):
        ad.read_zarr(folder / "out.zarr.partial")


def fill_the_disk(monkeypatch, stage):
    """Have no room for one file, or for the rename; gives what was refused."""
    refused = []

    def refuse(path):
        if str(path).endswith(stage):
            refused.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    async def set_(self, key, value, original=zarr.storage.LocalStore.set):
        refuse(self.root / key)
        await original(self, key, value)

    def replace(source, target, original=os.replace):
        refuse(target)
        original(source, target)

    monkeypatch.setattr(zarr.storage.LocalStore, "set", set_)
    monkeypatch.setattr(os, "replace", replace)
    return refused


STAGES = {
    "annotations": "obs/depth/c/0",
    "layers": "layers/twice/c/0/0",
    "matrix": ".partial/X/c/0/0",
    "root": ".partial/zarr.json",
}


@pytest.mark.parametrize(
    ("stage", "older"), [*((stage, False) for stage in STAGES), ("matrix", True), ("root", True)]
)
def test_full_disk(command, tmp_path, monkeypatch, stage, older):
    if older:
        assert command("--sigma", "3")[0] == 0
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        refused = fill_the_disk(patch, STAGES[stage])
        status, err = command("--overwrite")
    assert refused
    assert status == 2
    assert len(err) == 1
    assert err[0].startswith("mnndask: The output out.zarr could not be written: No space left on device.")
    check_kept(tmp_path, err[0])
    kept = contents(tmp_path)
    assert {path: kept[path] for path in before} == before
    assert (tmp_path / "out.zarr").exists() == older


def test_unfinished_output_is_replaced_only_when_asked(command, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        fill_the_disk(patch, STAGES["matrix"])
        command()
    kept = contents(tmp_path)
    status, err = command()
    assert status == 2
    assert "An unfinished output" in err[0]
    assert "out.zarr.partial" in err[0]
    assert contents(tmp_path) == kept
    assert command("--overwrite") == (0, [])
    assert ad.read_zarr(tmp_path / "out.zarr").shape == (110, 40)
    assert not (tmp_path / "out.zarr.partial").exists()


def test_failing_rename_leaves_the_older_output(command, tmp_path, monkeypatch):
    assert command("--sigma", "3")[0] == 0
    before = contents(tmp_path)

    def replace(source, target, original=os.replace):
        if (str(source), str(target)) == ("out.zarr.partial", "out.zarr"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        status, err = command("--overwrite")
    assert status == 2
    assert "No space left on device" in err[0]
    assert "out.zarr.partial, which is complete" in err[0]
    kept = contents(tmp_path)
    assert {path: kept[path] for path in before} == before
    assert ad.read_zarr(tmp_path / "out.zarr.partial").shape == (110, 40)


def test_disk_that_is_really_full(command, tmp_path, capsys):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        status, err = command("-o", "small/out.zarr")
        assert status == 2
        assert len(err) == 1
        assert "The output small/out.zarr could not be written: No space left on device." in err[0]
        check_kept(small, err[0])
        assert not (small / "out.zarr").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_chunk_that_went_missing_is_noticed_before_the_end(command, tmp_path, monkeypatch):
    async def set_(self, key, value, original=zarr.storage.LocalStore.set):
        await original(self, key, value)
        if key == "X/c/0/0":
            (self.root / key).unlink()

    monkeypatch.setattr(zarr.storage.LocalStore, "set", set_)
    status, err = command()
    assert status == 2
    assert "1 of the 1 chunks of X are missing from out.zarr.partial" in err[0]
    check_kept(tmp_path, err[0])


# ---------------------------------------------------------------- processes that end in mid-write

SMALL_CHUNKS = """
import asyncio, sys
import mnndask.budget, zarr
from mnndask.cli import main

async def set_slowly(self, key, value, original=zarr.storage.LocalStore.set):
    await asyncio.sleep(0.02 if key.startswith("X/c/") else 0)
    await original(self, key, value)

mnndask.budget.CHUNK_BYTES = 4 * 40 * 8  # four cells; of 1200
zarr.storage.LocalStore.set = set_slowly
main(sys.argv[1:])
"""
WORDS = (
    "correct a.h5ad b.h5ad -k 5 --restrict used --n-jobs 2 -o out.zarr --scratch scratch --memory-limit 300kB"
)
N_CHUNKS = 300


@pytest.fixture
def stopped_by(tmp_path):
    """Function that has the command write many small chunks, and sends it a signal while it does."""

    def stop(signal_):
        (tmp_path / "scratch").mkdir()
        for name, X in zip("ab", make_batches((600, 600)), strict=True):
            adata = ad.AnnData(X)
            adata.obs["used"] = np.arange(600) < 200
            adata.write_h5ad(tmp_path / f"{name}.h5ad")
        process = subprocess.Popen(
            [sys.executable, "-c", SMALL_CHUNKS, *WORDS.split()],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            while process.poll() is None and not written(tmp_path):
                time.sleep(0.002)
            process.send_signal(signal_)
            start = time.monotonic()
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert time.monotonic() - start < 5
        assert out == ""
        chunks = json.loads((tmp_path / "out.zarr.partial/X/zarr.json").read_text())["chunk_grid"]
        assert chunks["configuration"]["chunk_shape"] == [1200 // N_CHUNKS, 40]
        assert 0 < len(written(tmp_path)) < N_CHUNKS
        told = "mnndask: warning: 400 cells do not fit in 0.0003 GB together"  # so they are in scratch
        assert err.startswith(told)
        return process.returncode, [line for line in err.splitlines()[1:] if line]

    return stop


def written(folder):
    return list((folder / "out.zarr.partial" / "X" / "c").glob("*/*"))


def test_ctrl_c(stopped_by, tmp_path):
    check_interrupted(tmp_path, *stopped_by(signal.SIGINT), 130, "interrupted")


def test_request_to_end(stopped_by, tmp_path):
    """As job schedulers make it; no folder for scratch is left, either."""
    check_interrupted(tmp_path, *stopped_by(signal.SIGTERM), 143, "ended")


def check_interrupted(tmp_path, status, err, expected, said):
    assert status == expected
    assert len(err) == 1
    assert err[0].startswith(f"mnndask: {said}; the unfinished output is kept in out.zarr.partial")
    assert not list((tmp_path / "scratch").iterdir())
    check_kept(tmp_path, err[0])
    assert not (tmp_path / "out.zarr").exists()


def test_killed(stopped_by, tmp_path, monkeypatch, capsys):
    assert stopped_by(signal.SIGKILL) == (-signal.SIGKILL, [])
    assert not (tmp_path / "out.zarr").exists()
    monkeypatch.chdir(tmp_path)
    words = WORDS.split()
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    check_kept(tmp_path, capsys.readouterr().err)
    with pytest.raises(SystemExit) as end:
        main([*words, "--overwrite"])
    assert not end.value.code
    assert ad.read_zarr(tmp_path / "out.zarr").shape == (1200, 40)


def test_an_older_output_that_cannot_be_removed_is_told(command, tmp_path, monkeypatch):
    assert command("--sigma", "3")[0] == 0

    def refuse(path):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("mnndask.output._remove", refuse)
        status, err = command("--overwrite")
    assert status == 0
    assert len(err) == 1
    assert "warning: out.zarr is complete, but the older output, now out.zarr.replaced, could not" in err[0]
    assert ad.read_zarr(tmp_path / "out.zarr").shape == (110, 40)


# ---------------------------------------------------------------- two writers


def test_a_second_writer_is_refused(command, tmp_path):
    assert command("--sigma", "3")[0] == 0
    before = contents(tmp_path)
    with only_writer(tmp_path / "out.zarr.partial"):
        status, err = command("--overwrite")
    assert status == 2
    assert err == [
        "mnndask: Another run is writing out.zarr.partial. Wait for it, stop it, or write to another path."
    ]
    assert contents(tmp_path) == before
    assert command("--overwrite") == (0, [])


def test_the_lock_of_a_writer_that_died_is_free(tmp_path):
    program = f"""
import os, pathlib
from mnndask.writer import only_writer
with only_writer(pathlib.Path({str(tmp_path / "x")!r})):
    os._exit(3)
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, check=False)
    assert done.returncode == 3
    assert (tmp_path / "x.lock").exists()
    with only_writer(tmp_path / "x"), pytest.raises(OutputExistsError), only_writer(tmp_path / "x"):
        pass
    assert not list(tmp_path.iterdir())
