"""AnnData in, AnnData out: how batches are told apart and named, in one object or several."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from helpers import GENES, batches, one_anndata, values

from mnndask import mnn_correct
from mnndask.errors import InputError, InputKeyError


def assert_values(result, wanted):
    np.testing.assert_allclose(values(result), wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


# ---------------------------------------------------------------- parts of one AnnData

LABELS = {
    "string": ["x", "ä", "z"],
    "categorical": pd.Categorical(["x", "y", "z"], categories=["z", "unused", "y", "x"]),
    "integer": [7, 3, 5],
    "pandas-string": pd.array(["x", "y", "z"], dtype="string"),
    "boolean-like": ["True", "False", "maybe"],
}


def labelled(kind):
    adata, batch = one_anndata(["x", "y", "z"])
    labels = LABELS[kind]
    column = labels.take(batch) if hasattr(labels, "take") else np.asarray(labels)[batch]
    adata.obs["sample"] = pd.Series(column, index=adata.obs_names)
    return adata


@pytest.mark.parametrize("kind", LABELS)
def test_scanpy_idiom(kind):
    adata = labelled(kind)
    names = list(adata.obs["sample"].unique())
    parts = [adata[adata.obs["sample"] == s] for s in adata.obs["sample"].unique()]
    hvgs = adata.var_names[:25]
    result, mnns, _ = mnn_correct(*parts, var_subset=hvgs, batch_key="sample")
    assert isinstance(result, ad.AnnData)
    assert list(result.obs["sample"].cat.categories) == names
    assert list(result.obs["sample"].astype(object)) == [
        n for p, n in zip(parts, names, strict=True) for _ in range(len(p))
    ]
    assert list(result.obs["depth"]) == [d for p in parts for d in p.obs["depth"]]
    assert list(result.obs_names) == [
        f"{o}-{n}" for p, n in zip(parts, names, strict=True) for o in p.obs_names
    ]
    assert [t.empty for t in mnns] == [True, False, False]
    assert all(part.is_view for part in parts)
    matrices = mnn_correct(*[p.X for p in parts], var_subset=hvgs, var_index=GENES)[0]
    assert_values(result, matrices)


@pytest.mark.parametrize("kind", LABELS)
def test_split_of_one_anndata_is_its_parts(kind):
    adata = labelled(kind)
    names = list(adata.obs["sample"].unique())
    parts = [adata[adata.obs["sample"] == s] for s in names]
    result, mnns, _ = mnn_correct(adata, batch_key="sample", k=10)
    by_parts, tables, _ = mnn_correct(*parts, batch_key="sample", k=10, index_unique=None)
    assert_values(result, by_parts[adata.obs_names].X)
    given = adata.obs["sample"]
    as_it_came = list(given.cat.categories) if kind == "categorical" else names
    assert list(result.obs["sample"].cat.categories) == as_it_came
    for table, other in zip(mnns, tables, strict=True):
        pd.testing.assert_frame_equal(table, other)
    pieces = mnn_correct(adata, batch_key="sample", k=10, do_concatenate=False)[0]
    assert [list(p.obs_names) for p in pieces] == [list(p.obs_names) for p in parts]
    for piece, part in zip(pieces, parts, strict=True):
        assert_values(piece, by_parts[part.obs_names].X)


@pytest.mark.parametrize("lazy", [False, True])
def test_split_keeps_rows_and_annotations(lazy):
    adata, _ = one_anndata(["x", "y", "z"])
    if lazy:
        adata.X = da.from_array(adata.X, chunks=(180, 40))
        adata.layers["twice"] = da.from_array(adata.layers["twice"], chunks=(19, 40))
    result = mnn_correct(adata, batch_key="sample", k=10)[0]
    assert list(result.obs_names) == list(adata.obs_names)
    assert list(result.var_names) == list(adata.var_names)
    assert list(result.obs["depth"]) == list(adata.obs["depth"])
    assert list(result.obs["sample"].astype(str)) == list(adata.obs["sample"])
    assert list(result.var["mean"]) == list(adata.var["mean"])
    np.testing.assert_array_equal(result.obsm["X_scVI"], adata.obsm["X_scVI"])
    np.testing.assert_array_equal(np.asarray(result.layers["twice"]), np.asarray(adata.layers["twice"]))
    assert isinstance(result.layers["twice"], da.Array if lazy else np.ndarray)
    assert (result.obsp["near"] != adata.obsp["near"]).nnz == 0
    assert result.uns["colours"] == {"sample": ["red", "blue"]}
    assert "mnn" not in adata.uns


@pytest.mark.parametrize("lazy", [False, True])
def test_split_of_many_cells_in_mixed_order(lazy):
    """More cells than are corrected at once."""
    rng = np.random.default_rng(0)
    X, batch = rng.random((9000, 6)), rng.permutation(np.repeat([0, 1], 4500))
    obs = pd.DataFrame({"batch": batch}, index=[str(i) for i in range(9000)])
    adata = ad.AnnData(da.from_array(X, chunks=(2000, 6)) if lazy else X, obs=obs)
    chosen = np.arange(0, 4500, 30)
    first = batch[0]
    options = {"restrict": [chosen, chosen], "k": 5, "compute_angle": True}
    result, _, angles = mnn_correct(adata, **options)
    a, b = X[batch == first], X[batch != first]
    wanted, _, wanted_angles = mnn_correct(a, b, **options)
    np.testing.assert_allclose(values(result)[batch == first], wanted[:4500], rtol=0, atol=1e-10)
    np.testing.assert_allclose(values(result)[batch != first], wanted[4500:], rtol=0, atol=1e-10)
    np.testing.assert_allclose(np.asarray(angles[1]), wanted_angles[1], rtol=0, atol=1e-7)


def test_split_in_the_order_of_batch_categories():
    adata, batch = one_anndata(["x", "y", "z"])
    result, mnns, _ = mnn_correct(adata, batch_key="sample", batch_categories=["x", "y", "z"], k=10)
    assert list(result.obs["sample"].cat.categories) == ["x", "y", "z"]
    assert [len(t) > 0 for t in mnns] == [False, True, True]
    rows = [adata.X[batch == b] for b in range(3)]
    wanted = mnn_correct(*rows, k=10)[0]
    assert_values(result[np.argsort(batch, kind="stable")], wanted)


# ---------------------------------------------------------------- names of batches and cells


def test_batches_are_counted_by_default():
    result = mnn_correct(*batches(), k=10)[0]
    assert list(result.obs["batch"].cat.categories) == ["0", "1", "2"]
    assert list(result.obs["batch"]) == ["0"] * 60 + ["1"] * 70 + ["2"] * 50
    assert list(result.obs_names[[0, 60, 179]]) == ["b00-0", "b10-1", "b249-2"]


def test_batch_categories_name_batches():
    datas = batches()
    result = mnn_correct(
        *datas, k=10, batch_categories=["tumour", "b", "a"], batch_key="lane", index_unique="_"
    )[0]
    assert list(result.obs["lane"].cat.categories) == ["tumour", "b", "a"]
    assert result.obs_names[0] == "b00_tumour"
    assert all("lane" not in data.obs for data in datas)


def test_disagreeing_categories_are_an_error():
    datas = batches()
    for data, name in zip(datas, "xyz", strict=True):
        data.obs["batch"] = name
    with pytest.raises(InputError, match="disagree"):
        mnn_correct(*datas, k=10, batch_categories=["x", "z", "y"])
    assert list(
        mnn_correct(*datas, k=10, batch_categories=["x", "y", "z"])[0].obs["batch"].cat.categories
    ) == [*"xyz"]


def test_column_that_varies_is_an_error():
    datas = batches()
    datas[1].obs["batch"] = ["u", "v"] * 35
    with pytest.raises(InputError, match="batch 1 has 2 values"):
        mnn_correct(*datas, k=10)


def test_missing_column_of_one_anndata():
    with pytest.raises(InputKeyError, match="batch_key"):
        mnn_correct(batches()[0])


def test_missing_values_in_the_column():
    adata, _ = one_anndata(["x", "y", "z"])
    adata.obs["sample"] = adata.obs["sample"].where(adata.obs["depth"] > 3)
    with pytest.raises(InputError, match="4 missing"):
        mnn_correct(adata, batch_key="sample")


def test_names_left_as_they_are():
    result = mnn_correct(*batches(), k=10, index_unique=None)[0]
    assert list(result.obs_names[[0, 60]]) == ["b00", "b10"]


def test_duplicate_names_over_batches_left_are_said():
    datas = batches()
    for data in datas:
        data.obs_names = [f"c{i}" for i in range(data.n_obs)]
    with pytest.warns(UserWarning, match="not unique"):
        result = mnn_correct(*datas, k=10, index_unique=None)[0]
    assert list(result.obs_names[[0, 60]]) == ["c0", "c0"]
    assert mnn_correct(*datas, k=10)[0].obs_names.is_unique


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_duplicate_names_within_a_batch_are_made_unique():
    datas = batches()
    datas[1].obs_names = ["same"] * 70
    with pytest.warns(UserWarning, match="made unique"):
        result = mnn_correct(*datas, k=10)[0]
    assert result.obs_names.is_unique
    assert list(datas[1].obs_names) == ["same"] * 70
