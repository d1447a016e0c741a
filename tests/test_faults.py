"""Faults of files that are read: damaged and lost chunks are errors that name the file, never data."""

from __future__ import annotations

import pickle
import shutil
import warnings
from functools import partial

import anndata as ad
import dask.array as da
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from helpers import as_anndata, make_batches, values
from scipy import sparse

from mnndask import mnn_correct
from mnndask.cli import main
from mnndask.errors import InputError, InputReadError
from mnndask.output import write_zarr

A, B = make_batches((60, 50))
LAYOUTS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}
OPENERS = {"path": str, "read_lazy": ad.experimental.read_lazy}


def stored(folder, X, kind, layout="dense", name="b"):
    """A store of a matrix in several chunks."""
    adata = as_anndata(LAYOUTS[layout](X), name)
    path = folder / f"{name}.{'h5ad' if kind == 'h5ad' else 'zarr'}"
    if kind == "h5ad":
        adata.write_h5ad(path, compression="gzip")
        return path
    with warnings.catch_warnings(), ad.settings.override(zarr_write_format=2 if kind == "zarr2" else 3):
        warnings.simplefilter("ignore")
        adata.write_zarr(path)
        root = zarr.open_group(path, use_consolidated=False)
        chunks = (16, 10) if layout == "dense" else (100,)
        shards = {"shards": (32, 20)} if kind == "shards" else {}
        write_elem(root, "X", adata.X, dataset_kwargs={"chunks": chunks, **shards})
        zarr.consolidate_metadata(path)
    return path


def chunk_files(path, part="X"):
    files = [file for file in (path / part).rglob("*") if file.is_file()]
    return sorted(file for file in files if file.name[0] != "." and file.name != "zarr.json")


def garble(path, part):
    """Overwrite the middle chunk of an array with noise."""
    noise = np.random.default_rng(0).bytes(10_000)
    if path.is_dir():
        file = chunk_files(path, part)[len(chunk_files(path, part)) // 2]
        file.write_bytes(noise[: file.stat().st_size])
        return
    with h5py.File(path) as file:
        chunk = file[part].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(noise[: chunk.size])


def truncate(path, part):
    """Cut the middle chunk of an array in half."""
    file = chunk_files(path, part)[len(chunk_files(path, part)) // 2]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lose(path, part):
    chunk_files(path, part)[-1].unlink()


STORES = [
    ("path", "zarr2", "dense", "X"),
    ("path", "zarr3", "dense", "X"),
    ("path", "shards", "dense", "X"),
    ("path", "zarr2", "csr", "X/data"),
    ("path", "zarr3", "csr", "X/indices"),
    ("path", "zarr3", "csc", "X/indptr"),
    ("read_lazy", "zarr2", "dense", "X"),
    ("read_lazy", "zarr3", "csr", "X/data"),
]
in_stores = pytest.mark.parametrize(
    ("opener", "kind", "layout", "part"), STORES, ids=["-".join(case[:3]) for case in STORES]
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Function that writes the two batches in some kind of store, once, and gives the folder."""
    folders = {}

    def write(kind, layout):
        if (kind, layout) not in folders:
            folders[kind, layout] = folder = tmp_path_factory.mktemp(f"{kind}-{layout}")
            for name, X in (("a", A), ("b", B)):
                stored(folder, X, kind, layout, name)
        return folders[kind, layout]

    return write


@pytest.fixture
def batches(sound, tmp_path):
    """Function that gives paths of two batches, which may be spoiled."""

    def copy(kind, layout="csr"):
        shutil.copytree(sound(kind, layout), tmp_path, dirs_exist_ok=True)
        return [next(tmp_path.glob(f"{name}.*")) for name in "ab"]

    return copy


def check_message(error, path, part):
    lines = str(error).split("\n")
    assert len(lines) == 2
    assert f"batch 1 ({path})" in lines[0]
    assert part in lines[0]
    assert " again" in lines[1]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def spoiled_later(paths, opener, part, spoil):
    """What is said of a batch that is spoiled after the fit."""
    result = mnn_correct(*map(OPENERS[opener], paths), k=5)[0]
    spoil(paths[1], part)
    with pytest.raises(InputReadError) as caught:
        result.X.compute()
    return caught.value


@pytest.mark.parametrize(
    ("opener", "kind", "layout", "part", "spoil"),
    [*((*case, garble) for case in STORES), *((*case, truncate) for case in STORES[:3])],
    ids=["-".join(case[:3]) for case in STORES] + [f"{case[1]}-cut" for case in STORES[:3]],
)
def test_damaged_chunk(batches, opener, kind, layout, part, spoil):
    paths = batches(kind, layout)
    errors = [spoiled_later(paths, opener, part, spoil)]
    with pytest.raises(InputReadError) as caught:
        mnn_correct(*map(OPENERS[opener], paths), k=5)
    for error in [*errors, caught.value]:
        check_message(error, paths[1], f"{part}/")
        assert isinstance(error, OSError)
        assert error.__cause__ is not None
        assert "is damaged" in str(error)
        assert ("genes 0 to 39" if layout == "csc" else "rows ") in str(error)


@pytest.mark.parametrize(
    ("opener", "layout", "part"),
    [("path", "dense", "X"), ("path", "csr", "X/data"), ("read_lazy", "csr", "X/data")],
)
def test_damaged_chunk_of_hdf5(batches, opener, layout, part):
    paths = batches("h5ad", layout)
    error = spoiled_later(paths, opener, part, garble)
    with pytest.raises(InputReadError) as caught:
        mnn_correct(*map(OPENERS[opener], paths), k=5)
    for error_ in (error, caught.value):
        check_message(error_, paths[1], f"{part} (of rows 0 to 49)")
        assert isinstance(error_.__cause__, OSError)


@in_stores
def test_lost_chunk(batches, opener, kind, layout, part):
    paths = batches(kind, layout)
    error = spoiled_later(paths, opener, part, lose)
    check_message(error, paths[1], f" lacks the chunk {part}/")
    with pytest.raises(InputError) as caught:
        mnn_correct(*map(OPENERS[opener], paths), k=5)
    check_message(caught.value, paths[1], " lacks 1 of the ")
    assert f" chunks of {part}, such as {part}/" in str(caught.value)


@pytest.mark.parametrize(
    ("open_array", "who"),
    [(zarr.open_array, "batch 1"), (da.from_zarr, r"batch 1 \(.*b\)")],
    ids=["zarr", "dask"],
)
def test_lost_chunk_of_an_array(tmp_path, open_array, who):
    for name, X in (("a", A), ("b", B)):
        zarr.create_array(tmp_path / name, data=X, chunks=(16, 10))
    result = mnn_correct(*(open_array(tmp_path / name) for name in "ab"), k=5)[0]
    lose(tmp_path, "b")
    with pytest.raises(InputReadError, match=f"{who} lacks the chunk c/3/3"):
        result.compute()
    with pytest.raises(InputError, match=f"{who} lacks 1 of the 16 chunks of its data, such as c/3/3"):
        mnn_correct(*(open_array(tmp_path / name) for name in "ab"), k=5)


def test_lost_chunk_under_slices(batches):
    """The file is named also where batches are parts of what was opened."""
    paths = batches("zarr3")
    whole = [ad.experimental.read_lazy(path) for path in paths]
    result = mnn_correct(*(adata[5:, 3:] for adata in whole), k=5)[0]
    lose(paths[1], "X/data")
    with pytest.raises(InputReadError, match=r"the file of batch 1 \(.*b.zarr\) lacks the chunk X/data/c"):
        result.X.compute()


class Shifted:
    """A function that has no name."""

    def __call__(self, block, by, block_info=None):
        return block + by


def test_nameless_functions_of_users_are_left_alone():
    lazy = [da.from_array(X, chunks=(25, -1)) for X in (A, B)]
    mapped = [X.map_blocks(partial(Shifted(), by=1.0), dtype=X.dtype) for X in lazy]
    np.testing.assert_array_equal(
        mnn_correct(*mapped, k=5)[0].compute(), mnn_correct(*(X + 1.0 for X in lazy), k=5)[0].compute()
    )


def test_lost_chunk_of_what_is_carried_along(batches):
    paths = batches("zarr3")
    result = mnn_correct(*paths, k=5)[0]
    lose(paths[0], "layers/twice/indices")
    with pytest.raises(
        InputReadError, match=r"batch 0 \(.*a.zarr\) lacks the chunk layers/twice/indices/c/0"
    ):
        result.layers["twice"].compute()
    for opener in OPENERS.values():
        with pytest.raises(InputError, match="lacks 1 of the 1 chunks of layers/twice/indices"):
            mnn_correct(*map(opener, paths), k=5)


def test_lost_names(batches):
    paths = batches("zarr3")
    lose(paths[0], "obs/_index")
    with pytest.raises(InputError, match="lacks 1 of the 1 chunks of obs/_index"):
        mnn_correct(*paths, k=5)


def in_chunks(path, slot, table):
    """Write a table again, 16 cells a chunk."""
    with warnings.catch_warnings(), ad.settings.override(zarr_write_format=3):
        warnings.simplefilter("ignore")
        write_elem(
            zarr.open_group(path, use_consolidated=False), slot, table, dataset_kwargs={"chunks": (16,)}
        )
        zarr.consolidate_metadata(path)


def split_in_three(path):
    """Cells of three batches, one after the other, in one store."""
    adata = as_anndata(np.vstack([A, B]))
    adata.obs["batch"] = pd.Categorical(np.repeat(["x", "y", "z"], [40, 35, 35]))
    adata.obs["half"] = pd.Categorical(["only"] * 110)
    adata.obs["count"] = pd.array([*range(1, 110), None], dtype="Int64")
    adata.write_zarr(path)
    in_chunks(path, "obs", adata.obs)


def test_lost_codes_of_batches_are_warned_of(tmp_path):
    split_in_three(tmp_path / "a.zarr")
    chunk_files(tmp_path / "a.zarr", "obs/batch/codes")[1].unlink()
    with pytest.warns(UserWarning, match=r"a.zarr\) lacks chunks of obs/batch/codes\. They count as zeros"):
        mnn_correct(tmp_path / "a.zarr", k=5)


def test_zeros_that_writers_left_out_of_obs_are_warned_of_where_they_may_be_lost(tmp_path):
    """Neither codes of the only category there is, nor masks of columns in which nothing is missing."""
    split_in_three(tmp_path / "a.zarr")
    assert not chunk_files(tmp_path / "a.zarr", "obs/half/codes")
    with pytest.warns(UserWarning, match="lacks chunks of") as caught:
        result = mnn_correct(tmp_path / "a.zarr", k=5)[0]
    assert [str(w.message).split(". ")[0].split()[-1] for w in caught] == ["obs/batch/codes"]
    assert result.obs["batch"].value_counts().to_dict() == {"x": 40, "y": 35, "z": 35}


def test_lost_names_of_categories(tmp_path):
    split_in_three(tmp_path / "a.zarr")
    lose(tmp_path / "a.zarr", "obs/half/categories")
    with pytest.raises(InputError, match="lacks 1 of the 1 chunks of obs/half/categories"):
        mnn_correct(tmp_path / "a.zarr", k=5)


def test_memory_that_runs_out_is_no_damage(batches, monkeypatch):
    paths = batches("zarr3")

    def refuse(*_, **__):
        raise MemoryError

    monkeypatch.setattr(sparse.csr_matrix, "check_format", refuse)
    with pytest.raises(MemoryError) as caught:
        mnn_correct(*paths, k=5)
    assert not isinstance(caught.value, InputReadError)


def test_damaged_annotations(batches):
    paths = batches("zarr3")
    truncate(paths[1], "obs/depth")
    with pytest.raises(
        InputReadError, match=r"batch 1 \(.*b.zarr\) is damaged: obs cannot be read"
    ) as caught:
        mnn_correct(*paths, k=5)
    assert caught.value.__cause__ is not None
    (paths[1] / "zarr.json").write_text('{"zarr_format": 3, "node_')
    with pytest.raises(InputReadError, match="is damaged: its metadata cannot be read"):
        mnn_correct(*paths, k=5)


def test_truncated_hdf5(batches):
    paths = batches("h5ad")
    paths[1].write_bytes(paths[1].read_bytes()[:5000])
    with pytest.raises(
        InputReadError, match=r"(?s)b.h5ad\) is damaged: it cannot be opened .*truncated file"
    ):
        mnn_correct(*paths, k=5)


def test_hdf5_that_was_never_written_to_its_end(batches):
    paths = batches("h5ad", "dense")
    with h5py.File(paths[1], "a") as file:
        attributes = dict(file["X"].attrs)
        del file["X"]
        X = file.create_dataset("X", B.shape, B.dtype, chunks=(16, 40))
        X.attrs.update(attributes)
        X[:32] = B[:32]
    with pytest.raises(InputError, match=r"b.h5ad\) lacks 2 of the 4 chunks of X"):
        mnn_correct(*paths, k=5)


@pytest.mark.parametrize(
    ("part", "at", "value"),
    [("indices", 7, 40), ("indices", 7, -1), ("indptr", 5, 10**6), ("indptr", 5, 0), ("indptr", 50, 3)],
)
def test_numbers_that_point_outside_of_a_sparse_matrix(part, at, value, batches):
    """A chunk may decode to nonsense; followed, it would lead outside of memory."""
    paths = batches("zarr2")
    zarr.open_array(paths[1] / "X" / part)[at] = value
    with pytest.raises(InputReadError, match=r"b.zarr\) is damaged: X, rows 0 to 49, cannot be read"):
        mnn_correct(*paths, k=5)


def test_arrays_of_a_sparse_matrix_that_disagree(batches):
    paths = batches("zarr3")
    zarr.open_array(paths[1] / "X" / "data").resize(200)
    zarr.consolidate_metadata(paths[1])
    with pytest.raises(InputReadError, match="the lengths of X disagree"):
        mnn_correct(*paths, k=5)


# ---------------------------------------------------------------- chunks that are left out rightly


def corrected(*paths):
    return values(mnn_correct(*paths, k=5)[0])


def test_empty_chunk_that_a_shard_records(tmp_path):
    X = B.copy()
    X[:16, :10] = 0
    paths = [stored(tmp_path, A, "shards", name="a"), stored(tmp_path, X, "shards")]
    np.testing.assert_allclose(corrected(*paths), corrected(A, X), atol=1e-10)


def test_genes_that_no_cell_expresses(tmp_path):
    X = B.copy()
    X[:, 10:20] = 0
    paths = [stored(tmp_path, A, "zarr3", name="a"), stored(tmp_path, X, "zarr3")]
    assert len(chunk_files(paths[1])) == 12
    for opener in OPENERS.values():
        with pytest.warns(UserWarning, match=r"b.zarr\) lacks 4 of the 16 chunks of X, in all rows"):
            result = corrected(*map(opener, paths))
        np.testing.assert_allclose(result, corrected(A, X), atol=1e-10)


def test_zeros_that_are_left_out_are_told_how_to_be_written(tmp_path):
    X = B.copy()
    X[:16, :10] = 0
    paths = [stored(tmp_path, A, "zarr3", name="a"), stored(tmp_path, X, "zarr3")]
    with pytest.raises(InputError, match=r"lacks 1 of the 16 chunks(?s:.*)array.write_empty_chunks"):
        corrected(*paths)
    with zarr.config.set({"array.write_empty_chunks": True}):
        stored(tmp_path, X, "zarr3")
    np.testing.assert_allclose(corrected(*paths), corrected(A, X), atol=1e-10)


def test_sparse_layer_without_values(tmp_path):
    for name, X in (("a", A), ("b", B)):
        adata = as_anndata(sparse.csr_matrix(X), name)
        adata.layers["none"] = sparse.csr_matrix(X.shape)
        adata.write_zarr(tmp_path / f"{name}.zarr")
    assert not chunk_files(tmp_path / "b.zarr", "layers/none")
    result = mnn_correct(tmp_path / "a.zarr", tmp_path / "b.zarr", k=5)[0]
    assert result.layers["none"].compute().nnz == 0


def test_all_chunks_of_an_output_are_written(tmp_path):
    write_zarr(ad.AnnData(da.zeros((50, 40), chunks=(10, 40))), tmp_path / "out.zarr")
    assert len(chunk_files(tmp_path / "out.zarr")) == 1
    lose(tmp_path / "out.zarr", "X")
    with pytest.raises(InputError, match="lacks 1 of the 1 chunks"):
        mnn_correct(tmp_path / "out.zarr", tmp_path / "out.zarr", k=5)


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(("kind", "spoil"), [("zarr3", garble), ("zarr3", lose), ("h5ad", garble)])
def test_command_says_it_in_one_line(batches, tmp_path, capsys, kind, spoil):
    paths = batches(kind, "dense")
    spoil(paths[1], "X")
    with pytest.raises(SystemExit) as end:
        main(["correct", *map(str, paths), "-k", "5", "-o", str(tmp_path / "out.zarr")])
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith(f"mnndask: batch 1 ({paths[1]}) ")
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize(
    ("where", "layout"), [("fit", "csc"), ("application", "dense"), ("application", "csc")]
)
def test_nan_deep_inside_a_chunk(tmp_path, capsys, where, layout):
    spoiled = B.copy()
    spoiled[37, 23] = np.nan
    for name, X in (("a", A), ("b", spoiled)):
        adata = as_anndata(LAYOUTS[layout](X), name)
        adata.obs["used"] = np.arange(adata.n_obs) < 30
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    options = ["--restrict", "used"] if where == "application" else []
    inputs = [str(tmp_path / f"{name}.h5ad") for name in "ab"]
    with pytest.raises(SystemExit) as end:
        main(["correct", *inputs, "-k", "5", *options, "-o", str(tmp_path / "out.zarr")])
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert len(err.splitlines()) == 1
    assert "batch 'b' holds NaN or infinity in row 37." in err
    assert (tmp_path / "out.zarr.partial").exists() == ("out.zarr.partial" in err) == (where == "application")
