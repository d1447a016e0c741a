"""What results contain: all genes or a subset, corrected values in X or in a layer, and what they are."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers import GENES, as_anndata, make_batches, no_compute
from scipy import sparse

from mnndask import MNNCorrector, mnn_correct
from mnndask.errors import InputError, InputTypeError

SUBSET = ["g30", "g3", "g7", "g12", "g21", "g5", "g38", "g0"]
IN_ORDER = [gene for gene in GENES if gene in SUBSET]
COLUMNS = [GENES.index(gene) for gene in IN_ORDER]


def anndatas():
    return [as_anndata(X, f"b{i}_") for i, X in enumerate(make_batches())]


def stored(folder, suffix, layout=np.asarray):
    paths = []
    for i, X in enumerate(make_batches()):
        adata = as_anndata(layout(X), f"b{i}_")
        paths.append(folder / f"{i}.{suffix}")
        (adata.write_zarr if suffix == "zarr" else adata.write_h5ad)(paths[-1])
    return paths


def dense(X):
    X = X.compute() if isinstance(X, da.Array) else X
    return X.toarray() if sparse.issparse(X) else np.asarray(X)


# ------------------------------------------------------------------ genes


@pytest.mark.parametrize("options", [{}, {"cos_norm_out": False, "svd_dim": 2}, {"n_components": 5}])
@pytest.mark.parametrize("how", ["memory", "csr", "backed", "zarr", "h5ad", "one"])
def test_a_result_of_the_subset_equals_the_columns_of_a_whole_one(how, options, tmp_path):
    match how:
        case "memory":
            datas = anndatas()
        case "csr":
            datas = [as_anndata(sparse.csr_matrix(X), f"b{i}_") for i, X in enumerate(make_batches())]
        case "backed":
            datas = [ad.read_h5ad(path, backed="r") for path in stored(tmp_path, "h5ad")]
        case "zarr" | "h5ad":
            datas = stored(tmp_path, how, sparse.csr_matrix)
        case "one":
            datas = [ad.concat(anndatas(), label="batch", index_unique="-")]
    whole, mnns, _ = mnn_correct(*datas, var_subset=SUBSET, k=10, **options)
    part, mnns_of_part, _ = mnn_correct(*datas, var_subset=SUBSET, k=10, genes="subset", **options)
    assert list(part.var_names) == IN_ORDER
    np.testing.assert_allclose(dense(part.X), dense(whole.X)[:, COLUMNS], rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(dense(part.layers["twice"]), dense(whole.layers["twice"])[:, COLUMNS])
    assert part.obs.equals(whole.obs)
    for one, other in zip(mnns, mnns_of_part, strict=True):
        assert one.equals(other)
    assert isinstance(part.X, da.Array) == (how in {"backed", "zarr", "h5ad"})


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, da.asarray, xr.DataArray])
def test_matrices_have_the_columns_of_the_subset(kind):
    datas = [kind(X) for X in make_batches()]
    whole, _, _ = mnn_correct(*datas, var_index=GENES, var_subset=SUBSET, k=10)
    part, _, _ = mnn_correct(*datas, var_index=GENES, var_subset=SUBSET, k=10, genes="subset")
    assert type(part) is type(whole)
    np.testing.assert_allclose(np.asarray(part), np.asarray(whole)[:, COLUMNS], rtol=1e-10, atol=1e-12)


def test_lazy_data_stays_lazy(tmp_path):
    corrector = MNNCorrector(var_subset=SUBSET, k=10, genes="subset").fit(paths := stored(tmp_path, "zarr"))
    with no_compute():
        result = corrector.transform(paths)
    assert result.shape == (180, len(SUBSET))


def test_the_estimator_takes_all_genes_and_names_those_of_the_result():
    corrector = MNNCorrector(var_subset=SUBSET, k=10, genes="subset").fit(anndatas())
    assert corrector.n_features_in_ == len(GENES)
    assert list(corrector.feature_names_in_) == GENES
    assert list(corrector.get_feature_names_out()) == IN_ORDER
    assert list(corrector.transform(anndatas()).var_names) == IN_ORDER
    assert list(MNNCorrector(k=10).fit(anndatas()).get_feature_names_out()) == GENES
    assert list(MNNCorrector(k=10).fit(make_batches()).get_feature_names_out()[:2]) == ["x0", "x1"]


def test_bad_genes_are_refused_before_the_work():
    with pytest.raises(InputError, match=r"genes is 'some'.\nGive one of: all, subset, none."):
        mnn_correct(*anndatas(), genes="some")
    with pytest.raises(InputError, match="genes='subset' was given, but no var_subset"):
        mnn_correct(*anndatas(), genes="subset")


# ----------------------------------------------------------------- layers


@pytest.mark.parametrize("layer", [None, "twice"])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("how", ["memory", "zarr", "h5ad"])
def test_a_layer_has_the_corrected_values_and_x_stays(how, joined, layer, tmp_path):
    datas = anndatas() if how == "memory" else stored(tmp_path, how, sparse.csr_matrix)
    options = {"k": 10, "layer": layer, "do_concatenate": joined}
    usual, _, _ = mnn_correct(*datas, **options)
    added, _, _ = mnn_correct(*datas, **options, layer_added="mnn")
    if not joined:
        usual, added = usual[1], added[1]
    np.testing.assert_array_equal(dense(added.layers["mnn"]), dense(usual.X))
    given = np.concatenate(make_batches()) if joined else make_batches()[1]
    np.testing.assert_array_equal(dense(added.X), given)
    assert set(added.layers) - {None} == {"twice", "mnn"}
    assert added.uns["mnn"]["values"]["where"] == "layers['mnn']"
    if how != "memory":
        assert isinstance(added.layers["mnn"], da.Array)
        assert isinstance(added.X, da.Array)
    elif how == "memory":
        added.X[:] = 0
        assert datas[0].X.any()  # a copy


def test_bad_layers_are_refused_before_the_work():
    with pytest.raises(InputError, match="batch 0 already has a layer 'twice'"):
        mnn_correct(*anndatas(), layer_added="twice")
    with pytest.raises(InputError, match="layer_added is 'a/b'"):
        mnn_correct(*anndatas(), layer_added="a/b")
    with pytest.raises(InputTypeError, match="layer_added is 3"):
        mnn_correct(*anndatas(), layer_added=3)
    with pytest.raises(InputTypeError, match=r"layer_added='mnn' was given, but batch 0 is a matrix"):
        mnn_correct(*make_batches(), layer_added="mnn")


# ----------------------------------------------------------------- values


@pytest.mark.parametrize("normalised", [True, False])
def test_the_record_says_what_the_values_are(normalised):
    result, _, _ = mnn_correct(*anndatas(), k=10, cos_norm_out=normalised)
    values = result.uns["mnn"]["values"]
    assert values["where"] == "X"
    assert ("cosine-normalised" in values["scale"]) == normalised
    assert ("cos_norm_out=False" in values["not_for"]) == normalised
    assert "differential expression" in values["not_for"]
    assert (result.X.max() > 2) == (not normalised)
