"""Rows of cells in their batches are counted when they are needed."""

from types import SimpleNamespace

import numpy as np
import pytest

from mnndask.engine import chunk_corrector
from mnndask.engine.chunk_corrector import ChunkCorrector

MODEL = SimpleNamespace(names=["a", "b", "c"])


@pytest.mark.parametrize("n", [1, 7, 8, 9, 50])
def test_rows_of_several_batches_are_those_of_all_cells(monkeypatch, n):
    monkeypatch.setattr(chunk_corrector, "STRIDE", 8)
    batches = np.random.default_rng(n).integers(0, 3, n).astype(np.uint8)
    expected = np.array([np.sum(batches[:i] == batches[i]) for i in range(n)])
    corrector = ChunkCorrector.of(MODEL, batches, in_fit=True)
    for size in (1, 3, 8, 11, n):
        found = [corrector.rows(first, min(size, n - first)) for first in range(0, n, size)]
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_rows_of_one_batch_are_those_of_the_source():
    np.testing.assert_array_equal(ChunkCorrector.of(MODEL, 1, in_fit=True).rows(5, 3), [5, 6, 7])


@pytest.mark.parametrize("batches", [1, np.zeros(4, np.int8)])
def test_cells_outside_the_fit_have_none(batches):
    assert ChunkCorrector.of(MODEL, batches, in_fit=False).rows(0, 4) is None


def test_a_corrector_of_many_cells_is_small():
    batches = np.zeros(10**6, np.uint8)
    corrector = ChunkCorrector.of(MODEL, batches, in_fit=True)
    assert corrector.batches.nbytes + corrector.counts.nbytes < 1.001e6
