"""Results as AnnData: what is recorded, files that hold them, what scanpy makes of them; tables of pairs."""

from __future__ import annotations

import pickle

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from helpers import GENES, KINDS, as_anndata, make_batches, one_anndata, values
from scipy import sparse as sp
from scipy.spatial.distance import cdist

from mnndask import mnn_correct

STORABLE = (str, bool, int, float, np.generic)


def batches(kind="anndata", folder=None):
    return [KINDS[kind](X, folder, f"b{i}") for i, X in enumerate(make_batches())]


def awkward(folder):
    """Batches whose tables differ: columns that are missing, of other types, or mixed; names beyond ASCII."""
    a, b, c = (as_anndata(sp.csr_matrix(X), f"b{i}") for i, X in enumerate(make_batches()))
    a.obs["doublet"] = np.arange(60) % 2 == 0
    b.obs["donor"] = "süd"
    c.obs["type"] = pd.Categorical(["T"] * 50)
    b.obs["type"] = pd.Categorical(["B", "NK"] * 35)
    c.obs["count"] = np.arange(50)
    for i, data in enumerate((a, b, c)):
        data.var["symbol"] = pd.Categorical([g.upper() for g in GENES])
        data.var["own"] = i + 1
    return a, b, c


def as_stored(kind, folder):
    """Those batches, as another kind of input."""
    datas = awkward(folder)
    if kind == "memory":
        return list(datas)
    if kind == "split":
        whole = ad.concat(datas, join="outer", merge="same", label="batch", index_unique="-")
        return [whole[np.random.default_rng(0).permutation(180)].copy()]
    for i, data in enumerate(datas):
        data.write_zarr(folder / f"{i}.zarr") if "zarr" in kind else data.write_h5ad(folder / f"{i}.h5ad")
    opener = {
        "backed": lambda path: ad.read_h5ad(path, backed="r"),
        "lazy-zarr": ad.experimental.read_lazy,
        "lazy-h5ad": ad.experimental.read_lazy,
        "path-zarr": str,
        "path-h5ad": str,
    }[kind]
    return [opener(folder / f"{i}.{'zarr' if 'zarr' in kind else 'h5ad'}") for i in range(3)]


# In both formats what is in memory and what is lazy; of other kinds, each in one.
@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("memory", "zarr"),
        ("memory", "h5ad"),
        ("backed", "zarr"),
        ("lazy-zarr", "zarr"),
        ("lazy-zarr", "h5ad"),
        ("lazy-h5ad", "zarr"),
        ("path-zarr", "h5ad"),
        ("path-h5ad", "h5ad"),
        ("split", "h5ad"),
    ],
)
def test_results_are_written_and_read(kind, suffix, tmp_path):
    result = mnn_correct(*as_stored(kind, tmp_path), k=10, save_raw=True, var_subset=GENES[:30], svd_dim=2)[0]
    path = tmp_path / f"out.{suffix}"
    result.write_zarr(path) if suffix == "zarr" else result.write_h5ad(path)
    back = ad.read_zarr(path) if suffix == "zarr" else ad.read_h5ad(path)
    np.testing.assert_array_equal(back.X, values(result))
    raw = back.raw.X.toarray() if sp.issparse(back.raw.X) else back.raw.X
    wanted = np.vstack(make_batches())
    np.testing.assert_array_equal(raw[np.lexsort(raw.T)], wanted[np.lexsort(wanted.T)])
    assert list(back.obs_names) == list(result.obs_names)
    assert list(back.raw.var_names) == GENES
    assert set(back.obs) == {"depth", "doublet", "donor", "type", "count", "batch", "mnn_sample"}
    for column in ("depth", "count", "type", "batch"):
        assert list(back.obs[column].astype(str)) == list(result.obs[column].astype(str))
    assert list(back.obs["doublet"].dropna().astype(bool)) == list(
        result.obs["doublet"].dropna().astype(bool)
    )
    assert set(back.obs["donor"].dropna()) == {"süd"}
    assert back.obs["donor"].isna().sum() == 110
    assert back.obs["doublet"].isna().sum() == 120
    assert list(back.obs["batch"].cat.categories) == list(result.obs["batch"].cat.categories)
    twice = back.layers["twice"]
    assert twice.shape == (180, 40)
    assert twice.nnz == sum(np.count_nonzero(X) for X in make_batches())
    assert back.obsm["X_scVI"].shape == (180, 2)
    assert list(back.var["symbol"]) == [g.upper() for g in GENES]
    assert "own" not in back.var
    pd.testing.assert_frame_equal(
        back.uns["mnn"]["steps"].astype(str), result.uns["mnn"]["steps"].astype(str), check_names=False
    )
    assert list(back.uns["mnn"]["parameters"]["var_subset"]) == GENES[:30]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"var_subset": pd.Index(GENES[:9]), "mnn_order": (2, 0, 1), "restrict": [None, np.arange(20), None]},
        {"svd_dim": 2, "svd_mode": "irlb", "tol": 1e-9, "ncv": 9, "v0": np.ones(40)},
        {"batch_categories": [3, 1, 2], "compute_angle": True, "layer": "twice"},
        {"k": np.int64(5), "sigma": np.float32(0.5), "random_state": np.random.default_rng(0).integers(9)},
    ],
)
def test_uns_holds_what_files_hold(options, tmp_path):
    result = mnn_correct(*batches(), **{"k": 10, **options})[0]

    def check(value, path):
        if isinstance(value, dict):
            for key, inner in value.items():
                assert isinstance(key, str), path
                check(inner, f"{path}/{key}")
        elif isinstance(value, np.ndarray):
            assert value.ndim <= 2, path
            assert value.dtype.kind in "biufUSTO", path
        else:
            assert isinstance(value, (*STORABLE, pd.DataFrame)), f"{path}: {type(value)}"

    check(result.uns["mnn"], "mnn")
    steps = result.uns["mnn"]["steps"]
    assert list(steps["n_cells"]) == [[60, 70, 50][b] for b in options.get("mnn_order", (0, 1, 2))]
    result.write_h5ad(tmp_path / "out.h5ad")
    result.write_zarr(tmp_path / "out.zarr")
    back = ad.read_h5ad(tmp_path / "out.h5ad").uns["mnn"]["parameters"]
    assert set(back) == set(result.uns["mnn"]["parameters"])
    assert back["k"] == options.get("k", 10)


@pytest.mark.parametrize("suffix", ["zarr", "h5ad"])
def test_columns_of_other_types_in_each_batch_are_written(suffix, tmp_path):
    datas = batches()
    for data, value in zip(datas, (1, "two", 2.5), strict=True):
        data.obs["stage"] = value
    with pytest.warns(UserWarning, match="converts obs\\['stage'\\] to text"):
        result = mnn_correct(*datas, k=10)[0]
    path = tmp_path / f"out.{suffix}"
    result.write_zarr(path) if suffix == "zarr" else result.write_h5ad(path)
    back = ad.read_zarr(path) if suffix == "zarr" else ad.read_h5ad(path)
    assert list(back.obs["stage"].unique()) == ["1", "two", "2.5"]


def test_numbers_as_batches_are_written(tmp_path):
    datas = batches()
    for i, data in enumerate(datas):
        data.obs["lane"] = 10 - i
    result = mnn_correct(*datas, k=10, batch_key="lane")[0]
    assert list(result.obs["lane"].cat.categories) == [10, 9, 8]
    result.write_h5ad(tmp_path / "out.h5ad")
    assert list(ad.read_h5ad(tmp_path / "out.h5ad").obs["lane"]) == [10] * 60 + [9] * 70 + [8] * 50


def test_lists_are_written_too(tmp_path):
    for i, part in enumerate(mnn_correct(*batches(), k=10, do_concatenate=False, save_raw=True)[0]):
        assert part.uns["mnn"]["parameters"]["k"] == 10
        assert list(part.obs["batch"].cat.categories) == ["0", "1", "2"]
        part.write_h5ad(tmp_path / f"{i}.h5ad")
        back = ad.read_h5ad(tmp_path / f"{i}.h5ad")
        np.testing.assert_array_equal(back.X, part.X)
        np.testing.assert_array_equal(back.raw.X, make_batches()[i])


@pytest.mark.parametrize("kind", ["anndata", "lazy-h5ad"])
def test_scanpy_goes_on_with_the_result(kind, tmp_path):
    sc = pytest.importorskip("scanpy")
    result = mnn_correct(*batches(kind, tmp_path), k=10)[0]
    result = result if kind == "anndata" else result.to_memory()
    sc.pp.pca(result, n_comps=5)
    sc.pp.neighbors(result, n_neighbors=8, method="gauss")  # "umap" compiles for a minute
    assert result.obsm["X_pca"].shape == (180, 5)
    assert result.obsp["connectivities"].shape == (180, 180)


# ---------------------------------------------------------------- tables of pairs


def mutual_pairs(new, ref, k):
    """Rows of new and ref that are among each other's nearest, sorted."""
    distances = cdist(new, ref)
    of_new = np.argsort(distances, axis=1)[:, :k]
    of_ref = np.argsort(distances, axis=0)[:k].T
    return sorted((i, int(j)) for i in range(len(new)) for j in of_new[i] if i in of_ref[j])


def pairs_of(table):
    return sorted(zip(table["new cell"], table["ref cell"], strict=True))


def test_tables_count_the_reference_in_merge_order():
    X = make_batches()
    parts, mnns, _ = mnn_correct(*X, k=5, mnn_order=[2, 0, 1], do_concatenate=False)
    assert [list(t.columns) for t in mnns] == [["new cell", "ref cell", "original batch"]] * 3
    assert mnns[2].empty
    first, norm = X[2], [x / np.linalg.norm(x, axis=1, keepdims=True) for x in X]
    np.testing.assert_allclose(parts[2], norm[2], rtol=0, atol=1e-12)
    assert pairs_of(mnns[0]) == mutual_pairs(norm[0], norm[2], 5)
    assert set(mnns[0]["original batch"]) == {2}
    reference = np.vstack([parts[2], parts[0]])
    assert pairs_of(mnns[1]) == mutual_pairs(norm[1], reference, 5)
    of_first = mnns[1]["ref cell"] < len(first)
    assert of_first.any()
    assert not of_first.all()
    np.testing.assert_array_equal(mnns[1]["original batch"], np.where(of_first, 2, 0))


def test_tables_count_all_cells_under_restrict():
    X = make_batches()
    restrict = [np.arange(5, 45), np.r_[60:70, 10:35], np.arange(49, 9, -1)]
    parts, mnns, _ = mnn_correct(*X, k=5, mnn_order=[1, 2, 0], restrict=restrict, do_concatenate=False)
    rows = [np.sort(r) for r in restrict]
    norm = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in X]
    wanted = mutual_pairs(norm[2][rows[2]], norm[1][rows[1]], 5)
    assert pairs_of(mnns[2]) == sorted((int(rows[2][i]), int(rows[1][j])) for i, j in wanted)
    reference, at = np.vstack([parts[1][rows[1]], parts[2][rows[2]]]), np.r_[rows[1], 70 + rows[2]]
    wanted = mutual_pairs(norm[0][rows[0]], reference, 5)
    assert pairs_of(mnns[0]) == sorted((int(rows[0][i]), int(at[j])) for i, j in wanted)
    np.testing.assert_array_equal(mnns[0]["original batch"], np.where(mnns[0]["ref cell"] < 70, 1, 2))
    assert mnns[1].empty


def test_tables_are_of_whole_numbers_and_do_not_share():
    mnns = mnn_correct(*make_batches(), k=5)[1]
    for table in mnns:
        assert all(dtype.kind == "i" for dtype in table.dtypes)
        assert isinstance(table.index, pd.RangeIndex)
    mnns = mnn_correct(*make_batches(), k=5, mnn_order=[1, 0, 2])[1]
    assert [t.empty for t in mnns] == [False, True, False]


def test_lazy_result_is_lazy_after_reading_back(tmp_path):
    """What was written opens lazily and corrects again."""
    mnn_correct(*batches("anndata-dask"), k=10)[0].write_zarr(tmp_path / "out.zarr")
    lazy = ad.experimental.read_lazy(tmp_path / "out.zarr")
    again = mnn_correct(lazy, k=10)[0]
    assert isinstance(again.X, da.Array)
    assert again.shape == (180, 40)


def test_tables_in_uns_of_one_lazy_anndata_are_written(tmp_path):
    adata, _ = one_anndata(["x", "y", "z"])
    adata.uns["ranks"] = pd.DataFrame({"q": [1, 2]}, index=["0", "1"])
    adata.write_zarr(tmp_path / "in.zarr")
    lazy = ad.experimental.read_lazy(tmp_path / "in.zarr")
    result = mnn_correct(lazy, k=5, batch_key="sample")[0]
    assert result.uns["ranks"].equals(adata.uns["ranks"])
    result.write_zarr(tmp_path / "out.zarr")
    assert ad.read_zarr(tmp_path / "out.zarr").uns["ranks"]["q"].tolist() == [1, 2]


def test_lazy_results_can_be_pickled():
    result = mnn_correct(*(da.from_array(X, chunks=(20, -1)) for X in make_batches()), k=5)[0]
    copied = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(copied.compute(), result.compute())
