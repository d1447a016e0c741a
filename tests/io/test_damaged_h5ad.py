"""Every access to a file goes through one guard: an error names the damaged file, or what is left is read."""

from __future__ import annotations

import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from helpers import as_anndata
from scipy import sparse
from spoiling import A, garble

from mnndask import mnn_correct
from mnndask.errors import MNNError
from mnndask.io.anndata_store import open_lazily, read_column, read_record
from mnndask.stores.location import Location


def removed(file, name):
    del file[name]


def replaced(value):
    """Put something else in the place of an element, with its attributes."""

    def change(file, name):
        attributes = dict(file[name].attrs)
        del file[name]
        file.create_group(name) if value is None else file.create_dataset(name, data=value)
        file[name].attrs.update(attributes)

    return change


def without_attributes(file, name):
    for key in list(file[name].attrs):
        del file[name].attrs[key]


def with_attributes(value):
    def change(file, name):
        for key in list(file[name].attrs):
            del file[name].attrs[key]
            file[name].attrs[key] = value

    return change


def without_storage(file, name):
    """Declare the values, which are not stored."""
    if isinstance(file[name], h5py.Dataset) and file[name].shape:
        attributes, dtype, shape = dict(file[name].attrs), file[name].dtype, file[name].shape
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=shape).attrs.update(attributes)
        assert file[name].id.get_storage_size() == 0


CHANGES = {
    "removed": removed,
    "a-number": replaced(7),
    "a-text": replaced("text"),
    "nothing": replaced(h5py.Empty("f4")),
    "infinite": replaced(np.full(60, np.inf)),
    "group": replaced(None),
    "without-attributes": without_attributes,
    "numbers-for-attributes": with_attributes(7),
    "texts-for-attributes": with_attributes("é/.."),
    "nothing-for-attributes": with_attributes(h5py.Empty("f4")),
    "without-storage": without_storage,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A file with all kinds of elements."""
    adata = as_anndata(sparse.csr_matrix(A))
    adata.obs["kind"] = pd.Categorical(["x", "y", "z"] * 20)
    adata.obs["count"] = pd.array([1, None, 3] * 20, dtype="Int64")
    adata.uns["nested"] = {"table": pd.DataFrame({"v": [0.5]}, index=["p"]), "size": 3}
    adata.varm["loadings"] = np.ones((40, 2))
    adata.raw = adata.copy()
    path = tmp_path_factory.mktemp("damaged") / "a.h5ad"
    adata.write_h5ad(path)
    return path


def names(path):
    """Names of all elements of a file."""
    found = []
    with h5py.File(path) as file:
        file.visit(found.append)
    return found


def read_all(path):
    """Read all that the command reads of an input; return the error, if there is one."""
    location, label = Location.of(path), f"batch 0 ({path})"
    try:
        adata = open_lazily(location, None, label)
        for matrix in (adata.X, *adata.layers.values(), *adata.obsm.values(), adata.raw and adata.raw.X):
            if hasattr(matrix, "compute"):
                matrix.compute(scheduler="sync")
        read_column(location, label, "kind")
        read_record(location)
    except MNNError as error:
        return error
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shift", range(0, 11, 4))
def test_every_element_damaged_in_some_way(shift, sound, tmp_path):
    """Each of more than 40 elements, in one of 11 ways in turn."""
    path, errors = tmp_path / "a.h5ad", []
    places, ways = names(sound), list(CHANGES)
    assert len(places) > 40
    for i, name in enumerate(places):
        shutil.copyfile(sound, path)
        before = path.read_bytes()
        with h5py.File(path, "a") as file:
            CHANGES[ways[(i + shift) % len(ways)]](file, name)
        if path.read_bytes() != before:
            errors.append(read_all(path))
    told = [str(error) for error in errors if error is not None]
    assert len(errors) > 30
    assert len(told) > 15
    assert [text for text in told if str(path) not in text or len(text.splitlines()) != 2] == []


@pytest.mark.parametrize("open_", [lambda path: ad.read_h5ad(path, backed="r"), ad.experimental.read_lazy])
@pytest.mark.parametrize("part", ["X/indptr", "X/indices"])
def test_files_that_are_damaged_after_they_were_opened(part, open_, sound, tmp_path):
    path = tmp_path / "a.h5ad"
    shutil.copyfile(sound, path)
    opened = open_(path)
    before = path.read_bytes()
    garble(path, part)
    assert path.read_bytes() != before
    with pytest.raises(MNNError) as caught:
        mnn_correct(opened, opened, k=5)
    assert str(path) in str(caught.value)


def test_a_group_whose_header_is_damaged_is_not_taken_for_absent(sound, tmp_path):
    path = tmp_path / "a.h5ad"
    with h5py.File(sound) as file:
        headers = {name: h5py.h5o.get_info(file[name].id).addr for name in file}
    assert {"raw", "uns", "layers", "obsm"} <= set(headers)
    for name, header in headers.items():
        damaged = bytearray(sound.read_bytes())
        damaged[header : header + 32] = bytes(32)
        path.write_bytes(damaged)
        with h5py.File(path) as file:
            assert name in file
            assert file.get(name) is None
        error = read_all(path)
        assert error is not None, name
        assert str(path) in str(error)


def test_a_negative_shape_is_damage(tmp_path):
    adata = as_anndata(sparse.csr_matrix(A))
    adata.obsm["near"] = sparse.csr_matrix(A)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        file["obsm/near"].attrs["shape"] = [-60, 40]
    with pytest.raises(MNNError, match="obsm/near declares the shape"):
        open_lazily(Location.of(tmp_path / "a.h5ad"), None, "batch 0")
