"""Inputs that are replaced while they are read: an error that names them, never cells of both files."""

from __future__ import annotations

import copy
import pickle
import shutil
from contextlib import contextmanager

import anndata as ad
import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from helpers import values
from spoiling import (
    OPENERS,
    OTHER,
    REPLACED,
    A,
    B,
    chunk_files,
    of_old,
    overwrite,
    stored,
    swap,
    sync_files,
    with_other_obs,
)
from web_server import Handler, serving

from mnndask import mnn_correct
from mnndask.errors import InputError, InputReadError
from mnndask.io import anndata_store
from mnndask.stores.block_reader import BlockReader
from mnndask.stores.chunk_versions import ChunkVersions

pytestmark = pytest.mark.usefixtures("short_record")

CHANGED = r"batch 1 \(.*b\.(zarr|h5ad|zarr\.zip)\) has changed since it was opened"
OPENERS = OPENERS | {"backed": lambda path: ad.read_h5ad(path, backed="r")}


def two(folder, kind, layout="dense"):
    """Paths of two batches, and of what replaces the second: the same shape, other values."""
    paths = [stored(folder, X, kind, layout, name) for name, X in (("a", A), ("b", B))]
    (folder / "new").mkdir()
    return *map(of_old, paths), stored(folder / "new", OTHER, kind, layout, "b")


def matrix_in(path):
    stored_as = {".h5ad": ad.read_h5ad, ".zarr": ad.read_zarr}[path.suffix]
    X = stored_as(path).X
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


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of an input."""
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", 20 * 40 * 8)


@pytest.fixture
def check_replaced(tmp_path, monkeypatch, small_blocks):
    """Function that replaces an input in every way while a result is computed, and puts it back."""

    def check(X, b, new, matrix_in=matrix_in):
        whole = X.compute()
        shutil.copytree(b, tmp_path / "kept") if b.is_dir() else shutil.copy2(b, tmp_path / "kept")
        for how in REPLACED.values():
            with (
                after_reading(monkeypatch, "b.", lambda how=how: how(b, new)) as read,
                pytest.raises(InputReadError, match=CHANGED) as caught,
            ):
                X.compute()
            assert read
            np.testing.assert_array_equal(matrix_in(b), OTHER)  # it was replaced in between
            assert str(caught.value).splitlines()[1].startswith("Run again when nothing writes to it")
            swap(b, tmp_path / "kept")
            np.testing.assert_array_equal(X.compute(), whole)  # the same size and time: the same file
        return caught.value

    return check


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
def test_a_task_that_reads_another_file_says_so(tmp_path, check_replaced, opener, kind, layout):
    a, b, new = two(tmp_path, kind, layout)
    X = mnn_correct(*(OPENERS[opener](path) for path in (a, b)), k=5)[0].X
    error = check_replaced(X, b, new)
    assert error.changed
    assert pickle.loads(pickle.dumps(error)).changed


def archive(path):
    return of_old(shutil.make_archive(str(path), "zip", path))


def test_archives_at_urls(tmp_path, monkeypatch, small_blocks):
    """Part of one stays in memory, by which parts of another would be found."""
    a, b, new = map(archive, two(tmp_path, "shards"))
    urls = [f"zip::{path}" for path in (a, b)]
    for how in (sync_files, overwrite):
        X = mnn_correct(*urls, k=5)[0].X
        before = b.read_bytes()
        with (
            after_reading(monkeypatch, "b.", lambda how=how: how(b, new)) as read,
            pytest.raises(InputReadError, match=CHANGED),
        ):
            X.compute()
        assert read
        assert before != b.read_bytes() == new.read_bytes()
        with pytest.raises(InputReadError, match=CHANGED):  # also in tasks that only read the new file
            X.compute()
        again = mnn_correct(*urls, k=5)[0]
        np.testing.assert_allclose(values(again), mnn_correct(A, OTHER, k=5)[0], atol=1e-10)
        b.write_bytes(before)
        of_old(b)


def test_archives_that_users_open(tmp_path):
    """Those from which chunks of zeros were left out, too."""
    for name, X in (("a", A), ("b", np.where(np.arange(40) < 10, 0, B))):
        with zarr.storage.ZipStore(tmp_path / f"{name}.zip", mode="w") as store:
            zarr.create_array(store, data=X, chunks=(16, 10))
    stores = [zarr.storage.ZipStore(of_old(tmp_path / f"{name}.zip"), read_only=True) for name in "ab"]
    with pytest.warns(UserWarning, match="lacks 4 of the 16 chunks"):
        X = mnn_correct(*(zarr.open_array(store, mode="r") for store in stores), k=5)[0]
    X.compute()
    sync_files(tmp_path / "b.zip", tmp_path / "a.zip")
    with pytest.raises(InputReadError, match="batch 1 has changed since it was opened"):
        X.compute()
    (tmp_path / "b.zip").unlink()
    X.compute()  # of the file that is open
    for store in stores:
        store.close()


def test_web_servers(tmp_path):
    pytest.importorskip("aiohttp")
    a, b, new = two(tmp_path, "shards")
    with serving(tmp_path, "404") as url:
        urls = [f"{url}/{path.name}" for path in (a, b)]
        X = mnn_correct(*urls, k=5)[0].X
        sync_files(b, new)
        with pytest.raises(InputReadError, match=CHANGED + r" \(X/"):
            X.compute()
        np.testing.assert_array_equal(matrix_in(b), OTHER)
        again = mnn_correct(*urls, k=5)[0]
        np.testing.assert_allclose(values(again), mnn_correct(A, OTHER, k=5)[0], atol=1e-10)
        X = pickle.loads(pickle.dumps(again.X))
        swap(b, new := of_old(new))
        with pytest.raises(InputReadError, match=CHANGED + r" \(X/"):
            X.compute()


def test_web_servers_that_give_no_tags_are_believed(tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    a, b, new = two(tmp_path, "zarr3")
    send_header = Handler.send_header
    untagged = lambda self, name, value: name == "Last-Modified" or send_header(self, name, value)  # noqa: E731
    monkeypatch.setattr(Handler, "send_header", untagged)
    with serving(tmp_path, "404") as url:
        X = mnn_correct(*(f"{url}/{path.name}" for path in (a, b)), k=5)[0].X
        before = X.compute()
        sync_files(b, new)
        assert (X.compute() != before).any()


@pytest.mark.parametrize("kind", ["zarr3", "h5ad"])
def test_what_is_carried_along_is_checked_too(tmp_path, kind):
    a, b, new = two(tmp_path, kind)
    result = mnn_correct(a, b, k=5)[0]
    np.testing.assert_array_equal(result.layers["twice"].compute(), 2 * np.vstack([A, B]))
    sync_files(b, new)
    np.testing.assert_array_equal(matrix_in(b), OTHER)
    for lazy in (result.layers["twice"], result.obsm["X_scVI"]):
        with pytest.raises(InputReadError, match=CHANGED):
            lazy.compute()


@pytest.mark.parametrize("open_", [zarr.open_array, da.from_zarr], ids=["zarr", "dask"])
def test_arrays_that_users_open_are_checked_from_the_call_on(tmp_path, open_):
    for name, X in (("a", A), ("b", B)):
        zarr.create_array(tmp_path / name, data=X, chunks=(16, 10))
        of_old(tmp_path / name)
    X = mnn_correct(*(open_(tmp_path / name) for name in "ab"), k=5)[0]
    np.testing.assert_allclose(values(X), mnn_correct(A, B, k=5)[0], atol=1e-10)
    zarr.open_array(tmp_path / "b")[40, 30] += 1  # one chunk
    with pytest.raises(InputReadError, match=r"batch 1.* has changed since it was opened \(c/2/3\)"):
        X.compute()
    X[:60].compute()  # of the other batch


def test_several_inputs_of_one_file_and_their_copies(tmp_path):
    _, b, new = two(tmp_path, "zarr3", "csr")
    X = mnn_correct(b, b, k=5)[0].X
    later = [X, copy.deepcopy(X), pickle.loads(pickle.dumps(X))]
    for one in later:
        np.testing.assert_array_equal(one.compute(), X.compute())
    sync_files(b, new)
    for one in later:
        with pytest.raises(InputReadError, match=r"batch [01] \(.*b\.zarr\) has changed"):
            one.compute(scheduler="threads")


def test_annotations_that_change_during_the_fit(tmp_path, monkeypatch):
    """They are read again after it."""
    a, b, new = two(tmp_path, "zarr3")
    with_other_obs(new)
    replacing = after_reading(monkeypatch, "b.", lambda: overwrite(b / "obs", new / "obs"))
    with replacing as read, pytest.raises(InputReadError, match=CHANGED + r" \(obs/"):
        mnn_correct(a, b, k=5)
    assert read
    assert ad.read_zarr(b).obs["depth"].min() == 1000
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
def test_versions_of_many_chunks_are_added_up(tmp_path, monkeypatch, n_each):
    """Of any chunk, whatever others are summed with it."""
    array = zarr.create_array(tmp_path / "a", shape=(4, 7), chunks=(1, 2), dtype="f4")
    array[:] = 1
    files = {f"c/{i}/{j}": i * 10 + j + 1 for i in range(4) for j in range(4)}
    monkeypatch.setattr("mnndask.stores.chunk_versions.MOST_VERSIONS", -(-16 // n_each))
    versions = pickle.loads(pickle.dumps(ChunkVersions.of(array, files)))
    assert len(versions.versions) == -(-16 // n_each)
    now = files | {"c/2/1": 99}

    def found(store, keys, folder, n_files):
        return np.array([now[key] for key in keys], np.uint64)

    monkeypatch.setattr("mnndask.stores.chunk_versions.versions_now", found)
    with pytest.raises(InputReadError, match="b has changed"):
        versions.check(array, [slice(0, 4), slice(0, 7)], "b")
    with pytest.raises(InputReadError, match="b has changed"):
        versions.check(array, [slice(2, 3), slice(3, 4)], "b")
    now["c/2/1"] = files["c/2/1"]
    versions.check(array, [slice(0, 4), slice(0, 7)], "b")


def test_tasks_carry_little(tmp_path):
    """Of 40,000 chunks, most of a task is not what was known of them."""
    array = zarr.create_array(tmp_path / "a", shape=(40_000, 4), chunks=(1, 4), dtype="f4")
    versions = ChunkVersions.of(array, {f"c/{i}/0": i + 1 for i in range(40_000)})
    assert len(pickle.dumps(versions)) < 2**15 + 1000
    again = pickle.loads(pickle.dumps(versions))
    assert len(pickle.dumps(again)) < 2**15 + 1000


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


def test_a_chunk_that_is_removed_is_named_as_such(tmp_path):
    a, b, _ = two(tmp_path, "zarr3")
    X = mnn_correct(a, b, k=5)[0].X
    chunk_files(b)[5].unlink()
    with pytest.raises(InputError, match=r"lacks the chunk X/c/1/1"):
        X.compute()


@pytest.mark.slow
@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize(("kind", "layout"), [("zarr3", "csr"), ("h5ad", "dense")])
def test_workers_of_a_cluster_say_so(client, tmp_path, kind, layout):
    a, b, new = two(tmp_path, kind, layout)
    X = mnn_correct(a, b, k=5)[0].X
    np.testing.assert_allclose(X[60:].compute(), mnn_correct(A, B, k=5)[0][60:], atol=1e-10)
    sync_files(b, new)
    np.testing.assert_array_equal(matrix_in(b), OTHER)
    with pytest.raises(InputReadError, match=CHANGED):
        X.compute()
