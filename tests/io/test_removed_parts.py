"""What something else removes while a run writes, or before it is continued, is missed: no half output."""

from __future__ import annotations

import warnings

import pytest
from runs import before_key, sample, write

from mnndask.errors import InputError, OutputError, OutputExistsError

VICTIMS = {
    "everything": "",
    "obs": "obs",
    "a chunk of obs": "obs/depth/c/0",
    "layers": "layers",
    "metadata of a layer": "layers/twice/zarr.json",
    "uns": "uns",
    "X": "X",
    "metadata of X": "X/zarr.json",
    "a chunk of X": "X/c/*/0",
}
STAGES = {
    "among annotations": lambda key, n: key == "uns/note/seed/zarr.json",
    "among chunks": lambda key, n: n == 7,
    "at the end": lambda key, n: key == "zarr.json",
}
FEW = ("everything", "obs", "a chunk of obs", "a chunk of X")
CASES = [
    *(("disk", "among annotations", victim) for victim in FEW[:3]),
    *(("disk", "among chunks", victim) for victim in VICTIMS),
    *(("disk", "at the end", victim) for victim in FEW),
    *(("bucket", "among chunks", victim) for victim in FEW),
]


@pytest.mark.parametrize(("where", "stage", "victim"), CASES, ids=map(", ".join, CASES))
def test_what_is_removed_in_mid_run_is_missed(request, where, stage, victim):
    """An older output on a disk stays; one in an object store was removed first."""
    place, older, adata = request.getfixturevalue(where), sample(1), sample()
    before = {}
    if place.is_local:
        write(older, place.url)
        before = place.contents()
    removing = before_key(STAGES[stage], lambda _: place.remove(VICTIMS[victim]))
    with removing, pytest.raises(OutputError, match="Something else removed or changed"):
        write(adata, place.url, overwrite=True)
    assert not place.filesystem.exists(f"{place.growing}/zarr.json")
    if place.is_local:
        assert place.contents() == before
    resume = place.filesystem.exists(place.growing)
    with warnings.catch_warnings(action="ignore"):  # that they are written again
        write(adata, place.url, resume=resume, overwrite=not resume)
    place.check(adata)


def stop(place, adata, **options):
    """Have a run fail after seven chunks."""

    def fail(_):
        what = "No space left on device"
        raise OSError(what)

    with before_key(lambda key, n: n > 7, fail), pytest.raises(OutputError, match="No space left"):
        write(adata, place.url, **options)


@pytest.mark.parametrize(
    "victim", ["obs", "a chunk of obs", "metadata of a layer", "X", "metadata of X", "a chunk of X"]
)
def test_what_is_gone_before_a_run_is_continued_is_written_again(place, victim):
    adata = sample()
    stop(place, adata)
    place.remove(VICTIMS[victim])
    if "X" in victim:
        write(adata, place.url, resume=True)
    else:
        with pytest.warns(UserWarning, match=r"Something else removed or changed \d+ of the \d+ files"):
            write(adata, place.url, resume=True)
    place.check(adata)


def test_a_part_without_its_record_is_not_continued(place):
    adata = sample()
    stop(place, adata)
    place.remove("", of=f"{place.url}.run.json")
    with pytest.raises(InputError, match=r"has no record of a run that could be continued.\nStart over"):
        write(adata, place.url, resume=True)
    assert place.filesystem.glob(f"{place.growing}/X/c/*/0")
    write(adata, place.url, overwrite=True)
    place.check(adata)


@pytest.mark.parametrize("content", [b"mine", b"{}", b'{"format": "mnndask-run 2"}'])
def test_a_file_in_the_place_of_the_record_is_left_alone(place, content):
    path = f"{place.url}.run.json"
    place.filesystem.pipe_file(path, content)
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputExistsError, match=r"out.zarr.run.json exists, which is no record"):
            write(sample(), place.url, **options)
    assert place.filesystem.cat_file(path) == content


NAMES = ["x.partial", f"x.{'0f' * 16}.partial", "zarr.json.partial", "mnndask-run", "out.zarr.run.json"]


def test_elements_may_be_called_as_bookkeeping_is(place):
    adata = sample()
    for name in NAMES:
        adata.obs[name] = adata.obs["depth"]
        adata.layers[name] = adata.layers["twice"]
        adata.obsm[name] = adata.obsm["X_scVI"]
        adata.uns[name] = {name: 1}
    stop(place, adata)
    write(adata, place.url, resume=True)
    place.check(adata)
