"""Cells that rounding may decide: they are found, and decided as in double precision."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mnndask.core.arrays import DoublePoints, Points
from mnndask.core.doubt import factors_in_double
from mnndask.core.kernels.quantiles import weighted_quantiles
from mnndask.core.quantile_search import QuantileSearch
from mnndask.core.smoothing import density, smooth
from mnndask.core.variance import Lines, variance_factors

SIGMA = 2.0


def cells(n, seed, n_genes=9):
    return np.random.default_rng(seed).random((n, n_genes), np.float32)


def step_between(new, ref, *, tile=None):
    """A merge step with every second cell of the batch as an anchor."""
    anchors, vectors = Points.of(new[::2]), cells(len(new[::2]), seed=3)
    return SimpleNamespace(
        anchors=anchors,
        log_density=np.log(density(anchors, 0, anchors, SIGMA)),
        near_vectors=vectors,
        new=Points(new, Points.of(new).squared, tile),
        ref=Points(ref, Points.of(ref).squared, tile),
        scale=3.0,
    )


@pytest.mark.parametrize("tile", [None, 7])
def test_they_are_decided_as_in_double_precision(tile, monkeypatch):
    monkeypatch.setattr("mnndask.core.doubt.PAIRS_AT_ONCE", 300)  # a few cells at a time
    monkeypatch.setattr("mnndask.core.arrays.VALUES_IN_DOUBLE", 16 * 9)
    new, ref = cells(60, seed=1), 3 * cells(50, seed=2)
    step = step_between(new, ref, tile=tile)
    anchors, double = Points.of(new[::2].astype(float)), new.astype(float)
    (vectors,) = smooth(
        Points.of(double), anchors, step.log_density, [step.near_vectors.astype(float)], SIGMA
    )
    lines = Lines.of(Points.of(double), vectors, SIGMA, 3.0)
    expected, _ = variance_factors(lines, Points.of(double), Points.of(ref.astype(float)))
    found = factors_in_double(Points.of(new), Points.of(new), step, SIGMA)
    assert expected.max() > 1
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_few_cells_with_many_genes_are_in_double_precision_at_once(monkeypatch):
    monkeypatch.setattr("mnndask.core.arrays.VALUES_IN_DOUBLE", 100)
    tiles = [tile.X for _, tile in DoublePoints.around(Points.of(cells(20, seed=1, n_genes=30))).tiles()]
    assert {X.dtype for X in tiles} == {np.dtype(float)}
    assert max(X.size for X in tiles) <= 100
    assert sum(map(len, tiles)) == 20


VALUES, WEIGHTS = np.array([[1.0, 2.0, 4.0]]), np.ones((1, 3))


@pytest.mark.parametrize(
    ("share", "least", "doubtful"),
    [
        (1 / 3, 0.0, True),  # reached exactly by the first value
        (1 / 3 + 1e-8, 0.0, True),  # nearly
        (0.5, 0.0, False),
        (2 / 3 - 1e-8, 2.5, True),  # reached before the bound, nearly not
        (0.5, 2.5, False),
    ],
)
def test_a_share_that_a_sum_of_weights_nearly_equals_is_doubtful(share, least, doubtful):
    found = weighted_quantiles(VALUES, WEIGHTS, np.array([share]), np.array([least]), 1e-6)[1]
    assert found.tolist() == [doubtful]


@pytest.mark.parametrize(("share", "doubtful"), [(1 / 3, True), (1 / 3 + 1e-8, True), (0.5, False)])
def test_the_search_over_tiles_finds_the_same(share, doubtful):
    search = QuantileSearch.around(np.array([share]), VALUES, 3, None, 1e-6)
    while not search.done:
        search = search.after(search.tally(VALUES, WEIGHTS, np.zeros(1)))
    assert search.doubtful.tolist() == [doubtful]


def test_a_cell_nearly_beside_another_is_doubtful():
    X = np.array([[0, 0], [1e-8, 1], [1, 1]], np.float32)
    lines = Lines.of(Points.of(X), np.tile(np.float32([1, 0]), (3, 1)), 1.0, 1.0)
    assert lines.batch_weights(Points.of(X)).doubtful.tolist() == [True, True, False]
