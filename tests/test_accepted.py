"""Accepted without fuss: awkward but sound input gives what the plain run gives, and stays as it was."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import GENES, as_anndata, make_batches, values
from scipy import sparse
from test_errors import snapshot

from mnndask import mnn_correct

A, B = make_batches((30, 26), seed=3)
COUNTS = [np.round(10 * X) for X in (A, B)]  # whole numbers below 127
PLAIN = mnn_correct(A, B, k=5)[0]
TOLERANCE = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 1e-4}


def check(*batches, plain=None, dtype=np.float64, **options):
    """Correct, compare with the plain run, and see that nothing that was given has changed."""
    before = snapshot(batches)
    corrected, mnns, _ = mnn_correct(*batches, **{"k": 5} | options)
    found = values(corrected)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found, PLAIN if plain is None else plain, rtol=0, atol=TOLERANCE[np.dtype(dtype)]
    )
    assert len(mnns) == len(
        corrected.obs["batch"].cat.categories if isinstance(corrected, ad.AnnData) else batches
    )
    assert snapshot(batches) == before
    return corrected


def read_only(X):
    out = X.copy()
    out.flags.writeable = False
    return out


def inside(X):
    """The same values as a view of a larger array, contiguous in neither direction."""
    larger = np.full((2 * X.shape[0] + 1, 3 * X.shape[1] + 2), np.nan)
    larger[1::2, 2::3] = X
    return larger[1::2, 2::3]


LAYOUTS = {
    "fortran": np.asfortranarray,
    "read-only": read_only,
    "strided": inside,
    "reversed": lambda X: np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "big-endian": lambda X: X.astype(">f8"),
    "unaligned": lambda X: np.frombuffer(b"\0" + X.tobytes(), np.uint8)[1:].view(np.float64).reshape(X.shape),
    "broadcast-row": lambda X: np.broadcast_to(X[None], (1, *X.shape))[0],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("wrap", [np.asarray, as_anndata], ids=["array", "anndata"])
def test_memory_layout(layout, wrap):
    one, two = wrap(layout(A)), wrap(layout(B))
    if wrap is as_anndata:
        two.obs_names = [f"b{i}" for i in range(two.n_obs)]
    check(one, two)


DTYPES = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "f2", "f4", ">f4", ">i4"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_other_numbers_are_computed_in_single_precision(dtype, kind):
    if kind is sparse.csr_array and dtype in {"f2", ">f4", ">i4"}:
        pytest.skip("scipy has no such sparse matrices")
    cast = [(X > 20) if dtype == "?" else X.astype(dtype) for X in COUNTS]
    plain = mnn_correct(*(X.astype(np.float64) for X in cast), k=5)[0]
    check(*map(kind, cast), plain=plain, dtype=np.float32)


@pytest.mark.parametrize("other", ["f4", "i8", "u1"])
def test_one_double_batch_makes_all_double(other):
    one, two = COUNTS[0], COUNTS[1].astype(other)
    check(one, two, plain=mnn_correct(*COUNTS, k=5)[0])
    check(one.astype(">f8"), two, plain=mnn_correct(*COUNTS, k=5)[0])


def test_long_double_is_computed_as_double():
    check(A.astype(np.longdouble), B.astype(np.longdouble))


def csr(X, change):
    out = sparse.csr_matrix(X)
    change(out)
    return out


def unsort(X):
    for start, stop in zip(X.indptr[:-1], X.indptr[1:], strict=True):
        X.indices[start:stop] = X.indices[start:stop][::-1]
        X.data[start:stop] = X.data[start:stop][::-1]
    X.has_sorted_indices = False


def lengthen(X):
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)


def twice(X):
    """Every value stored in two halves."""
    coo = sparse.coo_matrix(X)
    row, col = np.tile(coo.row, 2), np.tile(coo.col, 2)
    order = np.argsort(row, kind="stable")
    indptr = np.searchsorted(row[order], np.arange(X.shape[0] + 1))
    return sparse.csr_matrix((np.tile(coo.data / 2, 2)[order], col[order], indptr), X.shape)


def with_zeros(X):
    _, columns = np.indices(X.shape).reshape(2, -1)
    return sparse.csr_matrix((X.ravel(), columns, np.arange(0, X.size + 1, X.shape[1])), X.shape)


def frozen(X):
    for part in (X.data, X.indices, X.indptr):
        part.flags.writeable = False


SPARSE = {
    "csc": sparse.csc_matrix,
    "csc_array": sparse.csc_array,
    "coo": sparse.coo_matrix,
    "lil": sparse.lil_array,
    "dok": sparse.dok_matrix,
    "bsr": sparse.bsr_array,
    "unsorted": lambda X: csr(X, unsort),
    "int64-indices": lambda X: csr(X, lengthen),
    "duplicate-entries": twice,
    "explicit-zeros": with_zeros,
    "read-only": lambda X: csr(X, frozen),
}


@pytest.mark.parametrize("make", SPARSE.values(), ids=SPARSE)
def test_sparse_layout(make):
    check(make(A), make(B), restrict=[np.arange(30)[::-1], None])


@pytest.mark.parametrize(
    "make", [SPARSE[k] for k in ("csc", "unsorted", "duplicate-entries", "explicit-zeros")]
)
def test_sparse_layout_in_anndata(make):
    check(as_anndata(make(A)), as_anndata(make(B), "b"))


def test_zero_cells_and_genes():
    one, two = A.copy(), B.copy()
    one[[0, 7]], two[3] = 0, 0
    one[:, [1, 39]] = two[:, [1, 39]] = 0
    corrected = check(one, two, plain=mnn_correct(sparse.csr_matrix(one), sparse.csr_matrix(two), k=5)[0])
    assert np.isfinite(corrected).all()
    np.testing.assert_array_equal(corrected[[0, 7]], 0)
    np.testing.assert_array_equal(corrected[:, [1, 39]], 0)


def test_nothing_but_zeros():
    corrected = mnn_correct(0 * A, 0 * B, k=5, svd_dim=2, compute_angle=True)[0]
    np.testing.assert_array_equal(corrected, 0)


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("options", [{}, {"svd_dim": 2, "compute_angle": True}], ids=["plain", "svd"])
def test_one_cell_batch(where, options):
    batches = [A, B]
    batches[where] = batches[where][:1]
    assert np.isfinite(check(*batches, plain=mnn_correct(*batches, k=1, **options)[0], k=1, **options)).all()


def test_large_values_keep_their_direction():
    check(1e200 * A, 1e200 * B)


def test_k_larger_than_a_batch():
    with pytest.warns(
        UserWarning, match=r"k=28 is more than the 26 cells used of batch 'y'.*\nGive a smaller k"
    ):
        corrected = mnn_correct(*labelled("x", "y"), k=28, batch_key="s")[0]
    with pytest.warns(UserWarning, match=r"k=26 .* 9 cells used of batch '0'"):
        mnn_correct(A, B, k=26, restrict=[np.arange(9), None])
    check(A, B, k=26, plain=mnn_correct(as_anndata(A), as_anndata(B, "b"), k=26)[0].X)
    assert corrected.n_obs == 56


def labelled(*labels):
    out = as_anndata(A), as_anndata(B, "b")
    for adata, label in zip(out, labels, strict=True):
        adata.obs["s"] = label
    return out


@pytest.mark.parametrize(
    "label",
    [
        lambda names, n: pd.Categorical([names[0]] * n, categories=["unused", *names]),
        lambda names, n: pd.array([names[0]] * n, dtype="string"),
        lambda names, n: np.array([names[0]] * n, dtype=object),
        lambda names, n: np.full(n, len(names[0])),
        lambda names, n: np.full(n, len(names[0]) > 4),
        lambda names, n: np.full(n, len(names[0]) / 2),
    ],
    ids=["categorical", "string", "object", "integer", "bool", "float"],
)
def test_kind_of_label(label):
    first, second = label(["naïf", "Ωmega"], 30), label(["Ωmega", "naïf"], 26)
    parts = labelled(first, second)
    before = snapshot(parts)
    apart = mnn_correct(*parts, k=5, batch_key="s")[0]
    whole = ad.concat(parts)
    whole.obs["s"] = whole.obs["s"].astype("string") if isinstance(first[0], str) else whole.obs["s"]
    together = mnn_correct(whole, k=5, batch_key="s")[0]
    for result in (apart, together):
        np.testing.assert_allclose(result.X, PLAIN, rtol=0, atol=1e-10)
        assert list(result.obs["s"]) == [first[0]] * 30 + [second[0]] * 26
        assert list(result.obs["s"].cat.categories) == [first[0], second[0]]
    assert snapshot(parts) == before


def test_names_in_any_script(tmp_path):
    genes = ["β-globin", "基因", "ген", " spaced ", "a/b", *GENES[5:]]
    parts = as_anndata(A, "細胞", genes), as_anndata(B, "κύτταρο", genes)
    corrected = check(*parts, batch_categories=["Zürich", "上海"], var_subset=genes)
    assert list(corrected.var_names) == genes
    assert corrected.obs_names[0] == "細胞0-Zürich"
    corrected.write_h5ad(tmp_path / "結果.h5ad")
    again = ad.read_h5ad(tmp_path / "結果.h5ad")
    assert list(again.obs["batch"].cat.categories) == ["Zürich", "上海"]
    pd.testing.assert_frame_equal(again.uns["mnn"]["steps"], corrected.uns["mnn"]["steps"])


def test_cell_names_shared_by_batches_are_told_apart():
    assert check(as_anndata(A), as_anndata(B)).obs_names.is_unique


def test_cell_names_left_duplicated_on_request():
    with pytest.warns(UserWarning, match="Cell names are not unique over the batches and are left so"):
        corrected = mnn_correct(as_anndata(A), as_anndata(B), k=5, index_unique=None)[0]
    assert list(corrected.obs_names[30:32]) == ["a0", "a1"]


def test_duplicate_cell_names_are_made_unique():
    parts = as_anndata(A), as_anndata(B, "b")
    parts[0].obs_names = ["same"] * 30
    with pytest.warns(UserWarning, match="Cell names are not unique") as caught:
        corrected = mnn_correct(*parts, k=5)[0]
    assert len([w for w in caught if w.category is UserWarning]) == 1
    assert corrected.obs_names.is_unique
    assert list(corrected.obs_names[:2]) == ["same-0", "same-0-1"]
    assert set(parts[0].obs_names) == {"same"}


def test_views_of_one_anndata():
    whole = ad.concat(labelled("x", "y"))
    whole = whole[np.random.default_rng(0).permutation(56)].copy()
    whole.obs["s"] = whole.obs["s"].astype("category")
    before = snapshot(whole)
    parts = [whole[whole.obs["s"] == label] for label in ("x", "y")]
    corrected = mnn_correct(*parts, k=5, batch_key="s", var_subset=GENES[:20])[0]
    plain = mnn_correct(*(part.X for part in parts), k=5, var_index=GENES, var_subset=GENES[:20])[0]
    np.testing.assert_allclose(corrected.X, plain, rtol=0, atol=1e-10)
    assert all(part.is_view for part in parts)
    assert snapshot(whole) == before


@pytest.mark.filterwarnings("ignore:.*express none of the genes:UserWarning")
def test_subset_order_and_container_do_not_matter():
    parts = as_anndata(A), as_anndata(B, "b")
    plain = mnn_correct(*parts, k=5, var_subset=["g1", "g5", "g9"])[0].X
    for subset in (
        ("g9", "g1", "g5"),
        {"g5", "g1", "g9"},
        pd.Index(["g5", "g9", "g1"]),
        pd.Series(["g5", "g9", "g1"]),
    ):
        check(*parts, plain=plain, var_subset=subset)


def test_result_shares_no_memory_with_the_input():
    for options in ({"cos_norm_out": False, "cos_norm_in": False}, {"layer": "twice"}):
        parts = as_anndata(A.copy()), as_anndata(B.copy(), "b")
        before = snapshot(parts)
        for out in mnn_correct(*parts, k=5, do_concatenate=False, save_raw=True, **options)[0]:
            out.X[:] = -1
            out.obs["depth"] = -1
            out.var["new"] = 1
        assert snapshot(parts) == before


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix])
def test_cells_without_the_genes_used_for_distances_are_told_of(layout):
    batches = make_batches()
    batches[1][3:5, :10] = 0
    batches[1][6] = 0
    options = {"k": 5, "var_index": range(40), "var_subset": range(10)}
    with pytest.warns(UserWarning, match="2 cell.s. of batch '1' express none"):
        mnn_correct(*map(layout, batches), **options)
    mnn_correct(*map(layout, batches), **options, cos_norm_out=False)
