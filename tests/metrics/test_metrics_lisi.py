"""LISI: by hand, by another way of finding the weights, and by the packages that are known for it."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.special import entr, softmax
from sklearn.neighbors import NearestNeighbors

from mnndask.metrics import lisi
from mnndask.metrics.local_inverse_simpson import effective_number
from mnndask.metrics.neighborhoods import nearest_cells


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    batches = rng.integers(0, 4, 400)
    return rng.normal(size=(400, 8)) + 0.7 * batches[:, None], batches


def of_one_cell(cells, batches, cell, perplexity):
    away = np.linalg.norm(cells - cells[cell], axis=1)
    away[cell] = np.inf
    found = np.argsort(away)[: 3 * perplexity - 1]

    def entropy(beta):
        return entr(softmax(-beta * away[found])).sum()

    beta = brentq(lambda b: entropy(b) - np.log(perplexity), 1e-6, 1e6)
    shares = np.bincount(batches[found], softmax(-beta * away[found]))
    return 1 / (shares**2).sum()


@pytest.mark.parametrize("perplexity", [3, 30])
def test_weights_have_the_entropy_of_so_many_neighbours(cells, perplexity):
    found = lisi(*cells, perplexity)
    expected = [of_one_cell(*cells, cell, perplexity) for cell in range(0, 400, 10)]
    assert found[::10] == pytest.approx(np.array(expected), abs=1e-4)
    assert found.min() < 1.7 < 2.2 < found.max()


def test_cells_equally_far_from_each_other_weigh_the_same():
    found = lisi(np.eye(6), [0, 0, 0, 1, 1, 1], 2)
    assert found == pytest.approx(np.full(6, 1 / (0.4**2 + 0.6**2)))


@pytest.mark.parametrize("value", [0.0, 3.7])
def test_cells_that_are_all_equal_weigh_the_same(value):
    found = lisi(np.full((90, 4), value), np.repeat(["a", "b", "c"], 30))
    shares = np.array([29, 30, 30]) / 89
    assert found == pytest.approx(np.full(90, 1 / (shares**2).sum()))


def test_duplicates_are_each_others_neighbours(cells):
    X, batches = cells
    twice = lisi(np.repeat(X, 2, axis=0), np.repeat(batches, 2), 1)
    # Of two neighbours the duplicate, of the same batch, weighs all.
    assert twice == pytest.approx(np.ones(800), abs=1e-4)
    found = lisi(np.repeat(X[:100], 4, axis=0), np.tile([0, 1, 2, 3], 100), 1)
    assert found == pytest.approx(np.full(400, 2.0))  # two of three duplicates, of other batches


def test_one_batch_is_one_and_batches_apart_are_one(cells):
    X, batches = cells
    assert lisi(X, np.zeros(400)) == pytest.approx(np.ones(400))
    assert lisi(X + 1e3 * batches[:, None], batches, 10) == pytest.approx(np.ones(400))


def test_units_and_precision_do_not_matter(cells):
    X, batches = cells
    expected = lisi(X, batches)
    for unit in (2.0**-300, 2.0**300):
        assert lisi(X * unit, batches) == pytest.approx(expected, abs=1e-9)
    assert lisi(X / 30, batches) == pytest.approx(expected, abs=1e-4)
    assert lisi(X.astype(np.float32), batches) == pytest.approx(expected, abs=1e-4)


def test_equals_harmonypy(cells):
    why = "compares with harmonypy 2.1 or newer"
    harmonypy = pytest.importorskip("harmonypy", minversion="2.1", reason=why)
    X, batches = cells
    for perplexity in (10, 30):
        theirs = harmonypy.compute_lisi(X, pd.DataFrame({"batch": batches}), ["batch"], perplexity)[:, 0]
        # From version 2 on it looks at one neighbour more.
        found = nearest_cells(X, 3 * perplexity)
        ours = effective_number(X, batches, 4, found, perplexity)
        assert ours == pytest.approx(theirs, abs=1e-10)
        assert lisi(X, batches, perplexity) == pytest.approx(theirs, abs=0.1)


@pytest.mark.filterwarnings("ignore")  # its own, and jax's
def test_equals_scib_metrics(cells):
    scib_metrics = pytest.importorskip("scib_metrics", reason="compares with scib-metrics, which needs jax")
    from scib_metrics.nearest_neighbors import NeighborsResults

    X, batches = cells
    for perplexity in (10, 30):
        distances, indices = NearestNeighbors(n_neighbors=3 * perplexity).fit(X).kneighbors(X)
        neighbors = NeighborsResults(indices=indices, distances=distances)
        ours = lisi(X, batches, perplexity)
        # It computes in single precision.
        assert ours == pytest.approx(scib_metrics.lisi_knn(neighbors, batches), abs=2e-4)
        scaled = (np.median(ours) - 1) / 3
        assert scaled == pytest.approx(scib_metrics.ilisi_knn(neighbors, batches), abs=1e-4)
        scaled = (4 - np.median(ours)) / 3
        assert scaled == pytest.approx(scib_metrics.clisi_knn(neighbors, batches), abs=1e-4)
