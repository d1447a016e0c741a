"""Elements of any kind, anywhere, are carried along where anndata joins and writes them, else named."""

from __future__ import annotations

import types
import warnings

import anndata as ad
import dask.array as da
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from columns import kinds
from helpers import as_anndata, make_batches, values, without_record
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy import sparse as sp

from mnndask import mnn_correct
from mnndask.api.write import write_zarr
from mnndask.io.anndata_compat import write_error

pytestmark = pytest.mark.usefixtures("short_record")

SIZES = (12, 10)
RECORD = np.dtype([("gene", "U4"), ("score", "f8")])


def batches():
    return [as_anndata(X, f"b{i}") for i, X in enumerate(make_batches(SIZES))]


# What arrays of n rows may be: name -> function of the number of rows
ARRAYS = {
    "dense": lambda n: np.ones((n, 2)),
    "wide": lambda n: np.ones((n, 2), np.longdouble),
    "half": lambda n: np.ones((n, 2), np.float16),
    "flags": lambda n: np.ones((n, 2), bool),
    "complex": lambda n: np.ones((n, 2), complex),
    "cube": lambda n: np.ones((n, 2, 2)),
    "swapped": lambda n: np.ones((n, 2), ">f8"),
    "dates": lambda n: np.full((n, 2), "2020", "M8[D]"),
    "words": lambda n: np.full((n, 2), "a"),
    "objects": lambda n: np.full((n, 2), None, object),
    "records": lambda n: np.zeros(n, RECORD),
    "masked": lambda n: np.ma.masked_array(np.ones((n, 2)), np.eye(n, 2)),
    "unmasked": lambda n: np.ma.masked_array(np.ones((n, 2))),
    "csr": lambda n: sp.csr_matrix(np.eye(n, 3)),
    "csc": lambda n: sp.csc_array(np.eye(n, 3)),
    "coo": lambda n: sp.coo_array(np.eye(n, 3)),
    "dask": lambda n: da.ones((n, 2), chunks=(5, 2)),
    "dask-csr": lambda n: da.from_array(np.eye(n, 3), chunks=(5, 3)).map_blocks(sp.csr_matrix),
    "dask-objects": lambda n: da.from_array(np.full((n, 2), "a", object), chunks=(5, 2)),
    "nothing": lambda n: np.empty((n, 0)),
}
SCALARS = {
    "none": None,
    "whole": 3,
    "large": 2**70,
    "text": "süd",
    "nul": "a\0b",
    "bytes": b"a",
    "complex": 1j,
    "tuple": (1, 2),
    "list": [1, 2],
    "mixed": [1, "a", None],
    "set": {1},
    "function": len,
    "object": object(),
    "series": pd.Series([1, 2]),
    "index": pd.Index(["a"]),
    "strings": pd.array(["a", None], dtype="string"),
    "floats": pd.array([1.5, None], dtype="Float64"),
    "integers": pd.array([1, None], dtype="Int64"),
    "table": pd.DataFrame({0: [1], "a/b": ["x"], "when": pd.to_datetime(["2020"])}),
    "multi": pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([("a", 1)])),
    "records": np.array([("a", 1.0)], RECORD),
    "nested": {"a/b": {1: {"x": (1,), "y": 2}}, "": 1},
    "proxy": types.MappingProxyType({"a": 1}),
    "adata": ad.AnnData(np.ones((2, 2))),
    "date": np.datetime64("2020"),
}
KEYS = st.one_of(
    st.sampled_from(["a", "A", "a/b", "a_b", "..", "", "_index", "x" * 300, "süd", "zarr.json", "depth"]),
    st.text(max_size=6),
)
COLUMNS = sorted(kinds(2, ["a", "b"]))


SLOTS = {
    "obs": COLUMNS,
    "var": COLUMNS,
    "obsm": [*ARRAYS, "table"],
    "varm": [*ARRAYS, "table"],
    "layers": [*ARRAYS],
    "obsp": ["csr", "dense"],
    "uns": sorted(SCALARS),
}
PLACES = st.sampled_from([(slot, kind) for slot, kinds_of in SLOTS.items() for kind in kinds_of])


def put(data, slot, key, kind):
    """Give an AnnData an element, if it takes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata does, of layers of three dimensions
        _put(data, slot, key, kind)


def _put(data, slot, key, kind):
    n = data.n_vars if slot.startswith("var") else data.n_obs
    names = data.var_names if slot.startswith("var") else data.obs_names
    try:
        if slot in ("obs", "var"):
            getattr(data, slot)[key] = kinds(n, names)[kind]
        elif slot == "uns":
            data.uns[key] = SCALARS[kind]
        elif kind == "table":
            table = pd.DataFrame({c: kinds(n, names)[c] for c in COLUMNS[::6]} | {0: 1}, index=names)
            getattr(data, slot)[key] = table
        elif slot == "obsp":
            data.obsp[key] = sp.eye_array(n, format="csr") if kind == "csr" else np.eye(n)
        elif slot == "layers":
            array = ARRAYS[kind](n)
            array = array.tocsr() if sp.issparse(array) else array
            data.layers[key] = array[:, np.zeros(data.n_vars, int)]
        else:
            getattr(data, slot)[key] = ARRAYS[kind](n)
    except (ValueError, TypeError, KeyError, NotImplementedError, IndexError):
        return


def value_of(data, slot, kind):
    """What an AnnData holds after such an element was put into it; None if it takes none."""
    put(data, slot, "new", kind)
    return getattr(data, slot).get("new")


EXPECTED = mnn_correct(*make_batches(SIZES), k=3)[0]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],  # to find the smallest of failing examples would take minutes
)
@given(*[st.lists(st.tuples(PLACES, KEYS), min_size=1, max_size=8)] * 2, st.booleans(), st.booleans())
def test_whatever_an_input_holds_it_is_corrected_and_written(tmp_path_factory, of_a, of_b, joined, as_zarr):
    datas = batches()
    for adata, elements in zip(datas, (of_a, of_b), strict=True):
        for (slot, kind), key in elements:
            if (slot, key) != ("obs", "batch"):
                put(adata, slot, key, kind)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        out = mnn_correct(*datas, k=3, do_concatenate=joined)[0]
    text = "\n".join(str(warning.message) for warning in said)
    parts = [out] if joined else out
    np.testing.assert_allclose(np.vstack([values(part) for part in parts]), EXPECTED, rtol=0, atol=1e-10)
    # Of what is not of cells, anndata.concat joins what is the same, and says nothing of the rest.
    for slot in ("obs", "obsm", "layers", *(() if joined else ("var", "varm", "obsp", "uns"))):
        for adata, part in zip(datas, parts * 2, strict=False):
            for key in set(getattr(adata, slot)) - {None}:
                assert key in getattr(part, slot) or f"{slot}[{key!r}]" in text, (slot, key)
    path = tmp_path_factory.mktemp("out") / "out.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        without_record(parts[0])
        write_zarr(parts[0], path) if as_zarr else parts[0].write_h5ad(path)
        back = ad.read_zarr(path) if as_zarr else ad.read_h5ad(path)
    np.testing.assert_array_equal(back.X, values(parts[0]))
    assert set(back.obs) == set(parts[0].obs)


SAFE_KEYS = st.sampled_from(["a", "A", "a b", "süd", "b"])
FOUND = st.lists(st.tuples(PLACES, SAFE_KEYS), min_size=1, max_size=8)


def store(data, elements, path):
    """Write an AnnData, and as many elements as anndata writes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.write_zarr(path) if path.suffix == ".zarr" else data.write_h5ad(path)
        group = (
            zarr.open_group(path, mode="a", use_consolidated=False)
            if path.suffix == ".zarr"
            else h5py.File(path, "a")
        )
        for (slot, kind), key in elements:
            value = value_of(data.copy(), slot, kind)
            value = getattr(value, "array", value) if slot in {"obs", "var"} else value
            if value is None or write_error(value):  # trying it would leave half of it
                continue
            write_elem(group[slot], key, value)
            if slot in {"obs", "var"}:
                table = group[slot]
                names = dict.fromkeys([*map(str, table.attrs["column-order"]), key])
                table.attrs["column-order"] = (
                    list(names) if path.suffix == ".zarr" else np.array([*names], object)
                )
        zarr.consolidate_metadata(group.store) if path.suffix == ".zarr" else group.close()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate]
)
@given(FOUND, FOUND, st.sampled_from([".zarr", ".h5ad"]))
def test_whatever_a_file_holds_it_is_corrected_and_written(tmp_path_factory, of_a, of_b, suffix):
    folder = tmp_path_factory.mktemp("in")
    paths = [folder / f"{name}{suffix}" for name in "ab"]
    for adata, elements, path in zip(batches(), (of_a, of_b), paths, strict=True):
        store(adata, elements, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mnn_correct(*paths, k=3)[0]
        np.testing.assert_allclose(values(result), EXPECTED, rtol=0, atol=1e-10)
        write_zarr(without_record(result), folder / "out.zarr")
        back = ad.read_zarr(folder / "out.zarr")
    np.testing.assert_array_equal(back.X, values(result))
    assert set(back.obs) == set(result.obs)


@pytest.mark.parametrize("suffix", [".zarr", ".h5ad"])
def test_elements_that_this_anndata_does_not_know_are_left_out(suffix, tmp_path):
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for adata, path in zip(batches(), paths, strict=True):
        adata.uns["nested"] = {"known": 1}
        adata.raw = adata.copy()
        store(adata, [], path)
        group = (
            zarr.open_group(path, mode="a", use_consolidated=False)
            if suffix == ".zarr"
            else h5py.File(path, "a")
        )
        future = {"encoding-type": "future", "encoding-version": "9.9"}
        for at in ("obs/depth", "obsm/X_scVI"):
            group[at].attrs.update(future)
        group["uns/nested"].create_group("unknown").attrs.update(future)
        zarr.consolidate_metadata(group.store) if suffix == ".zarr" else group.close()
    for datas in (paths, [str(path) for path in paths]):
        with pytest.warns(
            UserWarning,
            match=r"leaves out of batch . \(.*\) obs\['depth'\], uns\['nested'\]\['unknown'\], obsm",
        ) as said:
            result = mnn_correct(*datas, k=3)[0]
        assert {str(warning.message) for warning in said if "does not support" in str(warning.message)}
        np.testing.assert_allclose(values(result), EXPECTED, rtol=0, atol=1e-10)
        assert set(result.obs) == {"batch", "mnn_sample"}
        assert set(result.layers) - {None} == {"twice"}


@pytest.mark.parametrize("suffix", [".zarr", ".h5ad"])
@pytest.mark.filterwarnings("ignore:.*[Aa]wkward", "ignore:The data type .Structured")
def test_ragged_and_record_arrays_are_carried_along(suffix, tmp_path):
    ak = pytest.importorskip("awkward")
    ragged = [[[1] * (i % 3) for i in range(n)] for n in SIZES]
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for adata, lists, path in zip(batches(), ragged, paths, strict=True):
        adata.obsm["ragged"] = ak.Array(lists)
        adata.obsm["record"] = np.array([(3, 1.5)] * adata.n_obs, [("rank", "i4"), ("score", "f8")])
        store(adata, [], path)
    result = mnn_correct(*paths, k=3)[0]
    write_zarr(without_record(result), tmp_path / "out.zarr")
    back = ad.read_zarr(tmp_path / "out.zarr")
    assert ak.to_list(back.obsm["ragged"]) == ragged[0] + ragged[1]
    assert back.obsm["record"]["rank"].ravel().tolist() == [3] * 22
