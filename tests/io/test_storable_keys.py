"""Keys that no store takes get other names, in call and command, and a warning says which."""

from __future__ import annotations

import datetime

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from helpers import as_anndata, make_batches, without_record

from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.errors import InputError
from mnndask.io.keys import storable_keys


def batches():
    return [as_anndata(X, f"b{i}") for i, X in enumerate(make_batches((12, 10)))]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["CD4/CD8"], ["CD4_CD8"]),
        (["CD4/CD8", "CD4_CD8"], ["CD4_CD8_1", "CD4_CD8"]),
        (["a/b", "a_b", "a_b_1"], ["a_b_2", "a_b", "a_b_1"]),
        (["Age", "age", "AGE"], ["Age", "age_1", "AGE_2"]),
        (["n", "n", "n"], ["n", "n_1", "n_2"]),
        (["a\\b"], ["a_b"]),
        (["/", "..", ".", ""], ["_", "unnamed", "unnamed_1", "unnamed_2"]),
        ([0, 1, "0"], ["0_1", "1", "0"]),
        (["_index", "zarr.json", ".zarray"], ["index", "zarr_json", "zarray"]),
        (["a\x00b", "\n"], ["a_b", "_"]),
        (["ä/ö", "süd"], ["ä_ö", "süd"]),
        (["__x"], ["_x"]),
        ([("a", 1)], ["('a', 1)"]),
    ],
)
def test_names_of_keys(given, wanted):
    assert storable_keys([given]) == [wanted]


def test_long_keys_are_cut_within_a_letter_and_told_apart():
    first, second = storable_keys([["ä" * 150, "ä" * 140]])[0]
    assert first != second
    assert max(len(name.encode()) for name in (first, second)) < 210


def test_a_key_has_one_name_in_all_batches():
    tables = [["a_b", "a/b"], ["a/b"], ["A_B", "a/b"]]
    assert storable_keys(tables) == [["a_b", "a_b_1"], ["a_b_1"], ["A_B_2", "a_b_1"]]


SLOTS = ("obs", "var", "obsm", "layers", "uns", "varm")


def with_keys(data, key):
    """Put something under a key everywhere."""
    data.obs[key] = np.arange(data.n_obs)
    data.var[key] = np.arange(data.n_vars)
    data.obsm[key] = np.ones((data.n_obs, 2))
    data.varm[key] = np.ones((data.n_vars, 2))
    data.layers[key] = data.X.copy()
    data.uns[key] = {key: 1}
    return data


def test_slashes_are_replaced_in_what_the_command_writes(tmp_path, capsys, monkeypatch):
    """In .h5ad, columns with a slash are what older anndata writes of them: a group, and a column in it."""
    monkeypatch.chdir(tmp_path)
    for i, data in enumerate(batches()):
        data.obs["G1_S"] = np.arange(data.n_obs)
        data.write_h5ad(f"{i}.h5ad")
        with h5py.File(f"{i}.h5ad", "a") as file:
            obs = file["obs"]
            obs.create_group("G1")
            obs.move("G1_S", "G1/S")
            obs.attrs["column-order"] = [name.replace("G1_S", "G1/S") for name in obs.attrs["column-order"]]
    with pytest.raises(SystemExit) as caught:
        main(["correct", "0.h5ad", "1.h5ad", "-k", "3", "-o", "out.zarr"])
    assert caught.value.code == 0
    said = capsys.readouterr().err.splitlines()
    assert "obs['G1/S'] becomes 'G1_S'" in said[0]  # before the first stage
    assert list(ad.read_zarr("out.zarr").obs["G1_S"]) == [*range(12), *range(10)]


@pytest.mark.parametrize("key", ["CD4/CD8", "..", "a\\b"])
@pytest.mark.parametrize("concatenate", [True, False])
def test_results_hold_storable_keys_and_say_so_once(key, concatenate, tmp_path):
    datas = [with_keys(data, key) for data in batches()]
    with pytest.warns(UserWarning, match="renames keys") as said:
        out = mnn_correct(*datas, k=3, do_concatenate=concatenate)[0]
    assert len(said) == 1
    name = storable_keys([[key]])[0][0]
    for part in [out] if concatenate else out:
        without_record(part)
        for slot in SLOTS:
            if concatenate and slot == "uns":
                continue  # anndata.concat does not join them
            assert key not in getattr(part, slot)
            assert name in getattr(part, slot), slot
            assert f"{slot}[{key!r}] becomes {name!r}" in str(said[0].message)
        part.write_h5ad(tmp_path / "out.h5ad")
        part.write_zarr(tmp_path / "out.zarr")
        for back in (ad.read_h5ad(tmp_path / "out.h5ad"), ad.read_zarr(tmp_path / "out.zarr")):
            assert list(back.obs[name]) == list(part.obs[name])


def test_a_batch_column_with_a_slash(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = ad.concat(batches())
    whole.obs["sample_id"] = 0
    whole.obs["sample/id"] = np.repeat(["x/1", "y"], (12, 10))
    with pytest.warns(UserWarning, match="obs\\['sample/id'\\] becomes 'sample_id_1'"):
        result = mnn_correct(whole, batch_key="sample/id", k=3)[0]
    assert list(result.obs["sample_id_1"].cat.categories) == ["x/1", "y"]
    assert result.uns["mnn"]["parameters"]["batch_key"] == "sample_id_1"
    without_record(result).write_zarr("out.zarr")
    assert list(ad.read_zarr("out.zarr").obs["sample_id_1"]) == ["x/1"] * 12 + ["y"] * 10


def test_angles_are_of_their_cells_when_categories_have_an_order_of_their_own(tmp_path, monkeypatch):
    """The command puts them into obs."""
    monkeypatch.chdir(tmp_path)
    whole = ad.concat(batches())
    labels = np.repeat(["x", "y"], (12, 10))
    whole.obs["batch"] = pd.Categorical(labels, categories=["y", "none", "x"])
    whole.write_h5ad("in.h5ad")
    with pytest.raises(SystemExit) as caught:
        main(["correct", "in.h5ad", "-k", "3", "--compute-angle", "-o", "out.zarr", "-q"])
    assert caught.value.code == 0
    back = ad.read_zarr("out.zarr")
    assert list(back.obs["mnn_angle"].isna()) == list(labels == "x")
    assert list(back.obs["batch"].cat.categories) == ["y", "none", "x"]


@pytest.mark.parametrize("name", ["batch", "depth", "cells", "a/b"])
@pytest.mark.parametrize("concatenate", [True, False])
def test_an_index_with_a_name(name, concatenate, tmp_path):
    datas = batches()
    for data in datas:
        data.obs.index.name = name
    out = mnn_correct(*datas, k=3, do_concatenate=concatenate)[0]
    part = without_record(out if concatenate else out[0])
    part.write_h5ad(tmp_path / "out.h5ad")
    part.write_zarr(tmp_path / "out.zarr")
    assert list(ad.read_zarr(tmp_path / "out.zarr").obs["depth"])[:12] == [*range(12)]


@pytest.mark.parametrize(
    "names", [[1, datetime.date(2020, 1, 2)], [("a", 1), ("b", 2)], [1.5, "x"], [pd.Timestamp("2020"), True]]
)
def test_batches_of_any_name(names, tmp_path):
    with pytest.warns(UserWarning, match=r"converts obs\['batch'\]"):
        result = mnn_correct(*batches(), k=3, batch_categories=names)[0]
    assert list(result.obs["batch"].cat.categories) == [str(name) for name in names]
    result.write_h5ad(tmp_path / "out.h5ad")
    result.write_zarr(tmp_path / "out.zarr")


@pytest.mark.parametrize("name", ["\udcff", "a\0b"])
def test_names_that_no_file_holds(name):
    with pytest.raises(InputError, match="Names of batches cannot be stored as text"):
        mnn_correct(*batches(), k=3, batch_categories=[name, "b"])
    datas = batches()
    datas[0].obs_names = [name, *datas[0].obs_names[1:]]
    with pytest.raises(InputError, match="batch 0 has names in obs_names"):
        mnn_correct(*datas, k=3)
