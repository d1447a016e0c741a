"""Fitted values that other processes load from a run store: the same values, loaded once."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from helpers import GENES, make_batches

import mnndask
from mnndask import MNNCorrector, mnn_correct
from mnndask.engine import shared_model as shared
from mnndask.engine.shared_model import KINDS, SharedModel
from mnndask.errors import ScratchError
from mnndask.stores.location import Location
from mnndask.stores.object_tree import read_tree, write_tree

OPTIONS = {"k": 5, "var_index": GENES, "var_subset": GENES[::2], "svd_dim": 2, "compute_angle": True}


@pytest.fixture
def other_process(monkeypatch):
    """As if what is unpickled were so elsewhere; counts what is read there."""
    monkeypatch.setattr(shared, "_own", {})
    monkeypatch.setattr(shared, "_loaded", shared.OrderedDict())
    reads = []
    monkeypatch.setattr(
        shared, "read_tree", lambda place, kinds: reads.append(place) or read_tree(place, kinds)
    )
    return reads


@pytest.fixture(params=["local", "memory"])
def place(tmp_path, request):
    return Location.of(tmp_path if request.param == "local" else f"memory://{tmp_path}")


@pytest.mark.parametrize("limit", [None, 200_000], ids=["in memory", "on disk"])
def test_a_model_that_is_read_corrects_the_same(place, limit, tmp_path):
    X = make_batches()
    options = OPTIONS | {"memory_limit": limit, "scratch": tmp_path}
    model = MNNCorrector(**options).fit([da.from_array(x, chunks=(40, -1)) for x in X]).model_
    write_tree(model, place, KINDS)
    read = read_tree(place, KINDS)
    for batch in (0, 1, 2):
        rows = np.arange(len(X[batch]))
        expected = model.correct(batch, X[batch], rows)
        np.testing.assert_allclose(read.correct(batch, X[batch], rows), expected, rtol=0, atol=1e-13)
    # Products depend on how a processor's memory is aligned, in the last bit.
    np.testing.assert_allclose(read.angles(1, X[1]), model.angles(1, X[1]), rtol=1e-13)
    assert read.names == model.names
    assert read.spaces.dtype == np.float64


def test_what_is_there_twice_is_stored_once(place):
    """The reference of each step is the first rows of one matrix."""
    X = np.random.default_rng(0).random((100, 10))
    whole = np.concatenate([X, X])
    write_tree([whole, whole[:50], whole[:100], {"again": whole}, whole[3:7], np.float32(2)], place, KINDS)
    read = read_tree(place, KINDS)
    np.testing.assert_array_equal(read[1], whole[:50])
    assert np.shares_memory(read[0], read[2])
    assert read[3]["again"] is read[0]
    np.testing.assert_array_equal(read[4], whole[3:7])
    assert read[5] == 2.0
    stored = zarr.open_group(place.store(), mode="r")
    assert sorted(array.shape for _, array in stored.arrays()) == [(4, 10), (200, 10)]


@pytest.mark.parametrize("value", [object(), {1, 2}, [lambda: 1], np.array([object()])])
def test_only_known_kinds_are_stored(value, place):
    with pytest.raises((TypeError, ValueError)):
        write_tree(value, place, KINDS)


def test_unknown_kinds_are_not_made(place):
    group = zarr.open_group(place.store(), mode="a")
    group.attrs["tree"] = {"number": 0, "kind": "Popen", "fields": {"args": "true"}}
    with pytest.raises(KeyError):
        read_tree(place, KINDS)


def test_nothing_is_unpickled_from_files():
    for source in Path(mnndask.__file__).parent.rglob("*.py"):
        assert not re.search(r"pickle\.load|allow_pickle=True|joblib\.load", source.read_text())


def test_a_copy_of_a_result_loads_the_model_once(other_process, tmp_path):
    lazy = [da.from_array(X, chunks=(13, -1)) for X in make_batches()]
    result = mnn_correct(*lazy, k=5, scratch=tmp_path)[0]
    assert not list(tmp_path.iterdir())  # while no other process needs it
    text = pickle.dumps(result)
    assert len(list(tmp_path.iterdir())) == 1
    copied = pickle.loads(text)
    shared._own.clear()
    np.testing.assert_array_equal(copied.compute(), result.compute())
    assert len(other_process) == 1


def test_few_loaded_values_are_kept(other_process, tmp_path):
    for i in range(5):
        copied = pickle.loads(pickle.dumps(SharedModel([np.arange(i)], Location.of(tmp_path))))
        shared._own.clear()
        assert len(copied.get()[0]) == len(copied.get()[0]) == i
    assert len(other_process) == 5
    assert len(shared._loaded) == shared.MOST_LOADED


def test_a_model_that_is_gone(other_process, tmp_path):
    copied = pickle.loads(pickle.dumps(SharedModel([1], Location.of(tmp_path / "."))))
    shared._own.clear()
    for folder in tmp_path.iterdir():
        Location.of(folder).remove()
    with pytest.raises(ScratchError, match=r"The fitted model was not found at .*\nFit again if"):
        copied.get()
