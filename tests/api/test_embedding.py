"""Results with obsm["X_mnn"], and results that are embeddings alone (genes="none")."""

from __future__ import annotations

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.utils import key_split
from helpers import GENES, as_anndata, batches, counted, make_batches, no_compute, one_anndata, values
from scipy import sparse

from mnndask import MNNCorrector, mnn_correct
from mnndask.errors import InputError, ResultTooLargeError

OPTIONS = {"k": 10, "n_components": 6, "diagnostics": False}
ANNDATA = ["anndata", "anndata-csr", "anndata-dask", "backed-csr", "lazy-zarr", "path-zarr-csc", "path-h5ad"]
MATRICES = ["ndarray", "csr_array", "dask-csr-column-chunks", "zarr", "dataarray", "dataarray-dask"]
EXPECTED = []


def expected(**options):
    """Corrected cells in components, from the model of plain matrices."""
    if not EXPECTED or options:
        model = MNNCorrector(**OPTIONS, **options).fit(make_batches()).model_
        found = [model.embed(b, X, np.arange(len(X))) for b, X in enumerate(make_batches())]
        if options:
            return found
        EXPECTED.extend(found)
    return EXPECTED


def computed(X):
    return X.compute(scheduler="threads") if isinstance(X, da.Array) else X


# ---------------------------------------------------------------- obsm["X_mnn"]


@pytest.mark.parametrize("kind", ANNDATA)
def test_results_have_the_corrected_cells_in_components_beside_genes_or_alone(kind, tmp_path):
    datas = batches(kind, tmp_path)
    whole, mnns, _ = mnn_correct(*datas, **OPTIONS)
    alone, mnns_alone, _ = mnn_correct(*datas, **OPTIONS, genes="none")
    for result in (whole, alone):
        assert isinstance(result.obsm["X_mnn"], da.Array) == isinstance(whole.X, da.Array)
        np.testing.assert_allclose(computed(result.obsm["X_mnn"]), np.concatenate(expected()), atol=1e-10)
        assert set(result.obsm) == {"X_scVI", "X_mnn"}
        assert list(result.var_names) == GENES
    assert whole.X.shape == (180, 40)
    assert alone.X is None
    assert alone.raw is None
    assert set(whole.layers) - {None} == {"twice"}
    assert set(alone.layers) - {None} == set()
    assert alone.obs.equals(whole.obs)
    for one, other in zip(mnns, mnns_alone, strict=True):
        assert one.equals(other)


@pytest.mark.parametrize("kind", ["anndata", "backed-csr"])
@pytest.mark.parametrize("options", [{"refine": True, "var_adj": False}, {"cos_norm_out": False}])
def test_results_in_parts_have_their_own(kind, options, tmp_path):
    parts, _, _ = mnn_correct(*batches(kind, tmp_path), **OPTIONS, **options, do_concatenate=False)
    for part, wanted in zip(parts, expected(**options), strict=True):
        np.testing.assert_allclose(computed(part.obsm["X_mnn"]), wanted, atol=1e-10)


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("genes", ["all", "none"])
def test_one_anndata_keeps_its_order(joined, genes):
    adata, batch = one_anndata(["x", "y", "z"])
    options = {"batch_key": "sample", "mnn_order": ["x", "y", "z"], "genes": genes}
    result, _, _ = mnn_correct(adata, **OPTIONS, **options, do_concatenate=joined)
    names = list(dict.fromkeys(adata.obs["sample"]))
    parts = result if not joined else [result[result.obs["sample"] == name] for name in names]
    assert len(parts) == 3
    for part, name in zip(parts, names, strict=True):
        rows = np.flatnonzero(adata.obs["sample"] == name)
        assert list(part.obs_names) == list(adata.obs_names[rows])
        found = sorted(map(tuple, np.round(part.obsm["X_mnn"], 6)))
        assert len(found) == len(rows)
    reference = result if joined else parts[names.index("x")]
    assert (batch == 0).sum() == 60
    assert reference.obsm["X_mnn"].shape[1] == 6


def test_no_components_no_embedding():
    assert "X_mnn" not in mnn_correct(*batches(), k=10, diagnostics=False)[0].obsm


def test_matrices_stay_matrices():
    corrected, _, _ = mnn_correct(*make_batches(), **OPTIONS)
    assert corrected.shape == (180, 40)


def lazy_anndatas():
    pairs = [counted(X, (19, 40)) for X in make_batches()]
    datas = [as_anndata(lazy, f"b{i}_") for i, (lazy, _) in enumerate(pairs)]
    return datas, [reads for _, reads in pairs]


@pytest.mark.parametrize("genes", ["all", "none"])
def test_nothing_is_computed_for_an_embedding_that_nobody_asked_for(genes):
    datas, _ = lazy_anndatas()
    corrector = MNNCorrector(**OPTIONS, genes=genes).fit(datas)
    with no_compute():
        result = corrector.transform(datas)
    with pytest.raises(AssertionError), no_compute():
        result.obsm["X_mnn"].compute()


def test_genes_and_embedding_computed_together_read_each_chunk_once():
    datas, reads = lazy_anndatas()
    result, _, _ = mnn_correct(*datas, **OPTIONS)
    before = [dict(counter) for counter in reads]
    X, embedding = dask.compute(result.X, result.obsm["X_mnn"])
    assert [{key: n - 1 for key, n in counter.items()} for counter in reads] == before
    assert (X.shape, embedding.shape) == ((180, 40), (180, 6))
    result.obsm["X_mnn"].compute()  # alone, too
    assert [{key: n - 2 for key, n in counter.items()} for counter in reads] == before


@pytest.mark.parametrize("genes", ["all", "none"])
def test_its_tasks_have_a_name_of_their_own(genes):
    result, _, _ = mnn_correct(*lazy_anndatas()[0], **OPTIONS, genes=genes)
    names = {key_split(key) for key in result.obsm["X_mnn"].__dask_graph__()}
    assert "mnn-embedding" in names
    assert "mnn-correct" not in names


def test_as_many_components_as_genes_are_the_genes():
    datas = batches()
    result, _, _ = mnn_correct(*datas, **OPTIONS | {"n_components": 40})
    np.testing.assert_allclose(result.obsm["X_mnn"], result.X, atol=1e-10)


@pytest.mark.parametrize("keep_derived", [False, True])
@pytest.mark.parametrize("n_components", [6, None])
def test_an_embedding_of_an_earlier_correction_is_replaced(keep_derived, n_components, recwarn):
    datas = batches()
    for adata in datas:
        adata.obsm["X_mnn"] = np.zeros((adata.n_obs, 3))
    result, _, _ = mnn_correct(
        *datas, **OPTIONS | {"n_components": n_components, "keep_derived": keep_derived}
    )
    said = [str(one.message) for one in recwarn if "X_mnn" in str(one.message)]
    if n_components is None:
        assert ("X_mnn" in result.obsm) == keep_derived
        assert len(said) == (not keep_derived)
    else:
        np.testing.assert_allclose(result.obsm["X_mnn"], np.concatenate(expected()), atol=1e-10)
        assert said == []
    assert datas[0].obsm["X_mnn"].shape == (60, 3)


def test_cells_that_were_not_fitted_are_embedded():
    corrector = MNNCorrector(**OPTIONS).fit(batches())
    other = as_anndata(make_batches(seed=3)[1], "new")
    result = corrector.transform([other], batches=["1"])
    np.testing.assert_allclose(result.obsm["X_mnn"], corrector.model_.embed(1, other.X), atol=1e-12)


def test_the_record_says_where_the_embedding_is():
    values = mnn_correct(*batches(), **OPTIONS)[0].uns["mnn"]["values"]
    assert values["where"] == "X"
    assert values["embedding"].startswith("obsm['X_mnn']: corrected cells in up to 6 principal components")
    values = mnn_correct(*batches(), **OPTIONS, genes="none")[0].uns["mnn"]["values"]
    assert values["where"] == "obsm['X_mnn']"


# ----------------------------------------------------------------- genes="none"


@pytest.mark.parametrize("suffix", ["zarr", "h5ad"])
def test_it_can_be_written_and_read(suffix, tmp_path):
    alone, _, _ = mnn_correct(*batches("path-zarr", tmp_path), **OPTIONS, genes="none")
    getattr(alone, f"write_{suffix}")(tmp_path / f"out.{suffix}")
    found = getattr(ad, f"read_{suffix}")(tmp_path / f"out.{suffix}")
    np.testing.assert_allclose(found.obsm["X_mnn"], np.concatenate(expected()), atol=1e-10)
    assert found.X is None


@pytest.mark.parametrize("kind", MATRICES)
def test_matrices_become_coordinates(kind, tmp_path):
    result, _, _ = mnn_correct(*batches(kind, tmp_path), **OPTIONS, genes="none")
    np.testing.assert_allclose(values(result), np.concatenate(expected()), atol=1e-10)
    if kind.startswith("dataarray"):
        assert result.dims == ("cell", "component")
        assert isinstance(result.data, da.Array) == (kind == "dataarray-dask")
        assert result.name is None
    parts, _, _ = mnn_correct(*batches(kind, tmp_path), **OPTIONS, genes="none", do_concatenate=False)
    for part, wanted in zip(parts, expected(), strict=True):
        np.testing.assert_allclose(values(part), wanted, atol=1e-10)


def test_coordinates_keep_what_is_known_of_the_cells():
    cells = [
        xr.DataArray(
            X,
            dims=("cell", "gene"),
            coords={"gene": GENES, "cell": [f"{i}-{j}" for j in range(len(X))], "depth": ("cell", X.sum(1))},
            name="expression",
            attrs={"unit": "log"},
        )
        for i, X in enumerate(make_batches())
    ]
    result, _, _ = mnn_correct(*cells, **OPTIONS, genes="none")
    assert list(result.coords) == ["cell", "depth"]
    assert (result.name, result.attrs) == ("expression", {"unit": "log"})


def test_vectors_of_genes_are_not_looked_for(monkeypatch):
    monkeypatch.setattr("mnndask.core.other_genes.OtherGenes.vectors", None)
    mnn_correct(*make_batches(), **OPTIONS, genes="none")
    with pytest.raises(TypeError):
        mnn_correct(*make_batches(), **OPTIONS)


def test_the_estimator_names_components():
    corrector = MNNCorrector(**OPTIONS, genes="none").fit(make_batches())
    assert list(corrector.get_feature_names_out()) == [f"mnncorrector{i}" for i in range(6)]
    assert corrector.transform(make_batches()).shape == (180, 6)


def test_a_fit_gives_what_it_was_made_for():
    corrector = MNNCorrector(**OPTIONS, genes="none").fit(make_batches())
    with pytest.raises(InputError, match="fitted with genes='none', without vectors of genes"):
        corrector.set_params(genes="all").transform(make_batches())
    with pytest.raises(InputError, match="fitted with genes='none'"):
        corrector.model_.correct(1, make_batches()[1])
    corrector = MNNCorrector(k=10).fit(make_batches())
    with pytest.raises(InputError, match="the correction was fitted without n_components"):
        corrector.set_params(genes="none", n_components=6).transform(make_batches())
    assert "X_mnn" not in corrector.set_params(genes="all").transform(batches()).obsm


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_components": None}, r"genes='none' was given without n_components.*\nGive n_components=50"),
        ({"layer_added": "mnn"}, r"layer_added='mnn' was given, but with genes='none'"),
        ({"save_raw": True}, r"save_raw=True was given, but with genes='none'"),
    ],
)
def test_what_does_not_go_with_it_is_refused_before_the_work(options, said, monkeypatch):
    monkeypatch.setattr("mnndask.api.corrector.read_inputs", None)
    with pytest.raises(InputError, match=said):
        mnn_correct(*batches(), **OPTIONS | options, genes="none")


def test_memory_is_that_of_the_result(monkeypatch):
    free = 180 * 20 * 8  # more than the embedding takes, less than the genes
    kind = type("Free", (), {"size": free, "limited_by": "free memory"})
    monkeypatch.setattr("mnndask.engine.run_options.free_memory", kind)
    options = OPTIONS | {"memory_limit": "1GB"}
    with pytest.warns(UserWarning, match="more than there is"):
        assert mnn_correct(*make_batches(), **options, genes="none")[0].shape == (180, 6)
    with (
        pytest.warns(UserWarning, match="more than there is"),
        pytest.raises(ResultTooLargeError, match="180 cells x 40 genes"),
    ):
        mnn_correct(*make_batches(), **options)


def test_sparse_data_of_a_subset():
    datas = [sparse.csr_matrix(X) for X in make_batches()]
    options = {"var_index": GENES, "var_subset": GENES[5:35], "genes": "none"}
    result, _, _ = mnn_correct(*datas, **OPTIONS, **options)
    wanted, _, _ = mnn_correct(*[X[:, 5:35] for X in make_batches()], **OPTIONS, genes="none")
    np.testing.assert_allclose(result, wanted, atol=1e-10)
