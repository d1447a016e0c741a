"""Space for the matrices of a fit on disk, and for outputs elsewhere."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import psutil
import pytest
from helpers import make_batches

from mnndask import mnn_correct
from mnndask._resources import FreeMemory
from mnndask.engine.space_checks import Output, written_to
from mnndask.errors import ScratchError
from mnndask.stores.disk_space import Space, existing, is_in_memory
from mnndask.stores.scratch import StoredMatrix

LIMIT = 300_000


@pytest.fixture(autouse=True)
def _tiny_tiles(monkeypatch):
    monkeypatch.setattr("mnndask.engine.memory_budget.FEWEST_TILE_ROWS", 1)


def leaves(monkeypatch, free):
    monkeypatch.setattr("mnndask.stores.disk_space.shutil.disk_usage", lambda _: SimpleNamespace(free=free))


def largest_of(folder, monkeypatch):
    """Function that gives the most bytes that files in a folder took while matrices were written there."""
    sizes, put = [0], StoredMatrix.__setitem__

    def measured(self, key, values):
        put(self, key, values)
        sizes.append(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))

    monkeypatch.setattr(StoredMatrix, "__setitem__", measured)
    return lambda: max(sizes)


@pytest.mark.parametrize("options", [{}, {"n_components": 10}, {"cos_norm_out": False}])
def test_a_fit_on_disk_needs_at_least_what_it_says(options, scratch, monkeypatch, caplog):
    """So nothing is refused that would fit."""
    most = largest_of(scratch, monkeypatch)
    said = []
    monkeypatch.setattr("mnndask.engine.space_checks.in_words", lambda n: said.append(n) or str(n))
    with caplog.at_level(logging.INFO, logger="mnndask"):
        mnn_correct(*make_batches(), k=5, memory_limit=LIMIT, n_jobs=1, scratch=scratch, **options)
    assert any(record.getMessage().startswith("scratch: at least") for record in caplog.records)
    assert 0.5 * most() < said[0] <= most()


def test_too_little_scratch_space_is_found_before_the_fit(scratch, monkeypatch):
    leaves(monkeypatch, 1000)
    with pytest.raises(
        ScratchError, match=r"needs at least .*iB in the scratch folder .*, but only 0\.98 kiB are"
    ):
        mnn_correct(*make_batches(), k=5, memory_limit=LIMIT, n_jobs=1, scratch=scratch)


def test_files_in_memory_have_what_the_work_leaves(scratch, monkeypatch):
    """Of control groups and of machines: the disk may seem empty."""
    leaves(monkeypatch, 2**40)
    free = [FreeMemory(LIMIT + 1024, "cgroup /a")]
    monkeypatch.setattr("mnndask.engine.space_checks.is_in_memory", lambda _: True)
    monkeypatch.setattr("mnndask.engine.space_checks.free_memory", lambda: free[-1])
    options = {"k": 5, "memory_limit": LIMIT, "n_jobs": 1, "scratch": scratch}
    said = r"only 1\.00 kiB are free for it, as it is in memory\.\nName a folder with more space, on a disk: "
    with pytest.raises(ScratchError, match=said):
        mnn_correct(*make_batches(), **options)
    free.append(FreeMemory(2**30, "free memory"))
    mnn_correct(*make_batches(), **options)


def test_space_elsewhere_is_not_known(caplog):
    with caplog.at_level(logging.INFO, logger="mnndask"), written_to(Output(None, False)):
        mnn_correct(*make_batches(), k=5)
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("output: ")]
    assert line.endswith(" compressed; whether there is space for it is not known")


def test_calls_without_an_output_announce_none(caplog):
    with caplog.at_level(logging.INFO, logger="mnndask"):
        mnn_correct(*make_batches(), k=5)
    assert not [r for r in caplog.records if r.getMessage().startswith("output: ")]


def test_space_is_that_of_the_nearest_folder(tmp_path, monkeypatch):
    leaves(monkeypatch, 5000)
    assert existing(tmp_path / "none" / "none") == tmp_path.resolve()
    partial = tmp_path / "out.zarr.partial"
    for name, size in (("X", 700), ("obs", 20)):
        (partial / name).mkdir(parents=True)
        (partial / name / "c").write_bytes(b"x" * size)
    for continued, space in (
        (["X"], (5000, 700)),
        (["X", "obs"], (5000, 720)),
        (["layers/Y"], (5000, 0)),
        ([], (5720, 0)),
    ):
        assert Space.of(partial, *continued) == Space(tmp_path.resolve(), *space)


def test_folders_in_memory_are_known_by_the_file_system_nearest_to_them(monkeypatch, tmp_path):
    mounts = [("/", "ext4"), (str(tmp_path), "tmpfs"), (str(tmp_path / "disk"), "ext4")]
    parts = [SimpleNamespace(mountpoint=at, fstype=kind) for at, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: parts)
    for folder, in_memory in ((tmp_path, True), (tmp_path / "a", True), (tmp_path / "disk" / "a", False)):
        assert is_in_memory(folder) is in_memory
    assert not is_in_memory(tmp_path.parent)
