"""Inputs that are replaced while they are read: an error that names them, never cells of both files."""

from __future__ import annotations

import os
import pickle
from contextlib import contextmanager

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from helpers import as_anndata, values
from spoiling import OPENERS, REPLACED, A, B, chunk_files, overwrite, stored, swap, sync_files

from mnndask import mnn_correct
from mnndask.errors import InputReadError
from mnndask.io import anndata_store
from mnndask.stores.chunk_versions import ChunkVersions
from mnndask.stores.lazy_matrix import BlockReader

OTHER = B[::-1] + 1.0
CHANGED = r"batch 1 \(.*b\.(zarr|h5ad)\) has changed since it was opened"


def backed(path):
    return ad.read_h5ad(path, backed="r")


def opened(opener, path):
    return backed(path) if opener == "backed" else OPENERS[opener](path)


def two(folder, kind, layout="dense"):
    """Paths of two batches, and of what replaces the second: the same shape, other values."""
    paths = [stored(folder, X, kind, layout, name) for name, X in (("a", A), ("b", B))]
    (folder / "new").mkdir()
    return *paths, stored(folder / "new", OTHER, kind, layout, "b")


def matrix_in(path):
    read = ad.read_h5ad if path.suffix == ".h5ad" else ad.read_zarr
    X = read(path).X
    return X if isinstance(X, np.ndarray) else X.toarray()


@contextmanager
def after_reading(monkeypatch, of, act):
    """Act once something of an input was read; give all that was read of it."""
    read, original = [], BlockReader._read_slices

    def reading(self, array, slices, region):
        values = original(self, array, slices, region)
        if of in self.label:
            read.append(values)
            if len(read) == 1:
                act()
        return values

    with monkeypatch.context() as patch, dask.config.set(scheduler="sync"):
        patch.setattr(BlockReader, "_read_slices", reading)
        yield read


@pytest.mark.parametrize("how", REPLACED.values(), ids=REPLACED)
@pytest.mark.parametrize(
    ("opener", "kind", "layout"),
    [
        ("path", "zarr3", "dense"),
        ("path", "zarr2", "csr"),
        ("path", "shards", "dense"),
        ("path", "h5ad", "csr"),
        ("read_lazy", "zarr3", "csc"),
        ("read_lazy", "h5ad", "dense"),
        ("backed", "h5ad", "csr"),
    ],
)
def test_a_task_that_reads_another_file_says_so(tmp_path, monkeypatch, opener, kind, layout, how):
    a, b, new = two(tmp_path, kind, layout)
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", 20 * 40 * 8)  # several blocks
    X = mnn_correct(*(opened(opener, path) for path in (a, b)), k=5)[0].X
    with after_reading(monkeypatch, "b.", lambda: how(b, new)) as read, pytest.raises(InputReadError) as at:
        X.compute()
    assert read
    np.testing.assert_array_equal(matrix_in(b), OTHER)  # it was replaced in between
    assert at.match(CHANGED)
    assert str(at.value).splitlines()[1].startswith("Run again when nothing writes to it")
    assert at.value.changed
    assert pickle.loads(pickle.dumps(at.value)).changed


@pytest.mark.parametrize("kind", ["zarr3", "h5ad"])
def test_what_is_carried_along_is_checked_too(tmp_path, kind):
    a, b, new = two(tmp_path, kind)
    result = mnn_correct(a, b, k=5)[0]
    np.testing.assert_array_equal(result.layers["twice"].compute(), 2 * np.vstack([A, B]))
    sync_files(b, new)
    np.testing.assert_array_equal(matrix_in(b), OTHER)
    for lazy in (result.layers["twice"], result.obsm["X_pca"]):
        with pytest.raises(InputReadError, match=CHANGED):
            lazy.compute()


@pytest.mark.parametrize("open_", [zarr.open_array, da.from_zarr], ids=["zarr", "dask"])
def test_arrays_that_users_open_are_checked_from_the_call_on(tmp_path, open_):
    for name, X in (("a", A), ("b", B)):
        zarr.create_array(tmp_path / name, data=X, chunks=(16, 10))
    X = mnn_correct(*(open_(tmp_path / name) for name in "ab"), k=5)[0]
    np.testing.assert_allclose(values(X), mnn_correct(A, B, k=5)[0], atol=1e-10)
    zarr.open_array(tmp_path / "b")[40, 30] += 1  # one chunk
    with pytest.raises(InputReadError, match=r"batch 1.* has changed since it was opened \(c/2/3\)"):
        X.compute()
    np.testing.assert_array_equal(values(X[:90]), values(X[:90]))  # the other chunks are the same


def test_annotations_that_change_during_the_fit(tmp_path, monkeypatch):
    """They are read again after it."""
    a, b, new = two(tmp_path, "zarr3")
    adata = as_anndata(OTHER, "b")
    adata.obs["depth"] += 1000
    adata.write_zarr(new)
    replacing = after_reading(monkeypatch, "b.", lambda: overwrite(b / "obs", new / "obs"))
    with replacing as read, pytest.raises(InputReadError, match=CHANGED + r" \(obs/"):
        mnn_correct(a, b, k=5)
    assert read
    assert ad.read_zarr(b).obs["depth"].tolist() == adata.obs["depth"].tolist()
    np.testing.assert_array_equal(matrix_in(b), B)


@pytest.mark.parametrize("kind", ["zarr3", "h5ad"])
def test_an_input_that_changes_while_it_is_opened(tmp_path, monkeypatch, kind):
    """What was read before and after may not even fit together."""
    a, b, _ = two(tmp_path, kind)
    smaller = stored(tmp_path / "new", B[:30], kind, name="smaller")

    def read_table(group, name, label, *args, original=anndata_store.read_table):
        table = original(group, name, label, *args)
        if "b." in label and name == "obs":
            swap(b, smaller)
        return table

    monkeypatch.setattr(anndata_store, "read_table", read_table)
    with pytest.raises(InputReadError, match=CHANGED):
        mnn_correct(a, b, k=5)
    assert len(matrix_in(b)) == 30


@pytest.mark.parametrize("n_each", [1, 2, 3, 100])
@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_versions_of_many_chunks_are_added_up(tmp_path, monkeypatch, layout, n_each):
    """Of any chunk, whatever others are summed with it."""
    a, b, new = two(tmp_path, "zarr3", layout)
    n_chunks = len(chunk_files(b, "X" if layout == "dense" else "X/data"))
    monkeypatch.setattr("mnndask.stores.chunk_versions.MOST_VERSIONS", -(-n_chunks // n_each))
    X = mnn_correct(a, b, k=5)[0].X
    whole = X.compute()
    parts = ("X",) if layout == "dense" else ("X/data", "X/indices", "X/indptr")
    for file in (file for part in parts for file in chunk_files(b, part)):
        old = file.read_bytes()
        status = file.stat()
        file.write_bytes((new / file.relative_to(b)).read_bytes())
        with pytest.raises(InputReadError, match=CHANGED):
            X.compute()
        file.write_bytes(old)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    np.testing.assert_array_equal(X.compute(), whole)


def test_tasks_carry_little(tmp_path):
    """Of 40,000 chunks, most of a task is not what was known of them."""
    array = zarr.create_array(tmp_path / "a", shape=(40_000, 4), chunks=(1, 4), dtype="f4")
    versions = ChunkVersions.of(array, {f"c/{i}/0": i + 1 for i in range(40_000)})
    assert len(pickle.dumps(versions)) < 2**15 + 1000


def test_chunks_that_were_left_out_and_appear(tmp_path):
    X = B.copy()
    X[:, 10:20] = 0
    stored(tmp_path, A, "zarr3", name="a")
    b = stored(tmp_path, X, "zarr3", name="b")
    with pytest.warns(UserWarning, match="lacks 4 of the 16 chunks of X"):
        corrected = mnn_correct(tmp_path / "a.zarr", b, k=5)[0].X
    corrected.compute()
    zarr.open_array(b / "X")[20, 15] = 1
    assert (b / "X/c/1/1").exists()
    with pytest.raises(InputReadError, match=CHANGED + r" \(X/c/1/1\)"):
        corrected.compute()


@pytest.mark.slow
@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize(("kind", "layout"), [("zarr3", "csr"), ("shards", "dense"), ("h5ad", "csr")])
def test_workers_of_a_cluster_say_so(client, tmp_path, kind, layout):
    a, b, new = two(tmp_path, kind, layout)
    X = mnn_correct(a, b, k=5)[0].X
    np.testing.assert_allclose(X[60:].compute(), mnn_correct(A, B, k=5)[0][60:], atol=1e-10)
    sync_files(b, new)
    np.testing.assert_array_equal(matrix_in(b), OTHER)
    with pytest.raises(InputReadError, match=CHANGED):
        X.compute()
