"""Threads share the cores with BLAS."""

import threading

import numpy as np
import pytest
from process_state import two_blas_threads
from threadpoolctl import threadpool_info

from mnndask._blocks import row_blocks
from mnndask._threads import effective_n_jobs, map_blocks, single_threaded_blas


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def _several_threads():
    """Have BLAS use several, so that a limit is seen, and seen to be lifted."""
    np.ones((2, 2)) @ np.ones((2, 2))
    with two_blas_threads():
        assert blas_threads() == {2}
        yield


def test_blocks_cover_all_rows_in_order():
    assert row_blocks(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert map_blocks(lambda s: s.start, row_blocks(7, 3), 2) == [0, 3, 6]


def test_negative_n_jobs_count_from_all_processors():
    assert effective_n_jobs(None) == effective_n_jobs(-1) >= 1
    assert effective_n_jobs(3) == 3


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_blas_has_one_thread_inside(n_jobs):
    assert map_blocks(lambda _: blas_threads(), row_blocks(2, 1), n_jobs) == [{1}, {1}]


def test_overlapping_limits_are_lifted_by_the_last():
    before = blas_threads()
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with single_threaded_blas():
            inside.set()
            leave.wait(10)

    with single_threaded_blas():
        other = threading.Thread(target=hold)
        other.start()
        assert inside.wait(10)
    assert blas_threads() == {1}
    leave.set()
    other.join()
    assert blas_threads() == before


def test_errors_in_a_block_reach_the_caller_and_lift_the_limit():
    before = blas_threads()
    with pytest.raises(ZeroDivisionError):
        map_blocks(lambda s: 1 // s.start, row_blocks(4, 1), 2)
    assert blas_threads() == before
