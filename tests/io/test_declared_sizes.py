"""Sizes that metadata declares are checked before anything is allocated for them."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from contextlib import nullcontext

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from helpers import as_anndata, no_compute, zarr_store
from scipy import sparse
from spoiling import A

from mnndask import mnn_correct
from mnndask.errors import InputError, InputReadError
from mnndask.io.anndata_store import open_lazily, read_column, read_record
from mnndask.stores.declared_sizes import check_loaded
from mnndask.stores.location import Location

ABSURD = 10**12
MOST = 50e6  # bytes that an error may take


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Stores of both kinds with every kind of element."""
    adata = as_anndata(A)
    adata.obs["kind"] = pd.Categorical(["x", "y", "z"] * 20)
    adata.obs["note"] = [f"cell {i}" for i in range(60)]
    adata.obs["count"] = pd.array([1, None, 3] * 20, dtype="Int64")
    adata.uns = {"numbers": np.arange(40), "nested": {"texts": np.array(["a", "b"])}}
    adata.varm["loadings"] = np.ones((40, 2))
    folder = tmp_path_factory.mktemp("sizes")
    adata.write_h5ad(folder / "a.h5ad")
    for version in (2, 3):
        with zarr_store(folder / f"a{version}.zarr", version) as root:
            write_elem(root, "/", adata)
    return folder


@pytest.fixture
def copied(sound, tmp_path):
    """Function that copies such a store, and returns its path."""

    def copy(name):
        path = tmp_path / name
        (shutil.copytree if (sound / name).is_dir() else shutil.copyfile)(sound / name, path)
        return path

    return copy


def array_at(path, name):
    """Name of the array of an element, whose text newer releases of anndata may store with a mask."""
    with h5py.File(path) if path.is_file() else nullcontext(zarr.open_group(path, mode="r")) as root:
        return name if hasattr(root[name], "dtype") else f"{name}/values"


def edit(path, array, change):
    """Edit the metadata of an array of a zarr store, and that of the store."""
    version = 2 if (path / ".zgroup").exists() else 3
    root, own = (".zmetadata", ".zarray") if version == 2 else ("zarr.json", "zarr.json")
    document = json.loads((path / array / own).read_text())
    change(document)
    (path / array / own).write_text(json.dumps(document))
    whole = json.loads((path / root).read_text())
    inside = whole["metadata"] if version == 2 else whole["consolidated_metadata"]["metadata"]
    key = f"{array}/.zarray" if version == 2 else array
    assert key in inside
    inside[key] = document
    (path / root).write_text(json.dumps(whole))


def declare(path, array, rows=ABSURD, chunk=None):
    """Declare other rows (and chunks) of an array of which nothing else changes."""
    array = array_at(path, array)

    def change(document):
        document["shape"][0] = rows
        if chunk:
            grid = document if "chunks" in document else document["chunk_grid"]["configuration"]
            grid["chunks" if "chunks" in grid else "chunk_shape"][0] = chunk

    edit(path, array, change)
    assert zarr.open_group(path, mode="r")[array].shape[0] == rows


def in_hdf5(path, name, rows, chunks=None):
    """Declare an array of a file that contains nothing of it."""
    name = array_at(path, name)
    with h5py.File(path, "a") as file:
        attributes, dtype, shape = dict(file[name].attrs), file[name].dtype, file[name].shape
        del file[name]
        file.create_dataset(name, (rows, *shape[1:]), dtype, chunks=chunks).attrs.update(attributes)
        assert file[name].id.get_storage_size() == 0
    assert path.stat().st_size < 10**6


@pytest.fixture
def little_memory():
    """Fail if Python's own memory grows by much."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST


def refused(path, said):
    with no_compute(), pytest.raises(InputError, match=said) as caught:
        mnn_correct(path, path, k=5)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


OF_TABLES = ("obs/_index", "obs/depth", "obs/note", "obs/kind/codes", "obs/count/values", "var/_index")
OF_OTHERS = ("uns/numbers", "uns/nested/texts", "varm/loadings", "obs/kind/categories", "X")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("chunk", [None, ABSURD], ids=["many-chunks", "one-chunk"])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("array", [*OF_TABLES, *OF_OTHERS])
def test_absurd_rows_in_zarr(array, version, chunk, copied):
    path = copied(f"a{version}.zarr")
    declare(path, array, chunk=chunk)
    refused(path, "is damaged|cannot be read|lacks")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(("slot", "key"), [("obsm", "X_scVI"), ("layers", "twice")])
def test_absurd_rows_of_what_is_passed_on(slot, key, copied):
    path = copied("a3.zarr")
    declare(path, f"{slot}/{key}", chunk=ABSURD)
    with pytest.warns(UserWarning, match=rf"leaves out.* {slot}\['{key}'\] \(its shape does not match\)"):
        open_lazily(Location.of(path), None, "it")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("chunks", [None, (1000,)], ids=["contiguous", "chunked"])
@pytest.mark.parametrize("array", ["obs/depth", "obs/_index", "obs/kind/codes", "uns/numbers"])
def test_absurd_rows_in_hdf5(array, chunks, copied):
    path = copied("a.h5ad")
    in_hdf5(path, array, ABSURD, chunks)
    refused(path, "is damaged|cannot be read")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("version", [2, 3])
def test_more_than_is_stored_is_refused_though_memory_would_suffice(version, copied, monkeypatch):
    """On a machine with much memory, an array of which almost nothing is stored is damaged as well."""
    plenty = pytest.importorskip("psutil").virtual_memory()._replace(available=2**60, total=2**60)
    monkeypatch.setattr("psutil.virtual_memory", lambda: plenty)
    path = copied(f"a{version}.zarr")
    declare(path, "uns/numbers", rows=10**10, chunk=10**10)
    refused(path, "uns/numbers declares 10,000,000,000 values, 74.51 GiB .*B are stored")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("array", OF_TABLES[1:5])
def test_one_row_too_many_is_named(array, copied):
    path = copied("a3.zarr")
    declare(path, array, rows=61)
    refused(path, f"is damaged: {array_at(path, array)} has 61 entries for 60 rows")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("table", ["obs", "var"])
def test_info_and_columns_check_rows_too(table, version, copied):
    path = copied(f"a{version}.zarr")
    declare(path, f"{table}/_index")
    with pytest.raises(InputReadError, match="damaged"):
        read_record(Location.of(path))
    if table == "obs":
        with pytest.raises(InputReadError, match="damaged"):
            read_column(Location.of(path), "a", "depth")


@pytest.mark.usefixtures("little_memory")
def test_texts_of_absurd_length(copied):
    path = copied("a2.zarr")
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    texts = root["uns"].create_array("fixed", shape=(60,), chunks=(60,), dtype="<U9")
    texts.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    texts[:] = np.array(["text"] * 60)
    zarr.consolidate_metadata(path)
    edit(path, "uns/fixed", lambda document: document.update(dtype="<U400000000"))
    refused(path, "uns/fixed declares 60 values, 89.41 GiB in memory")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("shape", [[60, 41], [61, 40], [ABSURD, 40], [60, -1], [60]])
@pytest.mark.parametrize("name", ["a3.zarr", "a.h5ad"])
def test_shape_of_a_sparse_matrix_that_disagrees_with_its_tables(name, shape, tmp_path):
    adata = as_anndata(sparse.csr_matrix(A))
    path = tmp_path / name
    adata.write_h5ad(path) if name.endswith("h5ad") else adata.write_zarr(path)
    in_file = path.is_file()
    root = h5py.File(path, "a") if in_file else zarr.open_group(path, mode="r+", use_consolidated=False)
    root["X"].attrs["shape"] = shape
    root.close() if in_file else zarr.consolidate_metadata(path)
    refused(path, "is damaged: (.*X |its contents)")


def test_sound_stores_pass(copied):
    for name in ("a2.zarr", "a3.zarr", "a.h5ad"):
        location = Location.of(copied(name))
        assert open_lazily(location, None, "it").shape == (60, 40)
        assert read_record(location)[2] == (60, 40)


def test_constant_arrays_that_compress_well_pass(tmp_path):
    """A chunk of zeros takes a few bytes."""
    array = zarr.create_array(tmp_path / "zeros", shape=(10**7,), chunks=(10**7,), dtype="f8")
    array[:] = 1.0
    assert array.nbytes_stored() < 10**5
    check_loaded(zarr.open_array(tmp_path / "zeros", mode="r"), "it")
