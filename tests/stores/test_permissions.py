"""Files and folders that may not be read or written are named, with a remedy for this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import told, values
from spoiling import OPENERS, A, B, chunk_files, stored

import mnndask
from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.errors import InputReadError, ScratchError

pytestmark = pytest.mark.usefixtures("short_record")

NOBODY = 65534


@contextmanager
def unprivileged():
    """Without root's rights, for which modes do not count."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(NOBODY)
    except PermissionError:
        pytest.skip("root may not act as another user here")
    try:
        if not os.access(mnndask.__file__, os.R_OK, effective_ids=True):
            pytest.skip("another user may not read this package")
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder():
    """A folder that any user may read: those of tmp_path are their owner's."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    for part in (path, *path.rglob("*")):
        part.chmod(0o755)
    shutil.rmtree(path)


def lock(path):
    path.chmod(0)
    return path


def check(error):
    lines = str(error).splitlines()
    assert len(lines) == 2
    assert "permission denied" in lines[0]
    assert not {"credentials", "network", "Make", "again"} & set(lines[1].split())
    return lines


def batches(folder, kind="zarr"):
    return [stored(folder, X, kind, name=name) for name, X in (("a", A), ("b", B))]


@pytest.mark.parametrize(
    ("kind", "part"),
    [("h5ad", ""), *(("zarr", part) for part in ("", "zarr.json", "X/zarr.json", "X/c", "obs/depth/c/0"))],
)
def test_inputs_that_may_not_be_read(folder, kind, part):
    paths = batches(folder, kind)
    lock(paths[1] / part if part else paths[1])
    with unprivileged(), pytest.raises(InputReadError) as caught:
        mnn_correct(*paths, k=5)
    assert str(paths[1]) in check(caught.value)[0]


@pytest.mark.parametrize("opened", OPENERS.values(), ids=OPENERS)
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_chunks_that_may_no_longer_be_read(folder, kind, opened):
    paths = batches(folder, kind)
    result = mnn_correct(*map(opened, paths), k=5)[0]
    lock(paths[1] if kind == "h5ad" else chunk_files(paths[1])[0])
    with unprivileged(), pytest.raises(InputReadError, match=r"batch 1 .*: X.* \(of|, rows") as caught:
        values(result)
    check(caught.value)


def refusal(capsys, *words):
    with unprivileged(), pytest.raises(SystemExit) as end:
        main(["correct", *map(str, words), "-k", "5"])
    assert end.value.code == 2
    (line,) = told(capsys.readouterr().err)
    assert "permission denied" in line
    assert "credentials" not in line
    return line


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_inputs_in_a_folder_that_may_not_be_entered(folder, kind, capsys, tmp_path):
    paths = batches(folder, kind)
    lock(folder)
    assert f"{paths[0]} cannot be read" in refusal(capsys, *paths, "-o", tmp_path / "out.zarr")


@pytest.mark.parametrize("mode", [0o555, 0])
def test_a_folder_in_which_no_output_can_be_made_is_told_before_any_work(folder, mode, capsys, monkeypatch):
    monkeypatch.setattr("mnndask.cli.correct.mnn_correct", None)
    paths, place = batches(folder), folder / "results"
    place.mkdir()
    place.chmod(mode)
    line = refusal(capsys, *paths, "-o", place / "out.zarr")
    assert f"Nothing can be created in the folder of the output, {place}" in line
    if not mode:
        below = place / "old"
        assert f"the folder of the output, {below}" in refusal(capsys, *paths, "-o", below / "out.zarr")


@pytest.mark.parametrize("option", ["--overwrite", "--resume"])
def test_an_unfinished_output_of_someone_else(folder, option, capsys):
    paths, place = batches(folder), folder / "results"
    place.mkdir()
    place.chmod(0o777)
    (place / "out.zarr.partial" / "X").mkdir(parents=True)
    lock(place / "out.zarr.partial")
    line = refusal(capsys, *paths, "-o", place / "out.zarr", option)
    assert f"The output {place / 'out.zarr'} could not be written" in line
    assert "Write to another place" in line


@pytest.mark.parametrize("mode", [0o555, 0])
def test_scratch_that_may_not_be_written(folder, mode):
    paths, place = batches(folder), folder / "work"
    (place / "scratch").mkdir(parents=True)
    (place if not mode else place / "scratch").chmod(mode)
    with unprivileged(), pytest.raises(ScratchError, match=r"[Pp]ermission denied") as caught:
        mnn_correct(*paths, k=5, scratch=place / "scratch", memory_limit="200kB", sketch_size=None, n_jobs=1)
    assert "scratch=" in str(caught.value).splitlines()[1]
