"""Files as anndata 0.6 and 0.7 wrote them: read lazily, to the values that anndata reads."""

from __future__ import annotations

import shlex
import subprocess
import sys
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from helpers import values
from scipy import sparse
from spoiling import LAYOUTS, A, B

from mnndask import mnn_correct
from mnndask.cli.main import cli
from mnndask.errors import InputError, InputReadError
from mnndask.io.anndata_store import open_lazily, read_column, read_record
from mnndask.stores.location import Location

TEXT = h5py.string_dtype()


def table(n, letter):
    """Rows of either table: names, numbers, flags and categories."""
    codes = np.arange(n) % 2
    part = np.linspace(0, 1, n)
    out = {"depth": np.arange(n), "part": part, "flag": codes == 0, "kind": codes.astype("i1")}
    return pd.DataFrame(out, index=[f"{letter}{i}" for i in range(n)])


def put_matrix(file, name, X, version):
    """A matrix; sparse ones said so in other words up to 0.6."""
    if not sparse.issparse(X):
        file[name] = X
        return
    group = file.create_group(name)
    if version == "0.6":
        group.attrs.update({"h5sparse_format": X.format, "h5sparse_shape": X.shape})
    else:
        group.attrs.update(
            {"encoding-type": f"{X.format}_matrix", "encoding-version": "0.1.0", "shape": X.shape}
        )
    for part in ("data", "indices", "indptr"):
        group[part] = getattr(X, part)


def put_table(file, name, frame, version):
    """A table: one dataset up to 0.6, a group then."""
    if version == "0.6":
        fields = [("index", TEXT), *((column, frame[column].dtype) for column in frame)]
        records = np.array(list(frame.itertuples(name=None)), dtype=fields)
        file.create_dataset(name, data=records)
        return
    group = file.create_group(name)
    order = np.array(list(frame), dtype=object)
    group.attrs.update({"_index": "_index", "encoding-type": "dataframe", "encoding-version": "0.1.0"})
    group.attrs.create("column-order", order, dtype=TEXT)
    group.create_dataset("_index", data=frame.index.to_numpy(object), dtype=TEXT)
    for column in frame:
        group[column] = frame[column].to_numpy()
    names = group.create_dataset("__categories/kind", data=["t", "b"], dtype=TEXT)
    names.attrs["ordered"] = False
    group["kind"].attrs["categories"] = names.ref


def old(folder, X, version, layout="csr", name="a"):
    """A file as that version of anndata wrote it."""
    path, matrix = folder / f"{name}.h5ad", LAYOUTS[layout](X)
    whole = LAYOUTS[layout](np.hstack([X, X[:, :2]]))
    dot = "." if version == "0.6" else "/"
    with h5py.File(path, "w") as file:
        put_matrix(file, "X", matrix, version)
        put_table(file, "obs", table(X.shape[0], name), version)
        put_table(file, "var", table(X.shape[1], "g"), version)
        put_matrix(file, "layers/twice", matrix * 2, version)
        file["obsm/X_scVI"] = np.arange(2.0 * X.shape[0]).reshape(-1, 2)
        file["varm/loadings"] = np.arange(2.0 * X.shape[1]).reshape(-1, 2)
        near = sparse.identity(X.shape[0], format="csr")
        put_matrix(
            file, "uns/neighbors/connectivities" if version == "0.6" else "obsp/connectivities", near, version
        )
        file.create_dataset("uns/kind_colors", data=["#111111", "#222222"], dtype=TEXT)
        file["uns/n"] = np.array([3])
        if version == "0.6":
            file.create_dataset("uns/kind_categories", data=["t", "b"], dtype=TEXT)
        put_matrix(file, f"raw{dot}X", whole, version)
        put_table(file, f"raw{dot}var", table(X.shape[1] + 2, "g"), version)
        if version != "0.6":
            file["raw"].attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
    return path


def as_anndata_reads(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ad.read_h5ad(path)


def dense(X):
    X = X.compute() if hasattr(X, "compute") else X
    return X.toarray() if sparse.issparse(X) else np.asarray(X)


def check(found, wanted):
    assert hasattr(found.X, "dask")
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(found, slot), getattr(wanted, slot))
    pd.testing.assert_frame_equal(found.raw.var, wanted.raw.var)
    np.testing.assert_array_equal(dense(found.X), dense(wanted.X))
    np.testing.assert_array_equal(dense(found.raw.X), dense(wanted.raw.X))
    for slot, key in (
        ("layers", "twice"),
        ("obsm", "X_scVI"),
        ("varm", "loadings"),
        ("obsp", "connectivities"),
    ):
        np.testing.assert_array_equal(dense(getattr(found, slot)[key]), dense(getattr(wanted, slot)[key]))
    assert set(found.uns) == set(wanted.uns)
    assert list(found.uns["kind_colors"]) == ["#111111", "#222222"]


by_version = pytest.mark.parametrize("version", ["0.6", "0.7"])


@by_version
@pytest.mark.parametrize("layout", LAYOUTS)
def test_they_are_read_as_anndata_reads_them(version, layout, tmp_path):
    path = old(tmp_path, A, version, layout)
    found = open_lazily(Location.of(path), None, "batch 0")
    check(found, as_anndata_reads(path))
    assert list(found.obs["kind"].cat.categories) == ["t", "b"]
    assert list(read_column(Location.of(path), "a", "kind"))[:3] == ["t", "b", "t"]
    assert read_column(Location.of(path), "a", "nothing") is None


def test_a_newer_file_without_what_the_root_says_is_read(tmp_path):
    path = tmp_path / "a.h5ad"
    ad.AnnData(A, obs=table(60, "a"), var=table(40, "g")).write_h5ad(path)
    with h5py.File(path, "a") as file:
        for name in ("encoding-type", "encoding-version"):
            del file.attrs[name]
    np.testing.assert_array_equal(dense(open_lazily(Location.of(path), None, "batch 0").X), A)


@pytest.mark.filterwarnings("ignore:The result leaves out what was computed")
@by_version
@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_they_are_corrected_by_path_and_backed(version, layout, tmp_path):
    paths = [old(tmp_path, X, version, layout, name) for name, X in (("a", A), ("b", B))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backed = [ad.read_h5ad(path, backed="r") for path in paths]
    for inputs in (paths, backed):
        result = mnn_correct(*inputs, k=5)[0]
        np.testing.assert_allclose(values(result), mnn_correct(A, B, k=5)[0], atol=1e-10)
        assert list(result.obs["kind"][:2]) == ["t", "b"]
    one = mnn_correct(paths[0], k=5, batch_key="kind")[0]
    assert list(one.uns["mnn"]["steps"]["batch"]) == ["t", "b"]


@pytest.mark.filterwarnings("ignore:The result leaves out what was computed")
@by_version
def test_the_command_reads_them(version, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [str(old(tmp_path, X, version, "csr", name)) for name, X in (("a", A), ("b", B))]
    done = CliRunner().invoke(cli, ["correct", *paths, "-k", "5", "-o", "out.zarr"], catch_exceptions=False)
    assert done.exit_code == 0
    corrected = ad.read_zarr("out.zarr")
    np.testing.assert_allclose(corrected.X, mnn_correct(A, B, k=5)[0], atol=1e-10)
    assert list(corrected.obs["batch"].cat.categories) == ["a", "b"]


@by_version
def test_they_record_no_correction(version, tmp_path):
    recorded, obs, shape = read_record(Location.of(old(tmp_path, A, version)), ())
    assert (recorded, len(obs), shape) == (None, 60, (60, 40))


def test_what_cannot_be_read_is_converted_by_the_command_that_is_named(tmp_path, monkeypatch):
    path = old(tmp_path, A, "0.6")
    monkeypatch.setattr("mnndask.io.stored_elements.as_table", lambda records: records["no such field"])
    with pytest.raises(InputReadError, match=r"written by an anndata before 0.8") as caught:
        open_lazily(Location.of(path), None, "batch 0")
    command = str(caught.value).splitlines()[1].partition(": ")[2]
    words = shlex.split(command)
    assert words[0] == "python"
    subprocess.run([sys.executable, "-W", "ignore", *words[1:]], check=True, cwd=tmp_path)
    monkeypatch.undo()
    new = open_lazily(Location.of(tmp_path / "new.h5ad"), None, "batch 0")
    np.testing.assert_array_equal(dense(new.X), A)


def test_hdf5_that_is_no_anndata_is_not_taken_for_an_old_file(tmp_path):
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["X"], file["obs"], file["var"] = A, np.arange(60), np.arange(40)
    with pytest.raises(InputError, match="is not an AnnData store"):
        open_lazily(Location.of(tmp_path / "a.h5ad"), None, "batch 0")
