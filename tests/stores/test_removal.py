"""What was removed in part never opens, in whichever order a file system lists it."""

from __future__ import annotations

import os
import shutil

import anndata as ad
import fsspec
import numpy as np
import pytest
import zarr
from helpers import zarr_store

from mnndask.stores.location import Location


class Killed(BaseException):
    """The process ends."""


class Sorted:
    """What os.scandir gives, in an order that is told."""

    def __init__(self, entries, key):
        self.entries, self.key = entries, key

    def __enter__(self):
        with self.entries as found:
            return iter(sorted(found, key=self.key))

    def __exit__(self, *_):
        pass


# A store's own metadata comes last; or chunks of X come first, as in the worst case.
ORDERS = {
    "metadata last": lambda entry: entry.name == "zarr.json" or entry.name[0] == ".",
    "X first": lambda entry: entry.name != "X",
}


def killing(patch, kind, names, n):
    """Let n files be removed, and no more; gives those that were."""
    removed = []

    def hooked(original):
        def remove(*given, **options):
            if len(removed) == n:
                raise Killed
            removed.append(given)
            return original(*given, **options)

        return remove

    for name in names:
        patch.setattr(kind, name, hooked(getattr(kind, name)))
    return removed


def opening(location, name):
    """Arrays in what opens at a place of a store; None if nothing opens."""
    try:
        return dict(
            zarr.open_group(location.store(read_only=True), path=name, mode="r").members(max_depth=None)
        )
    except (FileNotFoundError, KeyError):
        return None


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_store_that_was_removed_in_part_does_not_open(tmp_path, order, version):
    def scandir(path=".", original=os.scandir):
        return Sorted(original(path), order)

    with zarr_store(tmp_path / "sound", version) as root:
        ad.io.write_elem(root, "/", ad.AnnData(np.ones((4, 2)), obs={"depth": range(4)}))
    n, left = 0, True
    while left:
        folder = tmp_path / f"{n}"
        shutil.copytree(tmp_path / "sound", folder)
        whole = set(folder.rglob("*"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "scandir", scandir)
            removed = killing(patch, os, ("unlink",), n)
            try:
                Location.of(folder).remove()
            except Killed:
                assert set(folder.rglob("*")) < whole or n == 0
        assert len(removed) <= n
        left = folder.exists()
        if n > 0 and left:
            check_closed(Location.of(folder), version)
        n += 1
    assert n > 15


def check_closed(location, version):
    # Of zarr 2, nothing opens once the first of its metadata is gone but the store itself, for a moment.
    found = opening(location, "")
    if found is not None:
        assert version == 2
        assert np.all(found["X"][:] == 1)


def test_objects_that_were_removed_in_part_do_not_open():
    filesystem = fsspec.filesystem("memory")
    for n in range(8):
        filesystem.store.clear()
        location = Location.of(f"memory://bucket/{n}.zarr")
        # zz is removed before zarr.json where names are removed in reversed order.
        array = zarr.create_group(location.store()).create_array("zz", shape=4, chunks=1, dtype="f8")
        array[:] = 1.0
        with pytest.MonkeyPatch.context() as patch:
            removed = killing(patch, type(filesystem), ("rm_file",), n)
            try:
                location.remove()
            except Killed:
                assert len(removed) == n
        assert opening(location, "") is None or n == 0
    assert not filesystem.find("/bucket")
