"""Values so large that their squares overflow are refused by name, or computed where nothing is squared."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from helpers import as_anndata, make_batches, values
from scipy import sparse

from mnndask import MNNCorrector, mnn_correct
from mnndask.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:The values of")  # which are unusual here

A, B = make_batches((30, 26), seed=3)
RAW = {"cos_norm_in": False, "cos_norm_out": False}
SOME = [np.arange(20), np.arange(20)]  # cells to fit on, for `restrict`
KINDS = {
    "array": np.asarray,
    "csr": sparse.csr_matrix,
    "dask": lambda X: da.from_array(X, chunks=(7, -1)),
    "anndata": as_anndata,
}


def with_huge_cells(X, *rows, by, dtype):
    out = X.astype(dtype)
    out[list(rows)] *= by
    return out


def refusal(*batches, **options):
    with pytest.raises(InputError) as caught:
        values(mnn_correct(*batches, k=5, **options)[0])
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "Divide the values of all batches by one large number" in lines[1]
    return lines


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("options", [RAW, {"cos_norm_in": False}, {"cos_norm_out": False}], ids=str)
@pytest.mark.parametrize("restrict", [None, SOME], ids=["in-the-fit", "outside-the-sketch"])
def test_cells_too_long_to_square(kind, options, restrict):
    for by, dtype in [(1e17, np.float32), (1e19, np.float32), (1e37, np.float32), (1e155, np.float64)]:
        batches = A.astype(dtype), with_huge_cells(B, 22, 25, by=by, dtype=dtype)
        lines = refusal(*map(kind, batches), **options, restrict=restrict)
        assert "batch '1' contains " in lines[0]
        assert f"which is too large for distances in {np.dtype(dtype)} (at most " in lines[0]
        assert ("give them in float64" in lines[1]) == (dtype == np.float32)


def test_they_are_counted():
    (first, _) = refusal(A, with_huge_cells(B, 3, 9, 21, by=1e200, dtype=np.float64), **RAW)
    assert "contains 3 cell(s) of length up to " in first


def test_in_double_precision_they_are_computed():
    expected = mnn_correct(A, B, k=5, sigma=1, **RAW)[0]
    by = np.float64(2) ** 70  # exact, so that nothing rounds otherwise
    single = [(X * by).astype(np.float32) for X in (A, B)]
    refusal(*single, sigma=by**2, **RAW)
    double = [X * by for X in (A, B)]
    np.testing.assert_allclose(mnn_correct(*double, k=5, sigma=by**2, **RAW)[0] / by, expected, atol=1e-10)


@pytest.mark.parametrize(("by", "dtype"), [(2.0**48, np.float32), (2.0**495, np.float64)])
def test_values_just_below_the_bound_are_computed(by, dtype):
    options = {"svd_dim": 2, "compute_angle": True, "svd_mode": "svd"} | RAW
    batches = [X.astype(dtype) for X in (A, B)]
    expected, _, angles = mnn_correct(*batches, k=5, **options)
    found, _, found_angles = mnn_correct(*(X * dtype(by) for X in batches), k=5, sigma=by**2, **options)
    np.testing.assert_allclose(found / dtype(by), expected, atol=1e-4)
    np.testing.assert_allclose(found_angles[1], angles[1], atol=0.1)


@pytest.mark.parametrize(("by", "dtype"), [(1e36, np.float32), (1e306, np.float64)])
def test_normalised_cells_may_be_longer(by, dtype):
    expected = mnn_correct(A, B, k=5)[0]
    scaled = [X.astype(dtype) * dtype(by) for X in (A, B)]
    np.testing.assert_allclose(mnn_correct(*scaled, k=5)[0], expected, atol=1e-4)


def test_but_not_longer_than_a_number_can_be():
    for largest in (np.finfo(np.float32).max, np.finfo(np.float64).max):
        spoiled = with_huge_cells(B, by=1, dtype=np.asarray(largest).dtype)
        spoiled[4] = largest
        assert "batch '1' contains 1 cell(s) of length up to " in refusal(A.astype(spoiled.dtype), spoiled)[0]


@pytest.mark.parametrize("by", [1e155, 1e307])
@pytest.mark.parametrize("pilot", [1500, 20])
@pytest.mark.parametrize("cell", [0, 250])
def test_a_sketch_refuses_them_when_it_is_drawn(by, cell, pilot, monkeypatch):
    monkeypatch.setattr("mnndask.engine.project_cells.PILOT_CELLS", pilot)
    one, two = make_batches((300, 400))
    two[cell] *= by
    assert (
        "batch '1' contains 1 cell(s)" in refusal(one, two, sketch_size=50, sketch_method="mixed", **RAW)[0]
    )


def test_cells_that_are_new_to_a_fitted_correction():
    corrector = MNNCorrector(k=5, **RAW).fit([A.astype(np.float32), B.astype(np.float32)])
    with pytest.raises(InputError, match="batch '1' contains 26 cell"):
        corrector.transform([(B * 1e19).astype(np.float32)], ["1"])


def test_genes_that_are_not_used_for_distances_may_be_larger():
    by = np.ones(40)
    by[20:] = 2.0**110
    options = {"k": 5, "var_index": range(40), "var_subset": range(20)} | RAW
    expected = mnn_correct(A.astype(np.float32), B.astype(np.float32), **options)[0]
    found = mnn_correct(*((X * by).astype(np.float32) for X in (A, B)), **options)[0]
    np.testing.assert_allclose(found / by, expected, atol=1e-4)
