"""Matrices on disk: read and written in parts, and what goes wrong with them."""

import gc
import threading

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.sync import sync

from mnndask.core.arrays import Stacked
from mnndask.errors import ScratchError
from mnndask.stores.scratch import ScratchStore


@pytest.fixture(params=["local", "memory"])
def store(scratch, request):
    """A store in a folder, and one at a URL."""
    out = ScratchStore(scratch if request.param == "local" else f"memory://{scratch}", 4)
    yield out
    out.remove()
    assert not out.location.exists()


def stored(store, X, name="a"):
    out = store.matrix(name, X.shape, X.dtype)
    out[:] = X
    return out


# ---------------------------------------------------------------- matrices on disk


@pytest.fixture(scope="module")
def stacked():
    """A matrix of 23 rows in pieces of 7, 1, 12 and 3, and its stored likeness in chunks of 4."""
    X = np.random.default_rng(0).normal(size=(23, 5))
    store = ScratchStore(None, 4)
    parts = [stored(store, part, f"{i}") for i, part in enumerate(np.split(X, [7, 8, 20]))]
    yield X, Stacked(tuple(parts))
    store.remove()


@given(start=st.integers(-30, 30) | st.none(), stop=st.integers(-30, 30) | st.none())
@settings(deadline=None, max_examples=60)
def test_any_slice_of_stacked_matrices(stacked, start, stop):
    X, matrix = stacked
    np.testing.assert_array_equal(matrix[start:stop], X[start:stop])


@given(rows=st.lists(st.integers(0, 22), max_size=30))
@settings(deadline=None, max_examples=60)
def test_any_rows_of_stacked_matrices(stacked, rows):
    X, matrix = stacked
    rows = np.array(rows, np.intp)
    np.testing.assert_array_equal(matrix[rows], X[rows])
    np.testing.assert_array_equal(matrix.parts[2][rows % 12], X[8:20][rows % 12])
    assert matrix.dtype == X.dtype
    assert matrix.shape == X.shape


def test_blocks_of_genes_are_read_and_written(store):
    X = np.arange(50.0).reshape(10, 5)
    matrix = store.matrix("a", X.shape, X.dtype, columns=2)
    for genes in (slice(0, 3), slice(3, 5)):
        matrix[:, genes] = X[:, genes]
    np.testing.assert_array_equal(matrix[2:9, 1:4], X[2:9, 1:4])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_matrices_without_values(store, shape):
    assert stored(store, np.empty(shape))[:].shape == shape


def test_a_lost_chunk_is_an_error_and_not_zeros(store):
    matrix = stored(store, np.zeros((12, 3)))
    sync(matrix.array.store.delete("c/1/0"))
    assert matrix[:4].tolist() == np.zeros((4, 3)).tolist()
    for key in (slice(None), slice(7, 9), np.array([0, 5])):
        with pytest.raises(ScratchError, match=r"c/1/0 in the scratch folder is gone"):
            matrix[key]


def test_a_copy_in_another_process_leaves_the_folder_alone(store):
    matrix = stored(store, np.ones((5, 2)))
    copy = cloudpickle.loads(cloudpickle.dumps(matrix))
    copy[:2] = 3
    del copy
    gc.collect()
    assert matrix[:].sum() == 2 * 2 * 3 + 3 * 2


def test_removal_waits_for_writes_and_refuses_later_ones(store):
    matrix, begun, finish, removed = stored(store, np.ones((4, 2))), *(threading.Event() for _ in range(3))

    class Slow:
        def __setitem__(self, key, value):
            begun.set()
            assert finish.wait(10)
            if not store.location.is_url:
                (store.location.path / "late").mkdir()

    object.__setattr__(matrix, "array", Slow())
    writer = threading.Thread(target=matrix.__setitem__, args=(slice(None), 0))
    remover = threading.Thread(target=lambda: (store.remove(), removed.set()))
    writer.start()
    assert begun.wait(10)
    remover.start()
    assert not removed.wait(0.05)
    finish.set()
    assert removed.wait(10)
    writer.join()
    assert not store.location.exists()
    with pytest.raises(ScratchError, match="gone"):
        matrix[:] = 0
    with pytest.raises(ScratchError, match="gone"):
        store.matrix("b", (1, 1), np.dtype(float))


def test_a_full_disk_is_named(store):
    matrix = stored(store, np.ones((4, 2)))

    class Full:
        def __setitem__(self, key, value):
            raise OSError(28, "No space left on device")

    object.__setattr__(matrix, "array", Full())
    with pytest.raises(ScratchError, match=r"cannot be written: No space left on device\.\nFree some space"):
        matrix[:] = 0
