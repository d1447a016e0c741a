"""Runs that are stopped while a new output takes the place of an older one: one is whole, and named."""

from __future__ import annotations

import os
import shutil

import anndata as ad
import pytest
from runs import before_key, sample, write

from mnndask.errors import OutputError, OutputExistsError


class Killed(BaseException):
    """The process ends."""


OLDER, NEW, OTHER = (sample(seed) for seed in range(3))


@pytest.fixture
def between(disk, monkeypatch):
    """A run was killed between its two renames."""
    write(OLDER, disk.url)

    def replace(source, target, original=os.replace):
        if str(target) == f"{disk.url}.replaced":
            raise Killed
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            write(NEW, disk.url, overwrite=True)
    os.rename(disk.url, f"{disk.url}.replaced")
    assert disk.beside() == ["out.zarr.partial", "out.zarr.replaced", "out.zarr.run.json"]
    return disk


def refused(place, match, **options):
    before = contents(place)
    with pytest.raises(OutputExistsError, match=match):
        write(OTHER, place.url, **options)
    assert contents(place) == before


def contents(place):
    folder = place.url.rpartition("/")[0]
    return {path: place.filesystem.cat_file(path) for path in place.filesystem.find(folder)}


def test_nothing_is_in_place_for_a_moment(between):
    refused(between, r"out.zarr.partial is the new output, .*out.zarr.replaced the older one, and both are")
    write(NEW, between.url, resume=True)
    between.check(NEW)


def test_advice_holds(between):
    """Each of the two can be opened where the message says that it is, and be renamed."""
    between.check(OLDER, ".replaced")
    between.check(NEW, ".partial")
    os.rename(f"{between.url}.replaced", between.url)
    refused(between, r"An unfinished output, .*out.zarr.partial, exists.*\n.* continues it with --resume")
    write(NEW, between.url, resume=True)
    between.check(NEW)


def test_another_run_replaces_both_and_there_is_an_output_all_the_time(between):
    present, root = [], f"{between.url}/zarr.json"
    with before_key(lambda key, n: n > 0, lambda _: present.append(os.path.exists(root))):
        write(OTHER, between.url, overwrite=True)
    assert all(present)
    between.check(OTHER)


def test_a_run_that_is_continued_and_fails_keeps_the_older_output(between):
    between.remove("X/c/*/0")

    def fail(_):
        what = "No space left on device"
        raise OSError(what)

    with before_key(lambda key, n: n > 0, fail), pytest.raises(OutputError, match="No space"):
        write(NEW, between.url, resume=True)
    assert not between.opens(".partial")
    older = ad.read_zarr(between.url)
    assert (older.X == OLDER.X).all()
    write(NEW, between.url, resume=True)
    between.check(NEW)


@pytest.mark.parametrize("begun", [False, True], ids=["not begun", "begun"])
def test_a_run_was_killed_while_it_removed_the_older_output(between, begun):
    os.rename(f"{between.url}.partial", between.url)
    if begun:
        between.remove("zarr.json", of=f"{between.url}.replaced")
        between.remove("obs", of=f"{between.url}.replaced")
    for options in ({}, {"resume": True}):
        refused(between, r"The output .*out.zarr exists", **options)
    write(OTHER, between.url, overwrite=True)
    between.check(OTHER)


def test_an_older_output_of_someone_else_is_not_removed(disk):
    write(NEW, disk.url)
    shutil.copytree(disk.url, f"{disk.url}.replaced")
    refused(disk, r"A complete older output, .*out.zarr.replaced, exists", overwrite=True)


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}], ids=str)
def test_advice_looks_whether_the_older_output_is_whole(disk, options):
    write(OLDER, f"{disk.url}.replaced.zarr")
    os.rename(f"{disk.url}.replaced.zarr", f"{disk.url}.replaced")
    refused(disk, r"A complete older output, .*out.zarr.replaced, exists.*\nTo keep it, rename it", **options)
    disk.remove("X/c/*/0", of=f"{disk.url}.replaced")
    refused(disk, r"out.zarr.replaced, exists, but lacks values.*\nRemove it; or, if you know", **options)
    disk.remove("zarr.json", of=f"{disk.url}.replaced")
    refused(disk, r"out.zarr.replaced exists, which is no complete store.*\nRemove it, unless", **options)
