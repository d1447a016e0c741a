"""Faults of matrices that are read: damaged and lost chunks are errors that name the file, never data."""

from __future__ import annotations

import pickle
from functools import partial

import anndata as ad
import dask.array as da
import h5py
import numpy as np
import pytest
import zarr
from helpers import as_anndata, told
from scipy import sparse
from spoiling import LAYOUTS, OPENERS, A, B, garble, lose, truncate

from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.errors import InputError, InputReadError

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
def test_damaged_chunk(stores, opener, kind, layout, part, spoil):
    paths = stores(kind, layout)
    later = spoiled_later(paths, opener, part, spoil)
    with pytest.raises(InputReadError) as caught:
        mnn_correct(*map(OPENERS[opener], paths), k=5)
    if spoil is truncate:  # another size is a change
        assert f"batch 1 ({paths[1]}) has changed since it was opened ({part}/" in str(later)
    for error in [later, caught.value] if spoil is garble else [caught.value]:
        check_message(error, paths[1], f"{part}/")
        assert isinstance(error, OSError)
        assert error.__cause__ is not None
        assert "is damaged" in str(error)
        assert ("genes 0 to 39" if layout == "csc" else "rows ") in str(error)


@pytest.mark.parametrize(
    ("opener", "layout", "part"),
    [("path", "dense", "X"), ("path", "csr", "X/data"), ("read_lazy", "csr", "X/data")],
)
def test_damaged_chunk_of_hdf5(stores, opener, layout, part):
    paths = stores("h5ad", layout)
    error = spoiled_later(paths, opener, part, garble)
    with pytest.raises(InputReadError) as caught:
        mnn_correct(*map(OPENERS[opener], paths), k=5)
    for error_ in (error, caught.value):
        check_message(error_, paths[1], f"{part} (of rows 0 to 49)")
        assert isinstance(error_.__cause__, OSError)


@in_stores
def test_lost_chunk(stores, opener, kind, layout, part):
    paths = stores(kind, layout)
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


def test_lost_chunk_under_slices(stores):
    """The file is named also where batches are parts of what was opened."""
    paths = stores("zarr3")
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


def test_lost_chunk_of_what_is_carried_along(stores):
    paths = stores("zarr3")
    result = mnn_correct(*paths, k=5)[0]
    lose(paths[0], "layers/twice/indices")
    with pytest.raises(
        InputReadError, match=r"batch 0 \(.*a.zarr\) lacks the chunk layers/twice/indices/c/0"
    ):
        result.layers["twice"].compute()
    for opener in OPENERS.values():
        with pytest.raises(InputError, match="lacks 1 of the 1 chunks of layers/twice/indices"):
            mnn_correct(*map(opener, paths), k=5)


def test_memory_that_runs_out_is_no_damage(stores, monkeypatch):
    paths = stores("zarr3")

    def refuse(*_, **__):
        raise MemoryError

    monkeypatch.setattr(sparse.csr_matrix, "check_format", refuse)
    with pytest.raises(MemoryError) as caught:
        mnn_correct(*paths, k=5)
    assert not isinstance(caught.value, InputReadError)


def test_truncated_hdf5(stores):
    paths = stores("h5ad")
    paths[1].write_bytes(paths[1].read_bytes()[:5000])
    with pytest.raises(
        InputReadError, match=r"(?s)b.h5ad\) is damaged: it cannot be opened .*truncated file"
    ):
        mnn_correct(*paths, k=5)


def test_hdf5_that_was_never_written_to_its_end(stores):
    paths = stores("h5ad", "dense")
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
def test_numbers_that_point_outside_of_a_sparse_matrix(part, at, value, stores):
    """A chunk may decode to nonsense; followed, it would lead outside of memory."""
    paths = stores("zarr2")
    zarr.open_array(paths[1] / "X" / part)[at] = value
    where = "X" if part == "indptr" else "X, rows 0 to 49,"
    with pytest.raises(InputReadError, match=rf"b.zarr\) is damaged: {where} cannot be read .*{part}"):
        mnn_correct(*paths, k=5)


def test_arrays_of_a_sparse_matrix_that_disagree(stores):
    paths = stores("zarr3")
    zarr.open_array(paths[1] / "X" / "data").resize(200)
    zarr.consolidate_metadata(paths[1])
    with pytest.raises(InputReadError, match="the lengths of X disagree"):
        mnn_correct(*paths, k=5)


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(("kind", "spoil"), [("zarr3", garble), ("zarr3", lose), ("h5ad", garble)])
def test_command_says_it_in_one_line(stores, tmp_path, capsys, kind, spoil):
    paths = stores(kind, "dense")
    spoil(paths[1], "X")
    with pytest.raises(SystemExit) as end:
        main(["correct", *map(str, paths), "-k", "5", "-o", str(tmp_path / "out.zarr")])
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == ""
    assert len(told(err)) == 1
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
    assert len(told(err)) == 1
    assert "batch 'b' contains NaN or infinity in row 37." in err
    assert (tmp_path / "out.zarr.partial").exists() == ("out.zarr.partial" in err) == (where == "application")
