"""Chunks that two blocks need are read once, whichever block comes first and whatever becomes of it."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnndask.stores import shared_chunks
from mnndask.stores.shared_chunks import SharedChunks

N_EACH = 10
VALUES = np.arange(95)


class Stored:
    """An array in chunks that counts how often each is read."""

    def __init__(self, values=VALUES, n_each=N_EACH, before=lambda: None):
        self.values, self.chunks, self.before = values, (n_each,), before
        self.shape, self.dtype = values.shape, values.dtype
        self.n_reads = Counter()

    def read(self, start, stop):
        self.before()
        assert start < stop
        self.n_reads.update(range(start // self.chunks[0], -(-stop // self.chunks[0])))
        return self.values[start:stop]


def read(shared, stored, start, stop, version=1):
    out = shared.read(stored, start, stop, lambda number: (number, version), stored.read)
    np.testing.assert_array_equal(out, stored.values[start:stop])


@settings(max_examples=100, deadline=None)
@given(
    cuts=st.lists(st.integers(0, len(VALUES)), max_size=12),
    order=st.randoms(use_true_random=False),
    n_threads=st.integers(1, 3),
)
def test_ranges_in_any_order_have_their_values(cuts, order, n_threads):
    ends = sorted({0, *cuts, len(VALUES)})
    ranges = [*itertools.pairwise(ends), (0, 0)]
    order.shuffle(ranges)
    shared, stored = SharedChunks(), Stored()
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(lambda ends: read(shared, stored, *ends), ranges))


@pytest.mark.parametrize("ranges", [[(0, 25), (25, 63), (63, 95)], [(63, 95), (0, 25), (25, 63)]])
def test_each_chunk_is_read_once(ranges):
    shared, stored = SharedChunks(), Stored()
    for start, stop in ranges:
        read(shared, stored, start, stop)
    assert set(stored.n_reads.values()) == {1}
    assert not shared._kept


def test_a_chunk_that_is_being_read_is_waited_for():
    started, go_on = threading.Event(), threading.Event()

    def slowly():
        started.set()
        assert go_on.wait(10)

    shared, stored, other = SharedChunks(), Stored(before=slowly), Stored()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(read, shared, stored, 0, 25)
        assert started.wait(10)
        second = pool.submit(read, shared, other, 25, 63)
        go_on.set()
        first.result(10), second.result(10)
    assert 2 in stored.n_reads
    assert 2 not in other.n_reads


def test_a_block_that_fails_does_not_fail_its_neighbour():
    def fail():
        msg = "not now"
        raise OSError(msg)

    shared = SharedChunks()
    with pytest.raises(OSError, match="not now"):
        shared.read(Stored(), 0, 25, lambda number: (number, 1), Stored(before=fail).read)
    read(shared, Stored(), 25, 63)


def test_another_version_of_a_chunk_is_another_chunk():
    shared = SharedChunks()
    read(shared, Stored(), 0, 25)
    read(shared, Stored(VALUES + 1000), 25, 63, version=2)


def test_chunks_of_unknown_version_are_not_kept():
    shared, stored = SharedChunks(), Stored()
    for start, stop in ((0, 25), (25, 63)):
        out = shared.read(stored, start, stop, lambda number: None, stored.read)
        np.testing.assert_array_equal(out, VALUES[start:stop])
    assert stored.n_reads[2] == 2


def test_what_is_kept_is_bounded(monkeypatch):
    size = VALUES.dtype.itemsize * N_EACH
    monkeypatch.setattr(shared_chunks, "MOST_BYTES", 3 * size)
    shared, stored = SharedChunks(), Stored()
    for version in range(9):
        read(shared, stored, 5, 25, version)
    assert len(shared._kept) == 3
    other = Stored(np.arange(190), 2 * N_EACH)
    shared.read(other, 5, 50, lambda number: (number, "other"), other.read)  # two chunks of twice the size
    assert sum(chunk.values.result().nbytes for chunk in shared._kept.values()) <= 3 * size
    read(shared, stored, 5, 25, version=97)
    read(shared, stored, 5, 25, version=98)
    assert all(chunk.values.result().nbytes == size for chunk in shared._kept.values())
    monkeypatch.setattr(shared_chunks, "LARGEST", size - 1)
    read(shared, stored, 5, 25, version=99)
    assert (2, 99) not in shared._kept
