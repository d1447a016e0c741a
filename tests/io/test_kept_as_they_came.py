"""Batch columns, colours and raw come back as they came."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from helpers import GENES, as_anndata, make_batches, without_record
from scipy import sparse as sp

from mnndask import mnn_correct
from mnndask.api.write import write_zarr
from mnndask.io.anndata_compat import write_error

pytestmark = pytest.mark.usefixtures("short_record")

SIZES = (12, 10)
ROWS = np.random.default_rng(0).permutation(22)


def batches():
    return [as_anndata(X, f"b{i}") for i, X in enumerate(make_batches(SIZES))]


def whole(*, ordered):
    adata = ad.concat(batches())[ROWS].copy()
    labels = np.repeat(["x", "y"], SIZES)[ROWS]
    adata.obs["sample"] = pd.Categorical(labels, categories=["y", "unused", "x"], ordered=ordered)
    adata.uns["sample_colors"] = np.array(["#111111", "#222222", "#333333"], dtype=object)
    return adata


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr"])
def test_the_batch_column_of_one_anndata(kind, ordered, tmp_path):
    adata = whole(ordered=ordered)
    data = adata
    if kind != "memory":
        data = tmp_path / f"in.{kind}"
        getattr(adata, f"write_{kind}")(data)
    result, mnns, _ = mnn_correct(data, batch_key="sample", k=3)
    assert result.obs["sample"].dtype == adata.obs["sample"].dtype
    assert list(result.obs["sample"].cat.categories) == ["y", "unused", "x"]
    assert list(result.obs["sample"]) == list(adata.obs["sample"])
    assert list(result.uns["sample_colors"]) == ["#111111", "#222222", "#333333"]
    first = adata.obs["sample"].iloc[0]
    assert list(result.uns["mnn"]["steps"]["batch"]) == [first, "x" if first == "y" else "y"]
    assert [table.empty for table in mnns] == [True, False]


def test_the_batch_column_of_parts_keeps_categories_they_share():
    adata = whole(ordered=True)
    parts = [adata[adata.obs["sample"] == name].copy() for name in ("x", "y")]
    for part in parts:
        part.obs["sample"] = part.obs["sample"].astype(adata.obs["sample"].dtype)
        part.uns["sample_colors"] = adata.uns["sample_colors"]
    result = mnn_correct(*parts, batch_key="sample", k=3)[0]
    assert result.obs["sample"].dtype == adata.obs["sample"].dtype
    assert list(result.obs["sample"]) == ["x"] * 12 + ["y"] * 10
    assert list(result.uns["sample_colors"]) == ["#111111", "#222222", "#333333"]


def test_colours_of_columns_go_with_their_categories():
    datas = batches()
    for data, names, colours in zip(
        datas, (["B", "T"], ["NK", "T"]), (["red", "blue"], ["green", "blue"]), strict=True
    ):
        data.obs["type"] = pd.Categorical(names * (data.n_obs // 2))
        data.uns["type_colors"] = colours
        data.obs["site"] = pd.Categorical(["s"] * data.n_obs)
        data.uns["site_colors"] = [colours[0]]  # on which they disagree
    result = mnn_correct(*datas, k=3)[0]
    colour = dict(zip(result.obs["type"].cat.categories, result.uns["type_colors"], strict=True))
    assert colour == {"B": "red", "NK": "green", "T": "blue"}
    assert "site_colors" not in result.uns


def dense(X):
    X = X.compute() if isinstance(X, da.Array) else X
    return X.toarray() if sp.issparse(X) else np.asarray(X)


@pytest.mark.parametrize("kind", ["memory", "csr", "backed", "lazy", "h5ad", "zarr"])
@pytest.mark.parametrize("concatenate", [True, False])
def test_raw_that_all_have_is_kept(kind, concatenate, tmp_path):
    datas = []
    for i, data in enumerate(batches()):
        raw = ad.AnnData(
            sp.csr_matrix(data.X + i) if kind == "csr" else data.X + i, obs=data.obs[[]], var=data.var
        )
        raw.var["symbol"] = [g.upper() for g in GENES]
        data.raw = raw
        opened = {
            "backed": lambda p: ad.read_h5ad(p, backed="r"),
            "lazy": ad.experimental.read_lazy,
            "h5ad": str,
            "zarr": str,
        }
        if kind in opened:
            path = tmp_path / f"{i}.{'zarr' if kind == 'zarr' else 'h5ad'}"
            data.write_zarr(path) if kind == "zarr" else data.write_h5ad(path)
            data = opened[kind](path)
        datas.append(data)
    out = mnn_correct(*datas, k=3, do_concatenate=concatenate)[0]
    wanted = [X + i for i, X in enumerate(make_batches(SIZES))]
    for part, values in zip(
        [out] if concatenate else out, [np.vstack(wanted)] if concatenate else wanted, strict=True
    ):
        np.testing.assert_array_equal(dense(part.raw.X), values)
        assert list(part.raw.var_names) == GENES
        assert list(part.raw.var["symbol"]) == [g.upper() for g in GENES]
        without_record(part).write_zarr(tmp_path / "out.zarr")
        np.testing.assert_array_equal(dense(ad.read_zarr(tmp_path / "out.zarr").raw.X), values)


@pytest.mark.parametrize("lazy", [True, False])
def test_raw_of_the_genes_that_all_have(lazy):
    datas = batches()
    genes = ["g3", "g1", "g2"], ["g2", "x", "g3"]
    for i, (data, names) in enumerate(zip(datas, genes, strict=True)):
        X = np.arange(data.n_obs * 3.0).reshape(-1, 3) + 100 * i
        X = da.from_array(sp.csr_matrix(X), chunks=(5, 3), asarray=False) if lazy else X
        data.raw = ad.AnnData(X, obs=data.obs[[]], var=pd.DataFrame(index=names))
    raw = mnn_correct(*datas, k=3)[0].raw
    assert list(raw.var_names) == ["g3", "g2"]
    np.testing.assert_array_equal(dense(raw.X)[[0, 12]], [[0, 2], [102, 100]])


def test_raw_that_one_batch_lacks_is_left_out_and_said():
    datas = batches()
    datas[0].raw = datas[0].copy()
    with pytest.warns(UserWarning, match=r"leaves out raw \(batch 1 has none\)"):
        assert mnn_correct(*datas, k=3)[0].raw is None


@pytest.mark.parametrize("key", ["sample", "sample/id"])
@pytest.mark.filterwarnings("ignore:The result renames keys")
def test_colours_are_of_their_batches_in_whatever_order(key):
    datas = batches()
    for data, name, colour in zip(datas, "yx", ("#y", "#x"), strict=True):
        data.obs[key] = pd.Categorical([name] * data.n_obs)
        data.uns[f"{key}_colors"] = [colour]
    result = mnn_correct(*datas, batch_key=key, k=3)[0]
    name = key.replace("/", "_")
    assert list(result.obs[name].cat.categories) == ["y", "x"]
    assert list(result.uns[f"{name}_colors"]) == ["#y", "#x"]


def test_raw_whose_tables_are_odd_does_not_cost_the_correction(tmp_path):
    datas = batches()
    for i, data in enumerate(datas):
        data.raw = ad.AnnData(data.X.astype(np.longdouble), obs=data.obs[[]], var=data.var)
        data.raw.var["a/b"], data.raw.var["when"] = 1, pd.Timestamp("2020")
        data.raw.var.insert(0, "a/b", i, allow_duplicates=True)
    with pytest.warns(UserWarning, match="The result") as said:
        result = mnn_correct(*datas, k=3)[0]
    text = "".join(str(warning.message) for warning in said)
    for note in ("raw.var['a/b'] becomes 'a_b' and 'a_b_1'", "raw.var['when'] to text", "raw to float64"):
        assert note in text
    assert list(result.raw.var.columns) == ["a_b_1", "when"]
    result.write_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "out.h5ad").raw.X, np.vstack(make_batches(SIZES)))


def test_colours_of_lists_are_of_all_batches():
    datas = batches()
    for data, categories, colours in zip(
        datas, ("ba", "cb"), (["blue", "amber"], ["cyan", "blue"]), strict=True
    ):
        data.obs["batch"] = pd.Categorical([categories[0]] * data.n_obs, categories=[*categories])
        data.uns["batch_colors"] = colours
    for part in mnn_correct(*datas, k=3, do_concatenate=False)[0]:
        assert list(part.obs["batch"].cat.categories) == ["b", "c"]
        assert list(part.uns["batch_colors"]) == ["blue", "cyan"]


@pytest.mark.parametrize(
    "colours", [pd.DataFrame({"a": [1, 2]}), np.eye(2), [None, "red"], "ab", {"a": "red"}, 3, [[1, 2], [3]]]
)
def test_odd_colours_do_not_cost_the_correction(colours):
    datas = batches()
    for data in datas:
        data.obs["type"] = pd.Categorical(["a", "b"] * (data.n_obs // 2))
        data.uns["type_colors"] = colours
    assert "type_colors" not in mnn_correct(*datas, k=3)[0].uns


def test_colours_go_with_columns_that_are_renamed():
    adata = whole(ordered=False)
    adata.obs["G1/S"] = pd.Categorical(["a", "b"] * 11)
    adata.obs["G1_S"] = 1.0
    adata.uns["G1/S_colors"] = ["red", "blue"]
    with pytest.warns(UserWarning, match="'G1_S_1_colors'"):
        result = mnn_correct(adata, batch_key="sample", k=3)[0]
    assert list(result.obs["G1_S_1"]) == ["a", "b"] * 11
    assert result.uns["G1_S_1_colors"] == ["red", "blue"]


@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr"])
def test_what_raw_has_of_its_genes_is_kept(kind, tmp_path):
    adata = whole(ordered=False)
    adata.varm["loadings"] = np.ones((40, 3))
    adata.raw = adata.copy()
    data = adata
    if kind != "memory":
        data = tmp_path / f"in.{kind}"
        getattr(adata, f"write_{kind}")(data)
    np.testing.assert_array_equal(
        mnn_correct(data, batch_key="sample", k=3)[0].raw.varm["loadings"], np.ones((40, 3))
    )


@pytest.mark.parametrize("concatenate", [True, False])
def test_names_of_an_index_are_the_inputs_own(concatenate):
    datas = batches()
    for data in datas:
        data.obs.index.name, data.var.index.name = "a/b", "depth/x"
        data.obsm["t"] = pd.DataFrame({"a/b": range(data.n_obs)}, index=data.obs_names.copy())
        data.obs.index.name = "a/b"
    with pytest.warns(UserWarning, match="renames"):
        out = mnn_correct(*datas, k=3, do_concatenate=concatenate)[0]
    assert [(data.obs.index.name, data.var.index.name) for data in datas] == [("a/b", "depth/x")] * 2
    assert write_error((out if concatenate else out[0]).obsm["t"]) is None


@pytest.mark.parametrize("value", [0, 0.0, False])
@pytest.mark.filterwarnings("ignore:.* lacks chunks of obs/flat/categories")
def test_a_category_that_writers_leave_out(value, tmp_path):
    """Zarr leaves out what is all zero, and one category may be so."""
    paths = [tmp_path / f"{i}.zarr" for i in range(2)]
    for data, path in zip(batches(), paths, strict=True):
        data.obs["flat"] = pd.Categorical([value] * data.n_obs)
        data.write_zarr(path)
        assert not [
            file
            for file in (path / "obs/flat/categories").rglob("*")
            if not file.name.startswith((".z", "zarr"))
        ]
    assert list(mnn_correct(*paths, k=3)[0].obs["flat"]) == [value] * 22


def test_batches_named_in_half_precision():
    datas = batches()
    for data, value in zip(datas, (1, 2), strict=True):
        data.obs["batch"] = np.float16(value)
    for given in (datas, [ad.concat(datas)]):
        result = mnn_correct(*given, k=3)[0]
        assert list(result.obs["batch"]) == [1] * 12 + [2] * 10


def test_the_writer_keeps_what_raw_has(tmp_path):
    adata = batches()[0]
    adata.raw = ad.AnnData(adata.X.astype(np.longdouble), obs=adata.obs[[]], var=adata.var)
    adata.raw.varm["loadings"] = np.ones((40, 3))
    with pytest.warns(UserWarning, match="The result converts raw to float64"):
        write_zarr(adata, tmp_path / "out.zarr")
    back = ad.read_zarr(tmp_path / "out.zarr").raw
    np.testing.assert_array_equal(back.X, adata.X)
    np.testing.assert_array_equal(back.varm["loadings"], np.ones((40, 3)))


def test_tables_of_which_one_cannot_be_stored_are_said_to_be_left_out_only():
    datas = batches()
    for data, values in zip(datas, ([[1]] * 12, pd.date_range("2020", periods=10)), strict=True):
        data.obsm["t"] = pd.DataFrame({"odd": values, "fine": 1}, index=data.obs_names)
    with pytest.warns(UserWarning, match=r"leaves out obsm\['t'\]\['odd'\]") as said:
        result = mnn_correct(*datas, k=3)[0]
    assert not [warning for warning in said if "converts" in str(warning.message)]
    assert list(result.obsm["t"].columns) == ["fine"]
