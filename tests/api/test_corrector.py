"""MNNCorrector: scikit-learn's conventions, and cells that were not in the fit."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from helpers import GENES, KINDS, as_anndata, make_batches, no_compute, values
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from mnndask import MNNCorrector, mnn_correct
from mnndask.errors import GenesError, InputError, InputKeyError

X = make_batches()
OPTIONS = {
    "plain": {},
    "no-norm": {"cos_norm_in": False, "cos_norm_out": False, "sigma": 20.0},
    "norms-differ": {"cos_norm_out": False},
    "svd": {"svd_dim": 2},
    "no-variance": {"var_adj": False},
    "order": {"mnn_order": [2, 0, 1]},
    "subset": {"var_subset": GENES[:25], "var_index": GENES, "svd_dim": 2},
    "restrict": {"restrict": [np.arange(30), None, np.arange(10, 40)]},
}


def test_parameters():
    corrector = MNNCorrector(k=7, sigma=0.3, var_subset=GENES[:3])
    assert corrector.get_params()["k"] == 7
    assert corrector.set_params(k=9) is corrector
    copied = clone(corrector)
    assert copied.get_params() == corrector.get_params()
    assert not hasattr(copied, "model_")
    assert "k=9" in repr(corrector)
    with pytest.raises(ValueError, match="nonsense"):
        corrector.set_params(nonsense=1)


def test_parameters_are_those_of_the_function():
    from inspect import signature

    function = {
        p.name: p.default for p in signature(mnn_correct).parameters.values() if p.kind == p.KEYWORD_ONLY
    }
    params = MNNCorrector().get_params()
    assert params.pop("svd_options") is None
    assert params == function


def test_bad_parameters_are_found_by_fit():
    corrector = MNNCorrector(k=0)
    with pytest.raises(InputError, match="k is 0"):
        corrector.fit(X)


def test_not_fitted():
    with pytest.raises(NotFittedError):
        MNNCorrector().transform(X)


def test_fit_does_not_change_parameters():
    corrector = MNNCorrector(k=5, restrict=[None, np.arange(20), None], svd_options={})
    before = dict(corrector.get_params())
    assert corrector.fit(X) is corrector
    assert all(corrector.get_params()[key] is value for key, value in before.items())


def test_fitted_attributes():
    corrector = MNNCorrector(k=5, compute_angle=True).fit([as_anndata(x) for x in X])
    assert corrector.n_features_in_ == 40
    assert list(corrector.feature_names_in_) == GENES
    assert corrector.batches_ == ["0", "1", "2"]
    _, mnns, angles = mnn_correct(*X, k=5, compute_angle=True)
    for table, other in zip(corrector.mnns_, mnns, strict=True):
        pd.testing.assert_frame_equal(table, other)
    np.testing.assert_array_equal(corrector.angles_[2], angles[2])


def test_refit_forgets_gene_names():
    corrector = MNNCorrector(k=5).fit([as_anndata(x) for x in X])
    assert not hasattr(corrector.fit(X), "feature_names_in_")


@pytest.mark.parametrize("option", OPTIONS)
def test_fit_then_transform_is_fit_transform(option):
    corrector = MNNCorrector(k=10, **OPTIONS[option])
    both = corrector.fit_transform(X)
    after = clone(corrector).fit(X).transform(X)
    np.testing.assert_allclose(after, both, rtol=0, atol=1e-10 * np.abs(both).max())
    np.testing.assert_array_equal(both, mnn_correct(*X, k=10, **OPTIONS[option])[0])


@pytest.mark.parametrize("kind", ["csr_matrix", "dask-csr", "zarr", "dataarray-dask", "anndata", "lazy-h5ad"])
def test_kinds(kind, tmp_path):
    datas = [KINDS[kind](x, tmp_path, f"b{i}") for i, x in enumerate(X)]
    corrector = MNNCorrector(k=10).fit(datas)
    wanted = mnn_correct(*X, k=10)[0]
    np.testing.assert_allclose(values(corrector.transform(datas)), wanted, rtol=0, atol=1e-10)
    np.testing.assert_allclose(values(corrector.transform(X)), wanted, rtol=0, atol=1e-10)


def test_named_batches_in_another_order():
    datas = [as_anndata(x, f"b{i}") for i, x in enumerate(X)]
    corrector = MNNCorrector(k=10, batch_categories=[*"abc"]).fit(datas)
    whole = np.split(corrector.transform(datas).X, [60, 130])
    result = corrector.set_params(batch_categories=None).transform([datas[2], datas[1]], batches=["c", "b"])
    np.testing.assert_allclose(result.X, np.vstack([whole[2], whole[1]]), rtol=0, atol=1e-10)
    assert list(result.obs["batch"]) == ["c"] * 50 + ["b"] * 70


def test_columns_name_the_batches():
    datas = [as_anndata(x, f"b{i}") for i, x in enumerate(X)]
    for data, name in zip(datas, "abc", strict=True):
        data.obs["batch"] = name
    corrector = MNNCorrector(k=10).fit(datas)
    whole = np.split(corrector.transform(datas).X, [60, 130])
    swapped = corrector.transform(datas[::-1])
    np.testing.assert_allclose(swapped.X, np.vstack(whole[::-1]), rtol=0, atol=1e-10)
    assert list(swapped.obs["batch"].unique()) == [*"cba"]


def test_new_cells_of_a_fitted_batch():
    """As cells that were outside of the fit's choice."""
    rows = np.arange(0, 70, 2)
    corrector = MNNCorrector(k=10).fit([X[0], X[1][rows], X[2]])
    new = corrector.transform([X[1][1::2]], batches=["1"])
    wanted = mnn_correct(*X, k=10, restrict=[None, rows, None])[0][60:130][1::2]
    np.testing.assert_allclose(new, wanted, rtol=0, atol=1e-10)


def test_one_anndata_of_one_fitted_batch():
    datas = [as_anndata(x, f"b{i}") for i, x in enumerate(X)]
    corrector = MNNCorrector(k=10).fit(datas)
    result = corrector.transform([datas[1]], batches=["1"])
    np.testing.assert_allclose(result.X, mnn_correct(*X, k=10)[0][60:130], rtol=0, atol=1e-10)
    assert list(result.obs["batch"]) == ["1"] * 70


def test_lazy_data_is_only_corrected_when_computed():
    corrector = MNNCorrector(k=10).fit(X)
    with no_compute():
        result = corrector.transform([da.from_array(x, chunks=(13, -1)) for x in X])
    np.testing.assert_allclose(result.compute(), mnn_correct(*X, k=10)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunks", [None, 50])
def test_split_anndata(chunks):
    order = np.random.default_rng(0).permutation(180)
    whole = as_anndata(np.vstack(X)[order])
    whole.obs["batch"] = np.repeat([*"abc"], (60, 70, 50))[order]
    if chunks:
        whole.X = da.from_array(whole.X, chunks=(chunks, -1))
    corrector = MNNCorrector(k=10, batch_categories=[*"abc"]).fit([whole])
    wanted = mnn_correct(*[np.vstack(X)[order][whole.obs["batch"] == name] for name in "abc"], k=10)[0]
    result = corrector.transform([whole])
    by_batch = values(result)[np.argsort(whole.obs["batch"].to_numpy(), kind="stable")]
    np.testing.assert_allclose(by_batch, wanted, rtol=0, atol=1e-10)
    assert list(result.obs_names) == list(whole.obs_names)
    few = whole[whole.obs["batch"] != "b"]
    part = corrector.set_params(batch_categories=None).transform([few])
    np.testing.assert_allclose(values(part), values(result)[whole.obs["batch"] != "b"], rtol=0, atol=1e-10)


def test_unknown_batches():
    corrector = MNNCorrector(k=10).fit(X)
    with pytest.raises(InputKeyError, match="'nine' was not fitted"):
        corrector.transform([X[0]], batches=["nine"])
    with pytest.raises(InputError, match="2 batch"):
        corrector.transform(X[:2])
    with pytest.raises(InputError, match="batches names 2"):
        corrector.transform(X, batches=["0", "1"])


def test_other_genes():
    datas = [as_anndata(x) for x in X]
    corrector = MNNCorrector(k=10).fit(datas)
    with pytest.raises(GenesError, match="39 genes"):
        corrector.transform([d[:, 1:] for d in datas])
    with pytest.raises(GenesError, match="another order"):
        corrector.transform([d[:, ::-1] for d in datas])


def test_single_precision_model_keeps_its_precision():
    corrector = MNNCorrector(k=10).fit([x.astype(np.float32) for x in X])
    result = corrector.transform(X)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, mnn_correct(*X, k=10)[0], rtol=0, atol=1e-4)


def test_results_outlive_a_refit():
    """A lazy result keeps the model that it was made with."""
    lazy = [da.from_array(x, chunks=(30, -1)) for x in X]
    corrector = MNNCorrector(k=10)
    result = corrector.fit_transform(lazy)
    wanted = result.compute()
    corrector.set_params(k=3).fit(lazy)
    np.testing.assert_array_equal(result.compute(), wanted)
