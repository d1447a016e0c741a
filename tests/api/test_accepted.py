"""Accepted without fuss: awkward but sound input gives what the plain run gives, and stays as it was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from accepted_inputs import A, B, check
from helpers import as_anndata, make_batches
from scipy import sparse
from snapshots import snapshot

from mnndask import mnn_correct

pytestmark = pytest.mark.filterwarnings("ignore:The values of")  # which are unusual here

COUNTS = [np.round(10 * X) for X in (A, B)]  # whole numbers below 127


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
    with pytest.warns(UserWarning, match="moved none of its cells"):
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
