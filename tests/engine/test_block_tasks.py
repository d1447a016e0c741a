"""Tasks over the blocks of lazy matrices: only the wanted ones, and a cost in proportion to their number."""

import time

import dask.array as da
import numpy as np
import pytest
from dask.utils import key_split
from scipy import sparse

from mnndask.engine.block_tasks import compute_each, over_arguments, over_blocks, rows_of_blocks


def empty_blocks(n):
    return da.map_blocks(_zeros, chunks=((2,) * n, (3,)), dtype=float, meta=np.empty((0, 0)))


def _zeros(block_info=None):
    return np.zeros((2, 3))


def test_only_wanted_blocks_are_read():
    read = []

    def seen(X, block_info=None):
        if block_info:
            read.append(block_info[0]["chunk-location"][0])
        return X

    X = da.from_array(np.arange(30.0).reshape(10, 3), chunks=(2, 3)).map_blocks(seen, dtype=float)
    read.clear()
    tasks = over_blocks("gather", lambda block, i: (i, block.sum()), X, {1: ("b",), 4: ("e",)})
    assert compute_each([tasks], 1, 0) == [[("b", 51.0), ("e", 159.0)]]
    assert sorted(read) == [1, 4]


def test_arguments_that_look_like_tasks_are_passed_as_they_are():
    X = da.from_array(np.ones((2, 3)), chunks=(1, 3))
    odd = (X.name, 0, 0), (len, "ab"), "mnn-function", [X.name], None
    tasks = over_blocks("gather", lambda _, *own: own, X, {0: odd})
    assert compute_each([tasks, over_arguments("check", lambda *own: own, [odd])], 1, 0) == [[odd], [odd]]


def test_names_of_tasks_say_stage_and_batch():
    X = da.from_array(np.ones((2, 3)), chunks=(1, 3))
    name = over_blocks("sketch", len, X, {0: ()}, batch=2).keys[0][0]
    assert name.startswith("mnn-sketch-batch2-")
    assert key_split(name) == "mnn-sketch"


@pytest.mark.parametrize("rows", [None, [0, 3, 4, 9], [2], []])
def test_rows_of_blocks_are_those_of_the_matrix(rows):
    X = da.from_array(sparse.eye(10, format="csr"), chunks=((3, 1, 0, 5, 1), (10,)), asarray=False)
    starts, out = np.cumsum((0, *X.chunks[0])), []
    for i, (own,) in rows_of_blocks(X, None if rows is None else np.array(rows, int)).items():
        out += list(starts[i] + (np.arange(X.chunks[0][i]) if own is None else own))
    assert out == (list(range(10)) if rows is None else rows)


def test_no_tasks_have_no_results():
    assert compute_each([over_blocks("gather", len, empty_blocks(2), {})], None, 0) == [[]]
    assert compute_each([], None, 0) == []


def test_the_cost_of_a_block_does_not_grow_with_their_number():
    def seconds(n):
        X, start = empty_blocks(n), time.perf_counter()
        compute_each([over_blocks("gather", len, X, {i: () for i in range(n)})], 1, 0)
        return (time.perf_counter() - start) / n

    seconds(100)
    assert min(seconds(4000) for _ in range(2)) < 3 * min(seconds(500) for _ in range(2))
