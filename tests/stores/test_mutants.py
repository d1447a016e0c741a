"""Randomly damaged stores are clear errors, or give what they contain (``benchmarks.fuzz`` damages many)."""

from __future__ import annotations

import shutil
import warnings

import h5py
import numpy as np
import pytest
import zarr
from mutant_runs import FAULT, RIGHT, Done, Mutants, judged_error, unclear
from mutant_stores import KINDS, write
from mutants import mutate
from stored_truth import absent_arrays, differing, files, unsound_sparse


@pytest.fixture(scope="module")
def mutants(tmp_path_factory):
    return Mutants(tmp_path_factory.mktemp("mutants"), seed=0)


@pytest.fixture(scope="module")
def sparse_store(mutants):
    return mutants.sound("zarr3-csr")[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(0, len(KINDS) + 2, 2))
def test_mutants(number, mutants):
    outcome = mutants.run(number)
    assert outcome.verdict != FAULT, outcome


def test_a_mutant_is_determined_by_its_number(sparse_store, tmp_path):
    copies = [tmp_path / name for name in "abc"]
    for path, number in zip(copies, (10, 10, 11), strict=True):
        shutil.copytree(sparse_store, path)
        mutate(path, np.random.default_rng([0, number]))
    assert files(copies[0]) == files(copies[1]) != files(copies[2])
    assert files(copies[0]) != files(sparse_store)


# ---------------------------------------------------------------- the judge


@pytest.mark.parametrize(
    ("done", "problem"),
    [
        (Done(1, "", "Traceback (most recent call last):\n"), "exit 1"),
        (Done(139, "", ""), "exit 139"),
        (Done(2, "", "mnndask: the input is damaged.\n"), "does not name the store"),
        (Done(2, "", "RuntimeWarning: x\nmnndask: STORE is damaged.\n"), "foreign lines"),
        (Done(2, "corrected", "mnndask: STORE is damaged.\n"), "said 'corrected'"),
    ],
)
def test_errors_that_are_not_clear_are_faults(done, problem, tmp_path):
    path = tmp_path / "m.zarr"
    verdict, detail = judged_error(done._replace(err=done.err.replace("STORE", str(path))), path, set())
    assert verdict == FAULT
    assert problem in detail


def test_what_an_error_leaves_behind_is_a_fault(tmp_path):
    done = Done(2, "", f"mnndask: {tmp_path / 'm.zarr'} is damaged. Copy it again.\n")
    assert judged_error(done, tmp_path / "m.zarr", set())[0] != FAULT
    assert judged_error(done, tmp_path / "m.zarr", {"out.zarr"})[0] == FAULT
    assert unclear(done) is None


def test_lost_values_are_seen(sparse_store, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(sparse_store, path)
    assert unsound_sparse(path) is None
    assert absent_arrays(path, sparse_store) == []
    array = zarr.open_group(path, mode="r+", use_consolidated=False)["layers/twice/indptr"]
    array[-1] = array[-2]
    assert unsound_sparse(path) == "layers/twice"
    next((path / "obs" / "depth" / "c").iterdir()).unlink()
    assert absent_arrays(path, sparse_store) == ["obs/depth"]


def test_other_outputs_are_seen(sparse_store, tmp_path):
    path = tmp_path / "a.zarr"
    shutil.copytree(sparse_store, path)
    assert differing(path, sparse_store) == []
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    root["obs/depth"][3] += 1
    root["X/data"][0] *= 1 + 1e-9  # rounding
    assert files(path)["X/data/c/0"] != files(sparse_store)["X/data/c/0"]
    assert differing(path, sparse_store) == ["obs/depth"]
    root["X/data"][0] += 1
    del root["layers/twice"]
    assert differing(path, sparse_store) == ["X", "layers/twice", "obs/depth"]


def test_a_sound_file_gives_right_values(mutants, monkeypatch):
    monkeypatch.setattr("mutant_runs.mutate", lambda path, rng: "nothing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in (7, 10):
            assert mutants.run(number).verdict == RIGHT


def test_all_kinds_of_stores_are_what_they_are_called(tmp_path):
    for kind in ("zarr2-dense", "shards-dense", "h5ad-csc"):
        (tmp_path / kind).mkdir()
        path = write(tmp_path / kind, kind)[0]
        if path.is_file():
            with h5py.File(path) as file:
                assert file["X"].attrs["encoding-type"] == "csc_matrix"
        else:
            array = zarr.open_group(path, mode="r")["X"]
            assert array.metadata.zarr_format == (2 if kind.startswith("zarr2") else 3)
            assert (array.shards is not None) == kind.startswith("shards")
