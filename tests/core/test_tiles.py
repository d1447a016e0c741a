"""Kernels that visit other cells tile by tile: equal to seeing all at once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnndask.core.arrays import Points
from mnndask.core.batch_weights import add_batch_weights
from mnndask.core.neighbors import nearest
from mnndask.core.quantile_search import add_tallies
from mnndask.core.smoothing import density, smooth
from mnndask.core.span import Span
from mnndask.core.svd import SvdSolver
from mnndask.core.variance import Lines, variance_factors

TILES = [1, 7, 64]
DTYPES = [(np.float64, 1e-12), (np.float32, 1e-5)]


def cells(n, n_genes=12, *, seed=0, dtype=np.float64, copies=1):
    """Cells around the origin, each of them `copies` times, in mixed order."""
    rng = np.random.default_rng(seed)
    X = np.repeat(rng.normal(size=(-(-n // copies), n_genes)), copies, axis=0)[:n]
    return Points.of(rng.permutation(X).astype(dtype))


def in_tiles(points, tile):
    return replace(points, tile=tile)


# ---------------------------------------------------------------- neighbours


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("copies", [1, 5, 40])
@pytest.mark.parametrize("k", [1, 10, 30, 119, 120])
def test_neighbours_are_the_same_whatever_the_tile(k, copies, dtype):
    queries, others = cells(31, seed=1, dtype=dtype, copies=copies), cells(120, dtype=dtype, copies=copies)
    tie = np.full(31, 1e-10 if dtype == np.float64 else 1e-5)
    expected = sorted(zip(*nearest(queries, others, k, tie), strict=True))
    for tile in [*TILES, 120]:
        found = nearest(queries, in_tiles(others, tile), k, tie)
        assert sorted(zip(*found, strict=True)) == expected
    assert len(expected) == 31 * k


@given(seed=st.integers(0, 10**6), tile=st.integers(1, 40), k=st.integers(1, 12), values=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_ties_across_tiles_go_to_the_lower_index(seed, tile, k, values):
    rng = np.random.default_rng(seed)
    queries, others = (rng.integers(0, values, (n, 2)).astype(float) for n in (6, 40))
    rows, cols = nearest(Points.of(queries), in_tiles(Points.of(others), tile), k, np.full(6, 1e-10))
    for i, query in enumerate(queries):
        by_distance = np.argsort(((query - others) ** 2).sum(axis=1), kind="stable")
        assert sorted(cols[rows == i]) == sorted(by_distance[:k].tolist())


# ---------------------------------------------------------------- smoothing


@pytest.mark.parametrize(("dtype", "allowed"), DTYPES)
@pytest.mark.parametrize("tile", TILES)
def test_density_adds_up_over_tiles(tile, dtype, allowed):
    anchors = cells(100, dtype=dtype, copies=3)
    expected = density(anchors, 0, anchors, 5.0)
    found = [density(anchors[at : at + 30], at, in_tiles(anchors, tile), 5.0) for at in range(0, 100, 30)]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=allowed)


@pytest.mark.parametrize(("dtype", "allowed"), DTYPES)
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("sigma", [1e-3, 5.0])
def test_smoothing_adds_up_over_tiles(sigma, tile, dtype, allowed):
    anchors, rng = cells(100, dtype=dtype), np.random.default_rng(2)
    near, far = cells(40, seed=3, dtype=dtype).X, cells(5, seed=4, dtype=dtype).X * 50
    moved = Points.of(np.vstack([near, far]))
    vectors = [rng.normal(size=(100, n)).astype(dtype) for n in (12, 0, 2500)]
    log_density = np.log(density(anchors, 0, anchors, sigma))
    expected = smooth(moved, anchors, log_density, vectors, sigma)
    for ours, theirs in zip(
        smooth(moved, in_tiles(anchors, tile), log_density, vectors, sigma), expected, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=allowed * 200)


# ---------------------------------------------------------------- variance adjustment


def variance_problem(dtype, copies=1):
    new, ref = cells(60, seed=1, dtype=dtype, copies=copies), cells(400, seed=2, dtype=dtype, copies=copies)
    ref = Points.of(3 * ref.X + 1)
    vectors = np.random.default_rng(5).normal(0.4, 0.3, (60, 12)).astype(dtype)
    vectors[7] = 0
    return new, vectors, new, ref, 8.0, 5.0


@pytest.mark.parametrize(("dtype", "allowed"), DTYPES)
@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("tile", TILES)
def test_variance_factors_are_the_same_whatever_the_tile(tile, copies, dtype, allowed):
    moved, vectors, new, ref, *scales = variance_problem(dtype, copies)
    lines = Lines.of(moved, vectors, *scales)
    expected, _ = variance_factors(lines, new, ref)
    found, _ = variance_factors(lines, in_tiles(new, tile), in_tiles(ref, tile))
    assert (expected > 1).mean() > 0.2
    np.testing.assert_allclose(found, expected, rtol=allowed)


def test_a_cell_below_its_batch_aims_at_a_reference_cell_too_far_away_to_count():
    """All weights up to the vector's length are zero; the lowest cell still is."""
    rng = np.random.default_rng(0)
    far = np.column_stack([rng.uniform(-1, 0.5, 1000), np.full(1000, 100.0), np.zeros(1000)])
    near = np.column_stack([rng.uniform(3, 9, 1000), np.zeros((1000, 2))])
    ref, new = Points.of(np.vstack([far, near])), Points.of(rng.uniform(1, 2, (50, 3)))
    cell, vectors = Points.of(np.zeros((1, 3))), np.array([[1.0, 0, 0]])
    for tile in (None, 500):
        lines = Lines.of(cell, vectors, 1.0, 100.0)
        factors, _ = variance_factors(lines, in_tiles(new, tile), in_tiles(ref, tile))
        assert factors.tolist() == [1.0]


def grouped(parts, plus, rng):
    """Add parts up, two at a time, in any order and grouping."""
    parts = list(parts)
    while len(parts) > 1:
        a, b = parts.pop(rng.integers(len(parts))), parts.pop(rng.integers(len(parts)))
        parts.append(plus(a, b))
    return parts[0]


@given(seed=st.integers(0, 10**6), gathers=st.booleans())
@settings(deadline=None, max_examples=25)
def test_partials_add_up_in_any_order_and_grouping(seed, gathers):
    moved, vectors, new, ref, sigma, scale = variance_problem(np.float64)
    rng, lines = np.random.default_rng(seed), Lines.of(moved, vectors, sigma, scale)
    weights = [lines.batch_weights(tile) for _, tile in in_tiles(new, 9).tiles()]
    expected = add_batch_weights(weights, sigma)
    found = grouped(weights, lambda a, b: a.plus(b, sigma), rng)
    for name in ("least", "total", "below"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12)

    search = replace(lines.search(expected, ref), gathers=gathers)
    tallies = [lines.tally(search, tile) for _, tile in in_tiles(ref, 37).tiles()]
    expected = add_tallies(tallies, sigma)
    found = grouped(tallies, lambda a, b: a.plus(b, sigma), rng)
    np.testing.assert_array_equal(found.counts, expected.counts)
    for name in ("least", "sums", "low", "high"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12)
    for ours, theirs in zip(held(found), held(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert len(expected.rows) > 0 if gathers else len(expected.rows) == 0


def held(tally):
    order = np.lexsort((tally.weights, tally.values, tally.rows))
    return tally.rows[order], tally.values[order], tally.weights[order]


# ---------------------------------------------------------------- spans


def assert_same_span(found, expected, others):
    """Up to the signs of its directions."""
    assert found.basis.shape == expected.basis.shape
    np.testing.assert_allclose(found.basis @ found.basis.T, expected.basis @ expected.basis.T, atol=1e-10)
    np.testing.assert_allclose(
        found.basis @ found.loadings(others).T, expected.basis @ expected.loadings(others).T, atol=1e-8
    )


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("n_dims", [1, 3, 11, 12, 40])
@pytest.mark.parametrize("n_cells", [2, 9, 80])
def test_span_of_tiles_is_the_exact_one(n_cells, n_dims, tile):
    rng = np.random.default_rng(n_cells)
    X = rng.normal(5, 1, (n_cells, 12)) * np.geomspace(10, 0.1, 12)
    cells = Points.of(X)
    exact = Span.of(cells, n_dims, SvdSolver("svd"), 60.0)
    found = Span.of(replace(cells, tile=tile), n_dims, SvdSolver("svd"), 60.0)
    assert_same_span(found, exact, rng.normal(size=(n_cells, 5)))


@pytest.mark.parametrize("mode", ["svd", "rsvd", "irlb"])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_directions_of_nothing_are_left_out_of_tiles(rank, mode):
    rng = np.random.default_rng(0)
    X = 3 + rng.normal(size=(50, rank)) @ rng.normal(size=(rank, 12))
    cells = Points.of(X)
    exact = Span.of(cells, 5, SvdSolver("svd"), 20.0)
    assert exact.basis.shape == (12, rank)
    found = Span.of(replace(cells, tile=7), 5, SvdSolver(mode), 20.0)
    assert_same_span(found, exact, rng.normal(size=(50, 4)))
