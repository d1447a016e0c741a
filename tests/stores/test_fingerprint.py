"""What fingerprints of inputs cover: every file, also behind links, and nothing that programs leave there."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from helpers import values
from spoiling import A, B, chunk_files, of_old, stored, sync_files
from web_server import serving

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


@pytest.mark.parametrize("part", ["X/c/0/0", "X/c", "obs"])
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


def test_files_that_go_while_the_others_are_listed(tmp_path, monkeypatch):
    """As temporary files of other programs do: the others are listed all the same."""
    path = stored(tmp_path, B, "zarr3", name="b")
    before, gone = Fingerprint.of(Location.of(path)), []

    def stat(file, original=os.stat, **options):
        if str(file).endswith(".tmp"):
            gone.append(file)
            os.unlink(file)
        return original(file, **options)

    for part in ("X/c/0", "obs", "X"):
        (path / part / "1.tmp").touch()
    monkeypatch.setattr("mnndask.stores.file_versions.os.stat", stat)
    before.check(Location.of(path), "b")
    assert len(gone) == 3


def chunk_of(path, part):
    return chunk_files(path, part)[-1]


def archived(path):
    return shutil.make_archive(str(path), "zip", path)


@pytest.mark.parametrize("form", ["file", "memory", "web", "zip"])
def test_at_urls_with_and_without_matrices(tmp_path, form):
    """A change of X is left to the tasks that read it; all annotations count."""
    import fsspec

    path = of_old(stored(tmp_path, B, "zarr3", name="b"))
    new = stored(tmp_path, 2 * B, "zarr3", name="new")
    memory = fsspec.filesystem("memory")
    publish = {
        "file": lambda: None,
        "memory": lambda: memory.put(f"{path}/", "/b.zarr/", recursive=True),
        "web": lambda: None,
        "zip": lambda: archived(path),
    }[form]
    publish()
    with serving(tmp_path, "404") as server:
        urls = {
            "file": path.as_uri(),
            "memory": "memory://b.zarr",
            "web": f"{server}/b.zarr",
            "zip": f"zip::{path}.zip",
        }
        place = Location.of(urls[form])
        whole, annotations = Fingerprint.of(place), Fingerprint.of(place, {"X"})
        for one in (whole, annotations):
            assert len(one.files)
            one.check(place, "b")
        sync_files(chunk_of(path, "X"), chunk_of(new, "X"))
        publish()
        with pytest.raises(InputReadError, match="b has changed since it was opened"):
            whole.check(place, "b")
        if form in {"file", "web"}:  # the others are written anew as a whole
            annotations.check(place, "b")
        sync_files(chunk_of(path, "obs"), chunk_of(new, "obs"))
        publish()
        with pytest.raises(InputReadError, match="b has changed since it was opened"):
            annotations.check(place, "b")
    memory.store.clear()
