"""Corrections in place: what they write, what they leave alone, and what they refuse."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from helpers import GENES, KINDS, make_batches
from scipy import sparse
from scipy.stats import ortho_group

import mnndask
from mnndask import RECOMMENDED, mnn_correct
from mnndask.errors import InputError, InputKeyError, InputTypeError, NonFiniteError
from mnndask.pp import mnn_integrate

LABELS = np.repeat(["x", "y", "z"], [60, 70, 50])
FEW = {"n_components": 8}


def dense(X):
    X = X.compute() if isinstance(X, da.Array) else X
    return X.toarray() if sparse.issparse(X) else np.asarray(X)


def one(kind="anndata", folder=None):
    """All batches in one AnnData of a kind, in mixed order."""
    order = np.random.default_rng(0).permutation(180)
    adata = KINDS[kind](np.concatenate(make_batches())[order], folder, "c")
    adata.obs["sample"] = LABELS[order]
    return adata


def embedded(dtype=np.float64, *, scale=1.0):
    """One AnnData with coordinates of its cells in 6 dimensions."""
    adata = one()
    U, s, _ = np.linalg.svd(adata.X - adata.X.mean(axis=0), full_matrices=False)
    adata.obsm["X_pca"] = (scale * U[:, :6] * s[:6]).astype(dtype)
    return adata


def alone(X, adata):
    """An AnnData of values with the batches of another."""
    obs = pd.DataFrame({"sample": np.asarray(adata.obs["sample"])}, index=list(adata.obs_names))
    return ad.AnnData(np.asarray(dense(X)), obs=obs, var=pd.DataFrame(index=GENES[: X.shape[1]]))


def expected(adata, **options):
    settings = {**RECOMMENDED, **FEW, "diagnostics": False, **options}
    return mnn_correct(alone(adata.X, adata), batch_key="sample", **settings)[0]


# ------------------------------------------------------------------ genes


@pytest.mark.parametrize("kind", ["anndata", "anndata-csr", "anndata-dask", "backed-csr", "lazy-zarr"])
def test_cells_are_corrected_in_components_and_x_is_not_touched(kind, tmp_path):
    adata = one(kind, tmp_path)
    before, X = dense(adata.X if kind != "backed-csr" else adata.to_memory().X), adata.X
    assert mnn_integrate(adata, "sample", **FEW) is None
    settings = {**RECOMMENDED, **FEW, "diagnostics": False}
    wanted = mnn_correct(alone(before, adata), batch_key="sample", **settings)[0].obsm["X_mnn"]
    np.testing.assert_allclose(dense(adata.obsm["X_mnn"]), wanted, atol=1e-10)
    assert isinstance(adata.obsm["X_mnn"], da.Array) == (kind not in {"anndata", "anndata-csr"})
    assert kind == "backed-csr" or adata.X is X
    np.testing.assert_array_equal(dense(adata.X if kind != "backed-csr" else adata.to_memory().X), before)
    assert set(adata.obsm) == {"X_scVI", "X_mnn"}
    assert adata.uns["mnn"]["values"]["where"] == "obsm['X_mnn']"


def test_genes_are_corrected_into_a_layer_if_asked_for():
    adata = one()
    mnn_integrate(adata, "sample", layer_added="mnn", key_added="X_fixed", **FEW)
    wanted = expected(adata)
    np.testing.assert_allclose(adata.layers["mnn"], wanted.X, atol=1e-10)
    np.testing.assert_allclose(adata.obsm["X_fixed"], wanted.obsm["X_mnn"], atol=1e-10)
    values = adata.uns["mnn"]["values"]
    assert values["where"] == "layers['mnn']"
    assert values["embedding"].startswith("obsm['X_fixed']: ")
    mnn_integrate(adata, "sample", layer_added="mnn", **FEW)  # again


@pytest.mark.parametrize("how", ["default", "name", "array", "none", "absent"])
def test_the_mask_says_which_genes_are_compared(how):
    adata = one()
    marked = np.arange(40) % 3 > 0
    adata.var["highly_variable" if how in {"default", "none"} else "chosen"] = marked
    given = {"name": {"mask_var": "chosen"}, "array": {"mask_var": list(marked)}, "none": {"mask_var": None}}
    mnn_integrate(adata, "sample", **FEW, **given.get(how, {}))
    subset = None if how in {"none", "absent"} else [g for g, m in zip(GENES, marked, strict=True) if m]
    wanted = expected(adata, var_subset=subset).obsm["X_mnn"]
    np.testing.assert_allclose(adata.obsm["X_mnn"], wanted, atol=1e-10)


def test_a_copy_leaves_the_data_alone():
    adata = one()
    out = mnn_integrate(adata, "sample", copy=True, **FEW)
    assert "X_mnn" in out.obsm
    assert "mnn" in out.uns
    assert set(adata.obsm) == {"X_scVI"}
    assert not adata.uns


def test_columns_of_an_earlier_correction_are_replaced_or_go():
    adata = embedded()
    adata.obs["mnn_sample"], adata.obs["mnn_support"] = 1, 2.0
    mnn_integrate(adata, "sample", basis="X_pca")
    assert "mnn_sample" not in adata.obs
    support = adata.obs["mnn_support"]
    assert set(adata.obs["sample"][support.isna()]) == {adata.uns["mnn"]["steps"]["batch"].iloc[0]}
    assert support.dropna().between(0, 1).all()
    mnn_integrate(adata, "sample", basis="X_pca", refine=False)
    assert "mnn_support" not in adata.obs


def test_the_record_serves_plots_and_is_written(tmp_path):
    adata = embedded()
    for options in ({"n_components": 8, "layer_added": "mnn"}, {"basis": "X_pca"}):
        mnn_integrate(adata, "sample", **options)
        assert "mnn_sample" not in adata.obs
        mnn_integrate(adata, "sample", **options, diagnostics=True)
        assert adata.obs["mnn_sample"].max() == 179
        mnndask.pl.embedding(adata, "after", color="sample")
        adata.write_h5ad(tmp_path / "out.h5ad")
    assert adata.uns["mnn"]["parameters"]["basis"] == "X_pca"
    assert adata.uns["mnn"]["values"]["scale"] == "obsm['X_pca'], shifted by the correction"


# ------------------------------------------------------------------ a basis


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_an_embedding_is_corrected_at_the_size_of_normalised_cells(dtype):
    adata = embedded(dtype)
    E = adata.obsm["X_pca"].copy()
    mnn_integrate(adata, "sample", basis="X_pca")
    assert adata.obsm["X_mnn"].dtype == dtype
    np.testing.assert_array_equal(adata.obsm["X_pca"], E)
    moved = E.astype(float) - E.mean(axis=0, dtype=float)
    factor = np.sqrt(0.15 / np.median((moved**2).sum(axis=1)))
    cells = alone(moved * factor, adata)
    plain = {**RECOMMENDED, "n_components": None, "cos_norm_in": False, "cos_norm_out": False}
    wanted = mnn_correct(cells, batch_key="sample", **plain, diagnostics=False)[0].X / factor + E.mean(axis=0)
    size = np.abs(E).max()
    np.testing.assert_allclose(
        adata.obsm["X_mnn"], wanted, atol=size * (1e-10 if dtype == np.float64 else 1e-4)
    )
    first = adata.obs["sample"].iloc[0]
    reference = np.asarray(adata.obs["sample"] == first)
    np.testing.assert_array_equal(adata.obsm["X_mnn"][reference], E[reference])
    assert np.abs(adata.obsm["X_mnn"] - E)[~reference].max() > 0.01 * size


@pytest.mark.parametrize("scale", [10.0, 1e-3, 1e150, 1e-150])
def test_ten_times_the_embedding_gives_ten_times_the_result(scale):
    small, large = embedded(), embedded(scale=scale)
    for adata in (small, large):
        mnn_integrate(adata, "sample", basis="X_pca")
    wanted = scale * small.obsm["X_mnn"]
    np.testing.assert_allclose(large.obsm["X_mnn"], wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


def test_rotated_and_shifted_embeddings_give_rotated_and_shifted_results():
    plain, turned = embedded(), embedded()
    turn, shift = ortho_group.rvs(6, random_state=0), np.arange(6) * 5.0
    turned.obsm["X_pca"] = turned.obsm["X_pca"] @ turn + shift
    for adata in (plain, turned):
        mnn_integrate(adata, "sample", basis="X_pca")
    np.testing.assert_allclose(turned.obsm["X_mnn"], plain.obsm["X_mnn"] @ turn + shift, atol=1e-8)


@pytest.mark.parametrize("kind", [pd.DataFrame, sparse.csr_matrix, da.asarray])
def test_embeddings_of_any_kind(kind):
    plain, other = embedded(), embedded()
    E = other.obsm["X_pca"]
    other.obsm["X_pca"] = kind(E, index=other.obs_names) if kind is pd.DataFrame else kind(E)
    for adata in (plain, other):
        mnn_integrate(adata, "sample", basis="X_pca")
    np.testing.assert_array_equal(other.obsm["X_mnn"], plain.obsm["X_mnn"])


# ------------------------------------------------------------------ bad input


def spoiled(change):
    adata = embedded()
    change(adata)
    return adata


def lose_label(adata):
    adata.obs.loc[adata.obs_names[3], "sample"] = None


def lose_coordinate(adata):
    adata.obsm["X_pca"][5, 2] = np.nan


def keep(adata):
    pass


BASIS = {"basis": "X_pca"}
BAD = {
    "unknown key": (keep, {"key": "nope"}, InputKeyError, "no column obs['nope']", "depth, sample"),
    "list": (keep, {"key": ["a", "b"]}, InputTypeError, "key is ['a', 'b']", "agg("),
    "missing label": (lose_label, {}, InputError, "1 cell(s) have no batch", "notna()"),
    "one batch": (lambda a: a.obs.__setitem__("sample", "x"), {}, InputError,
                  "one value only", "Name a column"),
    "no basis": (keep, {"basis": "X_lsi"}, InputKeyError, "no obsm['X_lsi']", "X_pca"),
    "nan": (lose_coordinate, BASIS, NonFiniteError, "obsm['X_pca'] contains NaN or infinity in row 5", ""),
    "flat": (lambda a: a.obsm.update({"X_pca": np.ones((180, 2))}), BASIS, InputError, "no scale", "differ"),
    "text": (lambda a: a.obsm.update({"X_pca": np.full((180, 2), "a")}), BASIS, InputTypeError, "type <U1",
             "numbers"),
    "layer of a basis": (keep, {**BASIS, "layer_added": "mnn"}, InputError, "no genes are", "Leave"),
    "components of a basis": (keep, {**BASIS, "n_components": 9}, InputError, "n_components was", "Leave"),
    "no components": (keep, {"n_components": None}, InputError, "n_components is None", "50"),
    "input layer": (keep, {"layer": "twice", "layer_added": "twice"}, InputError, "never", "Give another"),
    "option": (keep, {"batch_key": "x"}, InputTypeError, "no option batch_key", "mnn_correct"),
    "misspelt": (keep, {"sgima": 1}, InputTypeError, "no option sgima", "mnn_correct"),
    "k": (keep, {"k": 0}, InputError, "k is 0", "at least 1"),
    "mask": (keep, {"mask_var": "nope"}, InputKeyError, "no column var['nope']", "Columns of var: none."),
    "mask of wrong size": (keep, {"mask_var": [True]}, InputTypeError, "not a mask of 40 genes", "boolean"),
    "empty mask": (keep, {"mask_var": np.zeros(40, bool)}, InputError, "selects no genes", "None"),
    "slash": (keep, {"key_added": "a/b"}, InputError, "key_added is 'a/b'", "slashes"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "options", "error", "first", "second"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_the_work(change, options, error, first, second, monkeypatch):
    adata = spoiled(change)
    monkeypatch.setattr("mnndask.api.corrector.fit_inputs", None)
    with pytest.raises(error) as found:
        mnn_integrate(adata, **{"key": "sample", **options})
    what, *rest = str(found.value).strip("'\"").splitlines()
    assert first in what or first in "\n".join([what, *rest])
    assert second in "\n".join(rest)
    assert set(adata.obsm) == {"X_scVI", "X_pca"}
    assert "mnn" not in adata.uns


def test_only_one_anndata_is_taken(tmp_path):
    with pytest.raises(InputTypeError, match="The data is of type list"):
        mnn_integrate([one(), one()], "sample")
    with pytest.raises(InputError, match="copy=True was given, but the AnnData is backed"):
        mnn_integrate(one("backed-csr", tmp_path), "sample", copy=True)


# ------------------------------------------------------------------ designs


@pytest.mark.parametrize("basis", [None, "X_pca"])
def test_columns_of_designs_are_those_of_the_data(basis):
    adata, plain = embedded(), embedded()
    alone_there = (adata.obs["sample"] == "x").to_numpy()  # which is not the first
    for data in (adata, plain):
        data.obsm["X_pca"][alone_there] += 0.5 * np.abs(data.obsm["X_pca"]).max()
    adata.obs["tissue"] = np.where(alone_there, "t", "s")
    adata.obs["control"] = np.arange(adata.n_obs) % 3 > 0
    options = {"basis": basis, **({} if basis else FEW)}
    mnn_integrate(adata, "sample", within="tissue", protect="tissue", restrict="control", **options)
    mnn_integrate(plain, "sample", **options)
    moved = np.abs(adata.obsm["X_mnn"] - plain.obsm["X_mnn"])[alone_there]
    assert moved.max() > 1e-3 * np.abs(plain.obsm["X_mnn"]).max()
    assert adata.uns["mnn"]["parameters"]["within"] == "tissue"
    assert "confounded" not in adata.uns["mnn"]


def test_a_column_of_a_design_that_is_missing_is_named():
    with pytest.raises(InputKeyError, match="no column 'plate' in obs, which within names"):
        mnn_integrate(one(), "sample", within="plate", **FEW)
