"""Inputs that are replaced while the command writes: status 2, the old output stays, nothing is continued."""

from __future__ import annotations

import os

import anndata as ad
import numpy as np
import pytest
import zarr
from helpers import told
from spoiling import OTHER, REPLACED, A, B, of_old, overwrite, stored, sync_files, with_other_obs

from mnndask.cli.main import main

N_CHUNKS = 11  # of ten cells: six of the first batch, and five of the second


@pytest.fixture
def command(tmp_path, capsys, monkeypatch, short_record):
    """Function that corrects two files into out.zarr, in small chunks; gives status and error lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", 10 * 40 * 8)

    def command(inputs, *options):
        with pytest.raises(SystemExit) as end:
            main(["correct", *inputs, "-k", "5", "--n-jobs", "1", "-o", "out.zarr", *options])
        return end.value.code or 0, told(capsys.readouterr().err)

    return command


@pytest.fixture
def acting(monkeypatch, command):
    """Function that runs the command, and acts once this many chunks of the matrix are written."""

    def run(n_chunks, act, *args):
        written = []

        async def set_(self, key, value, original=zarr.storage.LocalStore.set):
            await original(self, key, value)
            written.extend([key] if key.startswith("X/c/") else [])
            if len(written) == n_chunks and key == written[-1]:
                act()

        with monkeypatch.context() as patch:
            patch.setattr(zarr.storage.LocalStore, "set", set_)
            return *command(*args), len(written)

    return run


def two(folder, kind, layout="dense"):
    """Paths of two batches, and of what replaces the second."""
    paths = [stored(folder, X, kind, layout, name) for name, X in (("a", A), ("b", B))]
    (folder / "new").mkdir()
    names = [of_old(path).name for path in paths]
    return names, paths[1], stored(folder / "new", OTHER, kind, layout, "b")


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("kind", "layout", "how", "n_chunks"),
    [
        ("h5ad", "dense", "synced", 8),
        ("h5ad", "csr", "overwritten", N_CHUNKS),
        ("zarr2", "csr", "swapped", 3),
        ("zarr3", "dense", "synced", N_CHUNKS),
        ("shards", "dense", "overwritten", 8),
    ],
)
def test_an_output_of_two_files_never_comes_to_be(command, acting, tmp_path, kind, layout, how, n_chunks):
    inputs, b, new = two(tmp_path, kind, layout)
    stored(tmp_path, A, "zarr3", name="out")
    old = contents(tmp_path / "out.zarr")
    replace = lambda: REPLACED[how](b, new)  # noqa: E731
    status, err, n_written = acting(n_chunks, replace, inputs, "--overwrite")
    assert n_written >= n_chunks
    X = ad.read_h5ad(b).X if kind == "h5ad" else ad.read_zarr(b).X
    np.testing.assert_array_equal(X if layout == "dense" else X.toarray(), OTHER)  # it was replaced
    assert (status, len(err)) == (2, 1)
    assert f"batch 1 ({b.name}) has changed since it was opened" in err[0]
    assert "out.zarr.partial: --overwrite replaces it" in err[0]  # and --resume does not continue it
    assert contents(tmp_path / "out.zarr") == old
    (tmp_path / "out.zarr").rename(tmp_path / "old.zarr")
    status, err = command(inputs, "--resume")
    assert (status, len(err)) == (2, 1)
    assert f"belongs to another run: input {b.name} differs from {b.name} of that run" in err[0]


def test_annotations_that_change_after_they_were_read(command, acting, tmp_path):
    inputs, b, new = two(tmp_path, "zarr3")
    with_other_obs(new)
    status, err, _ = acting(8, lambda: overwrite(b / "obs", new / "obs"), inputs)
    assert ad.read_zarr(b).obs["depth"].min() == 1000
    assert (status, len(err)) == (2, 1)
    assert f"batch 1 ({b.name}) has changed since it was opened (obs/" in err[0]
    assert not (tmp_path / "out.zarr").exists()
    assert command(inputs, "--overwrite") == (0, [])  # as the message says
    assert not list(tmp_path.glob("out.zarr.*"))


def test_a_resumed_run_is_compared_with_its_own_start(command, acting, tmp_path):
    inputs, b, new = two(tmp_path, "h5ad")

    def stop():
        raise OSError(28, os.strerror(28))

    assert acting(4, stop, inputs)[0] == 2
    status, err, n_written = acting(3, lambda: sync_files(b, new), inputs, "--resume")
    assert n_written >= 3
    assert (status, len(err)) == (2, 1)
    assert f"batch 1 ({b.name}) has changed since it was opened" in err[0]
    assert not (tmp_path / "out.zarr").exists()


def test_a_change_behind_a_link_is_seen_by_resume(command, acting, tmp_path):
    inputs, b, new = two(tmp_path, "zarr3")
    (b / "X" / "c").rename(tmp_path / "elsewhere")
    (b / "X" / "c").symlink_to(tmp_path / "elsewhere")

    def stop():
        raise OSError(28, os.strerror(28))

    assert acting(4, stop, inputs)[0] == 2
    sync_files(tmp_path / "elsewhere", new / "X" / "c")
    np.testing.assert_array_equal(ad.read_zarr(b).X, OTHER)
    status, err = command(inputs, "--resume")
    assert status == 2
    assert f"belongs to another run: input {b.name} differs" in err[0]
