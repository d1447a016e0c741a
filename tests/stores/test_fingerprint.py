"""What fingerprints of inputs cover: every file, also behind links, and nothing that programs leave there."""

from __future__ import annotations

import os

import numpy as np
import pytest
from helpers import values
from spoiling import A, B, chunk_files, stored

from mnndask import mnn_correct
from mnndask.errors import InputReadError
from mnndask.stores.fingerprint import Fingerprint
from mnndask.stores.location import Location


def linked(folder, part):
    """A store of which a folder or file is elsewhere, behind a link of the same name."""
    path = stored(folder, B, "zarr3", name="b")
    elsewhere = folder / "elsewhere"
    (path / part).rename(elsewhere)
    (path / part).symlink_to(elsewhere)
    return path, elsewhere


@pytest.mark.parametrize("part", ["X/c/0/0", "X/c/1", "X/c", "X", "obs"])
def test_files_behind_links_are_covered_and_read(tmp_path, part):
    a = stored(tmp_path, A, "zarr3", name="a")
    path, elsewhere = linked(tmp_path, part)
    np.testing.assert_allclose(values(mnn_correct(a, path, k=5)[0]), mnn_correct(A, B, k=5)[0], atol=1e-10)
    before = Fingerprint.of(Location.of(path))
    before.check(Location.of(path), "b")
    file = max(file for file in [elsewhere, *elsewhere.rglob("*")] if file.is_file())
    os.utime(file, ns=(0, 10**18))
    assert Fingerprint.of(Location.of(path)).text != before.text
    with pytest.raises(InputReadError, match=rf"b has changed since it was opened \({part}"):
        before.check(Location.of(path), "b")


def test_links_that_lead_back_are_not_followed(tmp_path):
    path = stored(tmp_path, B, "zarr3", name="b")
    before = Fingerprint.of(Location.of(path)).text
    for name, target in {"self": path, "up": path.parent, "top": "/", "within": path / "X"}.items():
        (path / "X" / name).symlink_to(target)
    (path / "nowhere").symlink_to(path / "nothing")
    (path / "loop").symlink_to(path / "loop")
    (path.parent / "another.zarr").mkdir()
    (path.parent / "another.zarr" / "file").touch()
    assert list((path / "X").glob("up/another.zarr/file"))  # it is there, behind the link
    assert Fingerprint.of(Location.of(path)).text == before


@pytest.mark.parametrize("kind", ["zarr3", "zarr2", "h5ad"])
def test_any_file_that_changes_appears_or_goes_is_seen(tmp_path, kind):
    path = stored(tmp_path, B, kind, name="b")
    place = Location.of(path)
    before = Fingerprint.of(place)
    if path.is_file():
        os.utime(path, ns=(0, 10**18))
        with pytest.raises(InputReadError, match=r"b has changed since it was opened\.\n"):
            before.check(place, "b")
        return
    (path / ".DS_Store").touch()
    (path / "X" / ".nfs0001").touch()
    before.check(place, "b")
    new = path / "obs" / "new"
    new.touch()
    with pytest.raises(InputReadError, match=r"changed since it was opened \(obs/new\)"):
        before.check(place, "b")
    new.unlink()
    before.check(place, "b")
    chunk_files(path)[0].unlink()
    with pytest.raises(InputReadError, match=r"changed since it was opened \(files were removed\)"):
        before.check(place, "b")


def test_on_a_disk_other_values_of_the_same_size_and_time_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("os.major", lambda _: 8, raising=False)  # of a block device
    path = stored(tmp_path, B, "zarr3", name="b")
    place, chunk = Location.of(path), chunk_files(path)[0]
    before, old = Fingerprint.of(place), chunk.stat()
    new = chunk.with_name("new")
    new.write_bytes(bytes(old.st_size))
    os.utime(new, ns=(old.st_atime_ns, old.st_mtime_ns))
    new.replace(chunk)
    assert (chunk.stat().st_size, chunk.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    assert Fingerprint.of(place).text == before.text
    with pytest.raises(InputReadError, match=r"b has changed since it was opened \(X/c/0/0\)"):
        before.check(place, "b")
