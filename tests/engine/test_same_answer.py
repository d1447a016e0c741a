"""The same pairs and values however the work is divided, in single precision too."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from scipy import sparse

from mnndask import mnn_correct
from mnndask.engine import memory_budget

pytestmark = pytest.mark.xdist_group("cluster")  # one process computes what is expected

OPTIONS = {"k": 10, "sketch_size": None, "do_concatenate": False}


def nearly_tied(n_cells, n_genes=30, n_expressed=10, seed=0):
    """Batches in which distances take few values, and differ otherwise by about a rounding error."""
    rng = np.random.default_rng(seed)
    batches = [rng.permuted(np.arange(n_genes) < n_expressed + np.zeros((n, 1)), axis=1) for n in n_cells]
    return [(X + 1e-6 * rng.random(X.shape)).astype(np.float32) for X in batches]


BATCHES = nearly_tied((300, 250))


def chunked(rows):
    return [da.from_array(X, chunks=(rows, -1)) for X in BATCHES]


WAYS = {
    "two threads": (BATCHES, {"n_jobs": 2}),
    "chunks": (chunked(37), {"n_jobs": 2}),
    "sparse": ([sparse.csr_matrix(X) for X in BATCHES], {}),
    "on disk": (chunked(53), {"memory_limit": 100_000, "n_jobs": 1}),
    "on disk, two threads": (chunked(53), {"memory_limit": 300_000, "n_jobs": 2}),
}


def corrected(batches, **options):
    values, mnns, _ = mnn_correct(*batches, **OPTIONS | options)
    return [np.asarray(X) for X in values], [table.to_numpy() for table in mnns]


@pytest.fixture(scope="module")
def expected():
    return {n: corrected(BATCHES, n_jobs=1, n_components=n) for n in (None, 8)}


@pytest.mark.parametrize("n_components", [None, 8])
@pytest.mark.parametrize("way", WAYS)
def test_pairs_and_values_are_the_same(way, n_components, expected, monkeypatch):
    monkeypatch.setattr(memory_budget, "FEWEST_TILE_ROWS", 1)
    batches, options = WAYS[way]
    check_same(corrected(batches, n_components=n_components, **options), expected[n_components])


@pytest.mark.parametrize("n_components", [None, 8])
def test_pairs_and_values_are_those_of_a_cluster(client, n_components, expected, monkeypatch):
    monkeypatch.setattr(memory_budget, "FEWEST_TILE_ROWS", 1)
    found = corrected(chunked(53), n_components=n_components, memory_limit=300_000)
    check_same(found, expected[n_components])


def check_same(found, expected):
    for pairs, expected_pairs in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(pairs, expected_pairs)
    largest = max(np.abs(X).max() for X in expected[0])
    for X, expected_X in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(X, expected_X, rtol=0, atol=1e-6 * largest)
