"""Every kind of input gives the values of the plain ndarray run, as what came in."""

from __future__ import annotations

import warnings
from functools import cache

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import GENES, IN_MEMORY, KINDS, make_batches, values
from scipy import sparse as sp

from mnndask import mnn_correct

pytestmark = pytest.mark.lowest

DTYPES = (np.float64, np.float32)
SUBSET = [*GENES[3:30:2], GENES[0]]
RESTRICT = [None, np.arange(1, 60, 2), np.r_[40:50, 3:30]]
OPTIONS = {
    "all-genes": {},
    "subset": {"var_subset": SUBSET},
    "subset-restrict-angles": {
        "var_subset": SUBSET,
        "restrict": RESTRICT,
        "cos_norm_out": False,
        "compute_angle": True,
    },
}


def is_anndata(kind):
    return kind.split("-")[0] in {"anndata", "backed", "lazy", "path"}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Batches of a kind; files are written once."""

    @cache
    def make(kind, dtype=np.float64):
        folder = tmp_path_factory.mktemp("kind")
        return [KINDS[kind](X, folder, f"b{i}") for i, X in enumerate(make_batches(dtype=dtype))]

    return make


def correct(kind, datas, **options):
    """The call, with the genes named where the kind does not name them."""
    if "var_subset" in options and not (is_anndata(kind) or kind.startswith("dataarray")):
        options["var_index"] = GENES
    return mnn_correct(*datas, k=10, **options)


@cache
def plain(option, dtype):
    """What the plain ndarray run gives; no test may change it."""
    return correct("ndarray", make_batches(dtype=dtype), **OPTIONS[option])


def assert_close(actual, expected, dtype):
    tolerance = {np.float64: 1e-10, np.float32: 1e-4}[dtype] * np.nanmax(np.abs(expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def assert_same_tables(actual, expected):
    assert len(actual) == len(expected)
    for table, other in zip(actual, expected, strict=True):
        pd.testing.assert_frame_equal(table, other)


def assert_form(result, kind, shape, dtype):
    """The type that came in; a lazy one in dense chunks of whole cells, as its meta says."""
    expected = ad.AnnData if is_anndata(kind) else xr.DataArray if kind.startswith("dataarray") else None
    if expected:
        assert isinstance(result, expected)
    X = result.X if isinstance(result, ad.AnnData) else result.data if expected else result
    assert X.shape == shape
    assert X.dtype == dtype
    if kind in IN_MEMORY:
        assert type(X) is np.ndarray
        return
    assert isinstance(X, da.Array)
    assert type(X._meta) is np.ndarray
    assert X._meta.dtype == dtype
    assert X._meta.ndim == 2
    assert X.numblocks[1] == 1
    block = X.blocks[0].compute()
    assert type(block) is np.ndarray
    assert block.dtype == dtype
    assert block.shape == X.blocks[0].shape


def assert_angles(angles, expected, kind, dtype):
    """Degrees per batch in input order, None for the reference, lazy if the data is."""
    if expected is None:
        assert angles is None
        return
    assert angles[0] is None
    assert all(isinstance(a, np.ndarray if kind in IN_MEMORY else da.Array) for a in angles[1:])
    for angle, other, n in zip(dask.compute(*angles[1:]), expected[1:], (70, 50), strict=True):
        assert angle.shape == (n,)
        assert angle.dtype == np.float64
        assert 0 <= angle.min() <= angle.max() <= 90
        np.testing.assert_allclose(angle, other, rtol=0, atol={np.float64: 1e-8, np.float32: 1e-2}[dtype])


def crossed():
    """Every kind in both precisions, every option in both, and every kind with all genes and with least.

    What "subset" asks for, "subset-restrict-angles" does too, so that a third of the kinds take it alone.
    """
    for i, kind in enumerate(KINDS):
        one, other = DTYPES[:: (1, -1)[i % 2]]
        yield kind, one, "all-genes"
        yield kind, other, "subset-restrict-angles"
        if i % 3 == 0:
            yield kind, one, "subset"


@pytest.mark.parametrize(("kind", "dtype", "option"), list(crossed()))
def test_equal_to_ndarray(kind, dtype, option, make):
    result, mnns, angles = correct(kind, make(kind, dtype), **OPTIONS[option])
    expected, tables, expected_angles = plain(option, dtype)
    assert_form(result, kind, expected.shape, dtype)
    assert_close(values(result), expected, dtype)
    assert_same_tables(mnns, tables)
    assert_angles(angles, expected_angles, kind, dtype)


@pytest.mark.parametrize(
    "kind",
    ["ndarray", "csc_matrix", "dask-csr", "zarr", "dataarray", "dataarray-dask", "anndata-view", "backed"],
)
def test_list_in_input_order(kind, make):
    datas = make(kind)
    order = [2, 0, 1]
    parts, mnns, _ = correct(kind, datas, do_concatenate=False, mnn_order=order)
    whole, tables, _ = correct("ndarray", make_batches(), mnn_order=order)
    assert isinstance(parts, list)
    assert len(parts) == 3
    for part, X, expected in zip(parts, make_batches(), np.split(whole, [60, 130]), strict=True):
        assert_form(part, kind, X.shape, X.dtype)
        assert_close(values(part), expected, np.float64)
    assert_same_tables(mnns, tables)
    assert mnns[2].empty


def test_angle_of_a_cell_that_does_not_move_is_nan():
    X = make_batches((40,))[0]
    with pytest.warns(UserWarning, match="moved none of its cells"):
        _, _, angles = mnn_correct(X, X, k=1, compute_angle=True)
    assert angles[0] is None
    assert np.isnan(angles[1]).all()


@pytest.mark.parametrize("kind", ["dataarray", "dataarray-dask"])
def test_dataarray_keeps_dims_and_coords(kind, make):
    datas = [
        data.assign_coords(
            cell=[f"b{i}c{j}" for j in range(data.sizes["cell"])], depth=("cell", np.arange(len(data)))
        )
        for i, data in enumerate(make(kind))
    ]
    result = correct(kind, datas)[0]
    assert result.dims == ("cell", "gene")
    assert list(result.coords["gene"].values) == GENES
    assert list(result.coords["cell"].values) == [name for d in datas for name in d.coords["cell"].to_numpy()]
    assert list(result.coords["depth"].values) == [*range(60), *range(70), *range(50)]
    parts = correct(kind, datas, do_concatenate=False)[0]
    for part, data in zip(parts, datas, strict=True):
        assert part.dims == data.dims
        assert part.coords.equals(data.coords)


SPANS = {
    "all-genes": {},
    "subset": {"var_subset": SUBSET},
    "subset-lengths": {"var_subset": SUBSET, "cos_norm_in": False},
}


@cache
def plain_span(mode, options):
    """What the plain ndarray run gives; no test may change it."""
    return correct("ndarray", make_batches(), svd_dim=2, svd_mode=mode, **SPANS[options])[0]


@pytest.mark.parametrize("options", SPANS)
@pytest.mark.parametrize("mode", ["svd", "rsvd", "irlb"])
@pytest.mark.parametrize("kind", ["csr_matrix", "dask-csr", "anndata"])
def test_svd_modes(kind, mode, options, make):
    result = correct(kind, make(kind), svd_dim=2, svd_mode=mode, **SPANS[options])[0]
    expected = plain_span("svd", options)
    tolerance = (1e-10 if mode == "svd" else 1e-6) * np.abs(expected).max()  # the others iterate
    np.testing.assert_allclose(values(result), expected, rtol=0, atol=tolerance)
    assert_close(values(result), plain_span(mode, options), np.float64)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("ndarray", np.float64), ("ndarray", np.float32), ("csr_matrix", np.float64), ("dask-csr", np.float64)],
)
def test_n_jobs_does_not_change_the_result(kind, dtype, make):
    runs = [correct(kind, make(kind, dtype), n_jobs=n, **OPTIONS["subset"]) for n in (1, 2, -1, None)]
    for result, mnns, _ in runs:
        assert_close(values(result), values(runs[0][0]), dtype)
        assert_same_tables(mnns, runs[0][1])


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["ndarray", "csc_matrix", "dask", "anndata-dask", "lazy-zarr"])
def test_same_call_twice_is_bit_equal(kind, option, make):
    datas = make(kind)
    first, second = (correct(kind, datas, svd_dim=2, **OPTIONS[option])[0] for _ in range(2))
    np.testing.assert_array_equal(values(first), values(second))


@pytest.mark.parametrize("options", [{}, {"cos_norm_in": False, "cos_norm_out": False, "svd_dim": 2}])
@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray, sp.csr_array, sp.csc_matrix])
def test_read_only_input_is_read_only(layout, options):
    datas = [layout(X) for X in make_batches()]
    for data in datas:
        for buffer in (data,) if isinstance(data, np.ndarray) else (data.data, data.indices, data.indptr):
            buffer.flags.writeable = False
    result = mnn_correct(*datas, k=10, **options)[0]
    for data, X in zip(datas, make_batches(), strict=True):
        held = data if isinstance(data, np.ndarray) else data.toarray()
        assert not np.shares_memory(result, held)
        np.testing.assert_array_equal(held, X)


@pytest.mark.filterwarnings("ignore:The values of")
@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, bool, np.float16])
@pytest.mark.parametrize("kind", ["ndarray", "csr_matrix", "dask-csr", "anndata", "zarr"])
def test_other_numbers_are_computed_in_single(kind, dtype, tmp_path):
    if dtype is np.float16 and kind in {"csr_matrix", "dask-csr"}:
        pytest.skip("SciPy has no sparse float16")
    counts = [np.round(X).astype(dtype) for X in make_batches()]
    datas = [KINDS[kind](X, tmp_path, f"b{i}") for i, X in enumerate(counts)]
    result = correct(kind, datas)[0]
    expected = correct("ndarray", [X.astype(np.float32) for X in counts])[0]
    assert (result.X if is_anndata(kind) else result).dtype == np.float32
    assert_close(values(result), expected, np.float32)


@pytest.mark.filterwarnings("ignore:The values of")
def test_one_double_batch_makes_all_double():
    batches = make_batches()
    mixed = [batches[0].astype(np.float32), batches[1], np.round(batches[2]).astype(int)]
    result = mnn_correct(*mixed, k=10)[0]
    assert result.dtype == np.float64
    assert_close(result, mnn_correct(*[X.astype(np.float64) for X in mixed], k=10)[0], np.float64)


def test_big_endian_is_read_as_its_values():
    result = mnn_correct(*[X.astype(">f8") for X in make_batches()], k=10)[0]
    assert_close(result, plain("all-genes", np.float64)[0], np.float64)
    assert result.dtype.isnative


def test_lazy_and_in_memory_anndata_mix_into_a_lazy_result(make):
    (a, _, c), (_, lazy, _) = make("anndata"), make("anndata-dask")
    result = mnn_correct(a, lazy, c, k=10)[0]
    assert isinstance(result.X, da.Array)
    assert_close(values(result), plain("all-genes", np.float64)[0], np.float64)


def test_subset_order_does_not_matter():
    one = correct("ndarray", make_batches(), var_subset=SUBSET)[0]
    other = correct("ndarray", make_batches(), var_subset=SUBSET[::-1])[0]
    np.testing.assert_array_equal(one, other)


def test_says_nothing_without_need():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        correct("ndarray", make_batches())
    assert said == []
