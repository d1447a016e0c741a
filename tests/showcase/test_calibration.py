"""Random splits and effects of known size, at toy size; other libraries are stood in for."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from benchmarks import calibration
from benchmarks import calibration_measures as measures
from benchmarks import calibration_methods as methods
from benchmarks import calibration_sets as sets
from mnndask.datasets.simulated import simulate


@pytest.fixture(autouse=True)
def absent(monkeypatch):
    """Libraries that cannot be imported, installed or not."""
    for name in ("harmonypy", "scanorama"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def calibrate(tmp_path, capsys):
    def run(*args):
        calibration.main(["--toy", "--json", str(tmp_path / "figures.json"), *map(str, args)])
        told = json.loads((tmp_path / "figures.json").read_text())
        assert told["benchmark"] == "calibration"
        return told["figures"], capsys.readouterr().out

    return run


def rows_of(figures, **wanted):
    return [row for row in figures["rows"] if all(row[key] == value for key, value in wanted.items())]


def test_recommended_settings_leave_a_split_alone_and_say_so(calibrate):
    figures, said = calibrate("--splits", "halves", "3 parts", "--effects", "all")
    assert set(figures["skipped"]) == {"harmonypy", "scanorama"}
    assert "harmonypy: skipped, cannot be imported: " in said
    halves = {row["method"]: row for row in rows_of(figures, of="halves")}
    refined, published, narrow = (
        halves[name] for name in (methods.REFINED, methods.PUBLISHED, "sigma 0.1 in genes")
    )
    assert refined["displacement"] < 0.5 * published["displacement"] < narrow["displacement"]
    assert refined["kept"] > published["kept"] > narrow["kept"]
    assert refined["genes"] > narrow["genes"]
    assert refined["no_effect"] == 1
    assert "no_effect" not in published
    assert {"left", "factor"} <= rows_of(figures, of="all", method=methods.REFINED)[0].keys()
    assert said.count("| simulated | recommended | ") == 2  # splits, and the effect
    assert "| simulated | 3 parts | " in said


def test_each_given_file_is_a_batch_of_its_own(calibrate, tmp_path):
    batches = simulate([90, 80], 120, 2, seed=1)
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for path, batch in zip(paths, batches, strict=True):
        batch.write_h5ad(path)
    asked = ["--data", *paths, "--methods", methods.PUBLISHED, "--splits", "halves", "--effects", "a half"]
    figures, said = calibrate(*asked)
    assert {row["batch"] for row in figures["rows"]} == {"a", "b", "simulated"}
    assert "| given | published defaults | a half | " in said
    with pytest.raises(SystemExit, match=r"a\.h5ad has no column line in obs; name that"):
        calibrate(*asked, "--label", "line")
    with pytest.raises(SystemExit, match="unknown splits: quarters; known: halves, "):
        calibrate("--splits", "quarters")


def test_an_effect_is_the_mean_difference_of_a_type_or_of_those_that_are_shared():
    X, Y = np.array([[0.0, 1], [2, 1], [5, 5], [9, 9]]), np.array([[4.0, 0], [6, 0], [5, 6]])
    effect = sets._by_type((X, np.array(["t", "t", "u", "own"])), (Y, np.array(["t", "t", "u"])))
    np.testing.assert_array_equal(effect, [[4, -1], [4, -1], [0, 1], [2, 0]])
    batch = sets.OneBatch("b", X, np.array(["t", "t", "u", "own"]), effect)
    where = np.array([True, False, False, True])
    np.testing.assert_array_equal(batch.shifted(0.5, where), [[2, 0.5], [2, 1], [5, 5], [10, 9]])
    np.testing.assert_array_equal(batch.shifted(2, where)[0], [8, 0])  # not below 0


@pytest.mark.parametrize("name", sets.SPLITS)
def test_parts_have_their_shares_and_every_cell_is_in_one(name):
    X = np.zeros((200, 1))
    part = sets.OneBatch("b", X, np.zeros(200), X).parts(sets.SPLITS[name], 3)
    np.testing.assert_allclose(np.bincount(part) / 200, sets.SPLITS[name], atol=0.005)
    assert (np.diff(part) < 0).any()  # at random


def test_changes_are_zero_of_cells_that_stay_and_grow_with_movement():
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1], 30)
    X = rng.normal(size=(60, 4)) + 8 * types[:, None]
    every = np.ones(60, bool)
    same = measures.changes(X, X, every, types)
    assert same == {"displacement": 0, "rank": 0, "kept": 1, "clusters": 1}
    assert measures.changes(X, X + 3, every, types)["rank"] == 0  # all moved together
    moved = measures.changes(X, X + 4 * rng.normal(size=X.shape), every, types)
    assert moved["displacement"] > 1
    assert moved["rank"] > 0
    assert max(moved["kept"], moved["clusters"]) < 1


def test_the_effect_that_is_left_is_that_between_parts_whatever_both_moved_by():
    rng = np.random.default_rng(0)
    types, second = np.repeat(["t", "u"], 20), np.tile([True, False], 20)
    X, effect = rng.normal(size=(40, 3)), np.array([1.0, 2, 2])
    with_ = X + np.outer(second, effect)
    assert measures.effect_left((X, with_, with_), types, second) == pytest.approx(1)
    after = X + np.outer(second, effect / 2) + 7
    assert measures.effect_left((X, with_, after), types, second) == pytest.approx(0.25)


def test_markers_of_equal_values_are_the_same():
    rng = np.random.default_rng(0)
    types = np.repeat(["t", "u"], 50)
    X = rng.normal(size=(100, 30))
    X[:50, :10] += 2
    assert measures.markers(X, types).sum(axis=1).tolist() == [10, 10]
    assert measures.same_markers(X, X, types) == 1
    X_after = X.copy()
    X_after[:50, :5] -= 2
    assert measures.same_markers(X, X_after, types) == 0.5


def test_harmonypy_and_scanorama_return_cells_in_their_order(monkeypatch):
    def correct(cells, names, verbose, seed):
        genes = sorted(names[0])  # as it returns them
        order = [int(name.removeprefix("gene")) for name in genes]
        return [sparse.csr_matrix(X.toarray()[:, order]) for X in cells], genes

    def run_harmony(components, table, key, random_state, verbose):
        return SimpleNamespace(Z_corr=components.T)

    for name, function in (("scanorama", correct), ("harmonypy", run_harmony)):
        module = ModuleType(name)
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
    X = np.random.default_rng(0).random((9, 12)).astype(np.float32)
    part = np.array([2, 0, 1] * 3)
    np.testing.assert_array_equal(methods.scanorama(X, part, X, 0).values, X)
    np.testing.assert_array_equal(methods.harmonypy(X, part, X[:, :4], 0).values, X[:, :4])
