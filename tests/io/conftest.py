"""A command that writes many small chunks, and can be stopped while it does."""

from __future__ import annotations

import errno
import os

import anndata as ad
import numpy as np
import pytest
import zarr
from helpers import as_anndata, make_batches, told
from runs import CHUNK_BYTES, before_key, bucket, disk, place  # noqa: F401

from mnndask.cli.main import main


@pytest.fixture
def command(tmp_path, capsys, monkeypatch, short_record):
    """Function that corrects two files into out.zarr, in small chunks; gives status and error lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", CHUNK_BYTES)
    for name, X in zip("ab", make_batches((60, 50)), strict=True):
        as_anndata(X, name).write_h5ad(tmp_path / f"{name}.h5ad")

    def command(*options, output="out.zarr"):
        with pytest.raises(SystemExit) as end:
            main(["correct", "a.h5ad", "b.h5ad", "-k", "5", "--n-jobs", "1", "-o", output, *options])
        return end.value.code or 0, told(capsys.readouterr().err)

    return command


@pytest.fixture
def failing(command):
    """Function that runs the command, and has the disk be full before some key is written."""

    def fill(key):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), key)

    def run(stage, *options):
        with before_key(stage, fill):
            return command(*options)

    return run


@pytest.fixture
def check_same(tmp_path, command, undisturbed):
    """Function that compares the output with that of an undisturbed run, which is made once."""
    if not undisturbed:
        assert command(output="whole.zarr") == (0, [])
        undisturbed |= {"members": sorted(zarr.open_group("whole.zarr")), "data": ad.read_zarr("whole.zarr")}

    def check(path=tmp_path / "out.zarr"):
        found, whole = ad.read_zarr(path), undisturbed["data"]
        assert found.obs.equals(whole.obs)
        assert found.var.equals(whole.var)
        for slot in ("obsm", "layers"):
            assert set(getattr(found, slot)) == set(getattr(whole, slot))
            for key in set(getattr(whole, slot)) - {None}:  # newer anndata lists X as a layer
                values = getattr(whole, slot)[key]
                np.testing.assert_array_equal(getattr(found, slot)[key], values)
        assert sorted(found.uns["mnn"]) == sorted(whole.uns["mnn"])
        assert np.abs(found.X - whole.X).max() <= 1e-10
        assert sorted(zarr.open_group(path)) == undisturbed["members"]

    return check


@pytest.fixture(scope="session")
def undisturbed():
    return {}
