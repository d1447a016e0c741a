"""Faults while the output is written: it is whole or does not open; what there is of it is kept and named."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import time

import anndata as ad
import dask.array as da
import forked
import numpy as np
import pytest
import zarr
from helpers import as_anndata, check_kept, make_batches, told
from scipy import sparse

from mnndask import write_zarr
from mnndask.cli.main import main
from mnndask.errors import InputTypeError, OutputExistsError
from mnndask.stores.locks import only_writer


@pytest.fixture
def command(tmp_path, capsys, monkeypatch, short_record):
    """Function that corrects two files into out.zarr; gives status and error lines."""
    monkeypatch.chdir(tmp_path)
    for name, X in zip("ab", make_batches((60, 50)), strict=True):
        as_anndata(X, name).write_h5ad(tmp_path / f"{name}.h5ad")

    def command(*options):
        with pytest.raises(SystemExit) as end:
            main(["correct", "a.h5ad", "b.h5ad", "-k", "5", "-o", "out.zarr", *options])
        return end.value.code or 0, told(capsys.readouterr().err)

    return command


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


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
    assert "Something else removed or changed 1 of the " in err[0]
    assert "written to out.zarr.partial, such as X/c/0/0." in err[0]
    check_kept(tmp_path, err[0])


def test_an_older_output_that_cannot_be_removed_is_told(command, tmp_path, monkeypatch):
    assert command("--sigma", "3")[0] == 0

    def refuse(path):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("mnndask.stores.local_target.remove_tree", refuse)
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
from mnndask.stores.locks import only_writer
with only_writer(pathlib.Path({str(tmp_path / "x")!r})):
    os._exit(3)
"""
    assert forked.run(program, check=False).returncode == 3
    assert (tmp_path / "x.lock").exists()
    with only_writer(tmp_path / "x"), pytest.raises(OutputExistsError), only_writer(tmp_path / "x"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_failed_output_leaves_zarrs_settings_as_they_were(tmp_path, monkeypatch):
    """Threads that still write when another has failed must not leave their settings behind."""
    write = zarr.storage.LocalStore.set

    async def slowly(store, key, value):
        await asyncio.sleep(0.05)
        await write(store, key, value)

    def block(values, block_info):
        if block_info[0]["chunk-location"][0] == 0:
            time.sleep(0.02)
            what = "no such cell"
            raise LookupError(what)
        return values

    monkeypatch.setattr(zarr.storage.LocalStore, "set", slowly)
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", 2**14)
    X = da.zeros((4 * 2**10, 2), chunks=(2**10, 2)).map_blocks(block, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(LookupError, match="no such cell"):
        write_zarr(ad.AnnData(X), tmp_path / "a.zarr", n_jobs=4)
    time.sleep(0.5)
    assert not zarr.config.get("array.write_empty_chunks")


@pytest.mark.parametrize("X", [np.empty((0, 5)), np.empty((5, 0)), None])
def test_an_anndata_without_values_is_written(X, tmp_path):
    adata = ad.AnnData(X) if X is not None else ad.AnnData(obs={"depth": [1, 2]})
    write_zarr(adata, tmp_path / "a.zarr")
    assert ad.read_zarr(tmp_path / "a.zarr").shape == adata.shape


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix])
def test_a_view_of_a_file_is_written(layout, tmp_path):
    X = np.arange(60.0).reshape(20, 3)
    ad.AnnData(layout(X)).write_h5ad(tmp_path / "a.h5ad")
    write_zarr(ad.read_h5ad(tmp_path / "a.h5ad", backed="r")[5:10], tmp_path / "a.zarr")
    written = ad.read_zarr(tmp_path / "a.zarr").X
    np.testing.assert_array_equal(written.toarray() if sparse.issparse(written) else written, X[5:10])


def test_the_python_call_names_its_own_remedies(tmp_path):
    write_zarr(ad.AnnData(np.ones((2, 2))), tmp_path / "a.zarr")
    with pytest.raises(OutputExistsError, match="overwrite=True in Python"):
        write_zarr(ad.AnnData(np.zeros((2, 2))), tmp_path / "a.zarr")
    with pytest.raises(InputTypeError, match="path is None"):
        write_zarr(ad.AnnData(np.zeros((2, 2))), None)
    assert (ad.read_zarr(tmp_path / "a.zarr").X == 1).all()
