"""What a power loss leaves of an unfinished output is read back: damaged files are written again."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from runs import N_CHUNKS, before_key, chunks, sample, write

from mnndask.errors import OutputError

ADATA = sample()


def empty(content):
    return b""


def short(content):
    return content[: len(content) // 2]


def zeros(content):
    return bytes(len(content))


def stale(content):
    """One bit differs, as where a block was not written."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def fail(_):
    what = "No space left on device"
    raise OSError(what)


@pytest.fixture
def stopped(place):
    """An unfinished output with seven chunks of X."""
    with before_key(lambda key, n: n > 7, fail), pytest.raises(OutputError, match="No space left"):
        write(ADATA, place.url)
    return place


def spoil(place, pattern, damage):
    [path, *_] = place.filesystem.glob(f"{place.growing}/{pattern}")
    before = place.filesystem.cat_file(path)
    place.filesystem.pipe_file(path, damage(before))
    assert place.filesystem.cat_file(path) != before


@pytest.mark.parametrize("damage", [empty, short, zeros, stale])
def test_damaged_chunks_of_the_matrix_are_written_again(stopped, damage):
    spoil(stopped, "X/c/*/0", damage)
    kept = len(stopped.filesystem.glob(f"{stopped.growing}/X/c/*/0"))
    said = rf"1 of the {kept} chunks of X that a stopped run has left are damaged"
    with pytest.warns(UserWarning, match=said):
        write(ADATA, stopped.url, resume=True)
    stopped.check(ADATA)


FILES = ["obs/depth/c/0", "layers/twice/c/0/0", "uns/note/seed/zarr.json"]


@pytest.mark.parametrize(("pattern", "damage"), [(FILES[0], stale), (FILES[1], stale), (FILES[2], empty)])
def test_damaged_annotations_are_written_again(stopped, pattern, damage):
    spoil(stopped, pattern, damage)
    with pytest.warns(UserWarning, match=r"1 of the \d+ files of annotations"):
        write(ADATA, stopped.url, resume=True)
    stopped.check(ADATA)


@pytest.mark.parametrize("damage", [empty, short])
def test_damaged_metadata_of_the_matrix_is_written_again(stopped, damage):
    spoil(stopped, "X/zarr.json", damage)
    write(ADATA, stopped.url, resume=True)
    stopped.check(ADATA)


def test_everything_is_synced_before_an_output_takes_its_place(disk, monkeypatch):
    """All files of the part before its root metadata, that and all folders before the rename."""
    synced, replaced = {}, []

    def state(path):
        status = os.stat(path)
        return status.st_mtime_ns, status.st_size

    def fsync(descriptor, original=os.fsync):
        original(descriptor)
        synced[os.readlink(f"/proc/self/fd/{descriptor}")] = state(descriptor)

    def replace(source, target, original=os.replace):
        if str(target) == disk.url:
            replaced.append(True)
            for path in [Path(source), *Path(source).rglob("*")]:
                assert synced[str(path)] == state(path), path
            synced.clear()
        elif str(target).endswith(".run.json"):
            assert synced[str(source)] == state(source)
        original(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write(ADATA, disk.url)
    assert replaced
    assert os.path.dirname(disk.url) in synced  # after the rename


# ---------------------------------------------------------------- a power cut, for real


def mounted(image, folder):
    folder.mkdir()
    try:
        return (
            subprocess.run(
                ["mount", "-o", "loop", image, folder], capture_output=True, check=False
            ).returncode
            == 0
        )
    except FileNotFoundError:
        return False


@contextmanager
def mount(image, folder):
    if not mounted(image, folder):
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def image(tmp_path):
    """An empty ext4 file system in a file."""
    out = tmp_path / "disk"
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4 here")
    with out.open("wb") as file:
        file.truncate(2**25)
    subprocess.run(["mkfs.ext4", "-q", out], check=True)
    return out


def test_a_run_is_continued_after_a_power_cut(command, check_same, image, tmp_path):
    """What was not synced is not in a copy of the disk; names of files may be, without their contents."""
    live, after = tmp_path / "live", tmp_path / "after"
    at_cut = {}

    def cut(key):
        at_cut.update(sizes(live))
        with (live / "other").open("w") as other:  # another program syncs its file, and with it the names
            os.fsync(other.fileno())
        shutil.copyfile(image, tmp_path / "copy")

    with mount(image, live), before_key(lambda key, n: n == 8 and not at_cut, cut):
        assert command(output="live/out.zarr") == (0, [])
    assert len(at_cut) == 7
    with mount(tmp_path / "copy", after):
        left = sizes(after)
        assert any(left.get(key) != size for key, size in at_cut.items())  # it was a power cut
        assert command("--resume", output="after/out.zarr")[0] == 0
        assert len(chunks(after / "out.zarr")) == N_CHUNKS
        check_same(after / "out.zarr")


def sizes(disk):
    folder = disk / "out.zarr.partial"
    return {path.parent.name: path.stat().st_size for path in folder.glob("X/c/*/0")}
