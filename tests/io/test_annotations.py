"""Annotations of AnnData: kept, joined or dropped; and never changed in what came in."""

from __future__ import annotations

import copy

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from helpers import GENES, SIZES, batches, expected, make_batches, one_anndata, values
from scipy import sparse as sp

from mnndask import mnn_correct
from mnndask.errors import InputKeyError


def assert_values(result, wanted):
    np.testing.assert_allclose(values(result), wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


# ---------------------------------------------------------------- annotations


def test_obs_is_the_union_of_columns():
    a, b, c = batches()
    a.obs["type"] = pd.Categorical(["T"] * 60, categories=["T", "B"])
    b.obs["type"] = pd.Categorical(["NK"] * 70)
    a.obs["doublet"] = np.arange(60) % 2 == 0
    c.obs["donor"] = "d1"
    obs = mnn_correct(a, b, c, k=10)[0].obs
    assert set(obs) == {"depth", "type", "doublet", "donor", "batch", "mnn_sample"}
    assert isinstance(obs["type"].dtype, pd.CategoricalDtype)
    assert set(obs["type"].cat.categories) == {"T", "B", "NK"}
    assert obs["type"].isna().sum() == 50
    assert list(obs["doublet"][:60]) == list(a.obs["doublet"])
    assert obs["doublet"].isna().sum() == 120
    assert list(obs["donor"][130:]) == ["d1"] * 50
    assert obs["depth"].dtype == a.obs["depth"].dtype


def test_var_keeps_what_agrees():
    datas = batches()
    for i, data in enumerate(datas):
        data.var["symbol"] = [g.upper() for g in GENES]
        data.var["mean"] = data.X.mean(axis=0)
        data.varm["loadings"] = np.ones((40, 2))
        data.var[f"own{i}"] = i
    result = mnn_correct(*datas, k=10)[0]
    assert "mean" not in result.var
    assert list(result.var["symbol"]) == [g.upper() for g in GENES]
    assert list(result.var_names) == GENES
    assert "loadings" in result.varm


def test_var_column_that_one_batch_lacks_is_dropped():
    """The columns that agree in all batches are kept; one that a batch lacks does not."""
    datas = batches()
    datas[0].var["highly_variable"] = np.arange(40) < 20
    assert "highly_variable" not in mnn_correct(*datas, k=10)[0].var


@pytest.mark.parametrize(
    "kind", ["anndata", "anndata-csr", "anndata-dask", "lazy-zarr", "backed", "path-h5ad"]
)
def test_shared_layers_and_obsm_are_kept(kind, tmp_path):
    result = mnn_correct(*batches(kind, tmp_path), k=10)[0]
    twice = result.layers["twice"]
    twice = twice.compute() if isinstance(twice, da.Array) else twice
    twice = twice.toarray() if sp.issparse(twice) else np.asarray(twice)
    np.testing.assert_array_equal(twice, 2 * np.vstack(make_batches()))
    pca = np.vstack([np.arange(2.0 * n).reshape(-1, 2) for n in SIZES])
    np.testing.assert_array_equal(np.asarray(result.obsm["X_scVI"]), pca)
    assert isinstance(result.obs, pd.DataFrame)
    assert isinstance(result.var, pd.DataFrame)


def test_layers_and_obsm_that_one_batch_lacks_are_dropped():
    datas = batches()
    datas[0].layers["only"] = datas[0].X
    datas[1].obsm["spatial"] = np.ones((70, 2))
    datas[2].obsm["X_scVI"] = np.ones((50, 3))
    with pytest.warns(UserWarning, match="leaves out") as said:
        result = mnn_correct(*datas, k=10)[0]
    (message,) = (str(warning.message) for warning in said if "leaves out" in str(warning.message))
    assert all(f"['{key}']" in message for key in ("only", "spatial", "X_scVI"))
    assert set(result.layers) - {None} == {"twice"}
    assert not result.obsm
    assert set(datas[0].layers) - {None} == {"twice", "only"}
    assert all("X_scVI" in data.obsm for data in datas)


def test_layer_is_corrected_into_x():
    datas = batches()
    for data in datas:
        data.layers["log"], data.X = data.X, np.zeros(data.shape)
    result = mnn_correct(*datas, k=10, layer="log", save_raw=True)[0]
    assert_values(result, expected())
    np.testing.assert_array_equal(result.raw.X, np.vstack(make_batches()))
    np.testing.assert_array_equal(result.layers["log"], np.vstack(make_batches()))
    with pytest.raises(InputKeyError, match="no layer 'x'"):
        mnn_correct(*datas, layer="x")


@pytest.mark.parametrize(
    "kind", ["anndata", "anndata-csr", "anndata-csc", "anndata-dask", "lazy-zarr", "backed-csr"]
)
def test_raw_is_what_came_in(kind, tmp_path):
    result = mnn_correct(*batches(kind, tmp_path), k=10, save_raw=True)[0]
    raw = result.raw.X
    assert isinstance(raw, da.Array) == (kind not in {"anndata", "anndata-csr", "anndata-csc"})
    raw = raw.compute() if isinstance(raw, da.Array) else raw
    assert sp.issparse(raw) == (kind not in {"anndata", "anndata-dask"})
    np.testing.assert_array_equal(raw.toarray() if sp.issparse(raw) else raw, np.vstack(make_batches()))
    assert list(result.raw.var_names) == GENES
    assert_values(result, expected())


# ---------------------------------------------------------------- inputs stay as they are


def state(adata):
    """All of an AnnData, copied."""
    matrices = {"X": adata.X, "layer": adata.layers["twice"], "obsm": adata.obsm["X_scVI"]}
    dense = {k: X.toarray() if sp.issparse(X) else np.array(X) for k, X in matrices.items()}
    return dense, adata.obs.copy(), adata.var.copy(), copy.deepcopy(dict(adata.uns))


def scribble(adata):
    """Overwrite all of a result."""
    adata.obs["depth"] = -1
    adata.var["new"] = 1
    adata.uns.get("a", {})["b"] = 2
    raw = adata.raw.X if adata.raw else np.empty(0)
    for X in (adata.X, adata.layers["twice"], adata.obsm["X_scVI"], raw):
        (X.data if sp.issparse(X) else X)[:] = -1


@pytest.mark.parametrize(
    "options", [{}, {"save_raw": True}, {"do_concatenate": False, "save_raw": True}, {"layer": "twice"}]
)
@pytest.mark.parametrize("kind", ["anndata", "anndata-csr", "anndata-view", "split", "split-view"])
def test_inputs_are_not_modified(kind, options):
    """Not by the call, and not by who goes on with its result."""
    if kind.startswith("split"):
        adata, _ = one_anndata([*"xyz"])
        adata.uns["a"] = {"b": 1}
        datas = [adata[::-1] if kind == "split-view" else adata]
    else:
        datas = batches(kind)
    before, views = [state(d) for d in datas], [d.is_view for d in datas]
    result = mnn_correct(*datas, k=10, batch_key="sample", **options)[0]
    for part in result if isinstance(result, list) else [result]:
        scribble(part)
    assert [d.is_view for d in datas] == views
    for data, (matrices, obs, var, uns) in zip(datas, before, strict=True):
        after = state(data)
        for name, X in matrices.items():
            np.testing.assert_array_equal(after[0][name], X, err_msg=name)
        pd.testing.assert_frame_equal(after[1], obs)
        pd.testing.assert_frame_equal(after[2], var)
        assert after[3] == uns


# ---------------------------------------------------------------- one batch


@pytest.mark.parametrize("kind", ["ndarray", "anndata", "path-zarr", "dask"])
def test_one_value_gives_the_data_back(kind, tmp_path):
    data = batches(kind, tmp_path)[0]
    if kind == "path-zarr":
        stored = ad.read_zarr(data)
        stored.obs["batch"] = "x"
        stored.write_zarr(data)
    elif kind == "anndata":
        data.obs["batch"] = "x"
    with pytest.warns(UserWarning, match="Only one batch"):
        result, mnns, angles = mnn_correct(data)
    held = values(result)
    held = held.toarray() if sp.issparse(held) else held
    np.testing.assert_array_equal(held, make_batches()[0])
    assert [list(t.columns) for t in mnns] == [["new cell", "ref cell", "original batch"]]
    assert mnns[0].empty
    assert angles is None


# ---------------------------------------------------------------- what real files hold


@pytest.mark.parametrize("sparse_at", [0, 1])
@pytest.mark.parametrize("lazy_at", [None, 2])
def test_raw_of_mixed_layouts(sparse_at, lazy_at):
    datas = batches()
    datas[sparse_at].X = sp.csr_matrix(datas[sparse_at].X)
    if lazy_at is not None:
        datas[lazy_at].X = da.from_array(datas[lazy_at].X, chunks=(20, -1))
    raw = mnn_correct(*datas, k=10, save_raw=True)[0].raw.X
    raw = raw.compute() if isinstance(raw, da.Array) else raw
    assert not sp.issparse(raw) or raw.format == "csr"
    np.testing.assert_array_equal(raw.toarray() if sp.issparse(raw) else raw, np.vstack(make_batches()))


def test_embeddings_of_other_shapes_are_dropped():
    datas = batches()
    for i, data in enumerate(datas):
        data.obsm["cube"] = np.ones((data.n_obs, 2, 2 + i))
    with pytest.warns(UserWarning, match="leaves out obsm\\['cube'\\]"):
        assert set(mnn_correct(*datas, k=10)[0].obsm) == {"X_scVI"}


@pytest.mark.parametrize("suffix", ["zarr", "h5ad"])
def test_split_of_a_path_keeps_what_the_file_holds(suffix, tmp_path):
    adata, _ = one_anndata([*"xyz"])
    adata.varm["loadings"] = np.ones((40, 3))
    path = tmp_path / f"all.{suffix}"
    adata.write_zarr(path) if suffix == "zarr" else adata.write_h5ad(path)
    result = mnn_correct(path, batch_key="sample", k=10)[0]
    assert list(result.obs_names) == list(adata.obs_names)
    assert set(result.varm) == {"loadings"}
    assert set(result.obsp) == {"near"}
    assert list(result.uns["colours"]["sample"]) == ["red", "blue"]


def test_layer_of_backed_data_stays_in_the_file(tmp_path):
    result = mnn_correct(*batches("backed-csr", tmp_path), k=10, layer="twice")[0]
    assert isinstance(result.X, da.Array)
    assert_values(result, expected())
