"""Kernels that visit other cells tile by tile: equal to seeing all at once."""

from dataclasses import replace
from functools import reduce
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnndask.kernels import quantiles
from mnndask.kernels.distances import Points
from mnndask.kernels.neighbors import nearest
from mnndask.kernels.quantiles import QuantileSearch, add_tallies, weighted_quantiles
from mnndask.kernels.smoothing import density, smooth
from mnndask.kernels.subspace import Span, SvdSolver
from mnndask.kernels.variance import Lines, add_shares, variance_factors

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
    expected = nearest(queries, others, k, tie)
    for tile in [*TILES, 120]:
        found = nearest(queries, in_tiles(others, tile), k, tie)
        np.testing.assert_array_equal(found, expected)
    assert len(expected[0]) == 31 * k


@given(seed=st.integers(0, 10**6), tile=st.integers(1, 40), k=st.integers(1, 12), values=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_ties_across_tiles_go_to_the_lower_index(seed, tile, k, values):
    rng = np.random.default_rng(seed)
    queries, others = (rng.integers(0, values, (n, 2)).astype(float) for n in (6, 40))
    rows, cols = nearest(Points.of(queries), in_tiles(Points.of(others), tile), k, np.full(6, 1e-10))
    for i, query in enumerate(queries):
        by_distance = np.argsort(((query - others) ** 2).sum(axis=1), kind="stable")
        assert cols[rows == i].tolist() == sorted(by_distance[:k].tolist())


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
    expected = variance_factors(moved, vectors, new, ref, *scales)
    found = variance_factors(moved, vectors, in_tiles(new, tile), in_tiles(ref, tile), *scales)
    assert (expected > 1).mean() > 0.2
    np.testing.assert_allclose(found, expected, rtol=allowed)


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
    shares = [lines.share_of(tile) for _, tile in in_tiles(new, 9).tiles()]
    expected = add_shares(shares, sigma)
    found = grouped(shares, lambda a, b: a.plus(b, sigma), rng)
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


# ---------------------------------------------------------------- quantiles


def by_sorting(values, weights, share):
    """First value at which the cumulative weight reaches its share; the largest if it never does."""
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order], dtype=np.float64)
    reached = np.flatnonzero(cumulative >= share * cumulative[-1])
    return values[order[reached[0]]] if len(reached) else values.max()


def searched(values, weights, shares, *, tile, n_sample):
    """Quantiles by rounds over tiles; and the search after each round."""
    search = QuantileSearch.around(shares, values[:, :n_sample], tile)
    rounds = [search]
    while not search.done:
        tallies = [
            search.tally(
                values[:, at : at + tile], weights[:, at : at + tile], np.zeros(len(values), values.dtype)
            )
            for at in range(0, values.shape[1], tile)
        ]
        search = search.after(add_tallies(tallies, 1.0))
        rounds.append(search)
    return search.found, rounds


@st.composite
def quantile_problems(draw):
    """Rows of values and whole weights (so that their sums are exact), and shares."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_rows, n = draw(st.integers(1, 5)), draw(st.integers(1, 300))
    values = rng.normal(size=(n_rows, n))
    match draw(st.sampled_from(["spread", "lattice", "equal", "outliers", "offset", "sorted"])):
        case "lattice":
            values = np.round(values)
        case "equal":
            values[:] = values[:, :1]
        case "outliers":
            values[rng.random(values.shape) < 0.05] *= 1e6
        case "offset":
            values = 1000 + values * 1e-2
        case "sorted":  # the first few, which begin the search, are not like the others
            values.sort(axis=1)
    weights = rng.integers(0, draw(st.sampled_from([2, 9])), values.shape).astype(float)
    weights[:, rng.integers(n)] += 1
    shares = draw(
        st.lists(
            st.sampled_from([-1.0, -1e-12, 0.0, 1e-9, 0.25, 0.5, 0.9, 1.0, 1.5]) | st.floats(0, 1),
            min_size=n_rows,
            max_size=n_rows,
        )
    )
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return values.astype(dtype), weights.astype(dtype), np.array(shares)


@given(problem=quantile_problems())
@settings(deadline=None, max_examples=200)
def test_quantiles_at_once_equal_sorting(problem):
    expected = [by_sorting(*row) for row in zip(*problem, strict=True)]
    np.testing.assert_array_equal(weighted_quantiles(*problem), expected)


@given(problem=quantile_problems(), tile=st.integers(1, 300), n_sample=st.integers(1, 300))
@settings(deadline=None, max_examples=200)
def test_quantiles_by_rounds_equal_sorting(problem, tile, n_sample):
    """To rounding, where more values are equal than may be held."""
    assert_sorted(*problem, searched(*problem, tile=tile, n_sample=n_sample)[0])


@given(problem=quantile_problems(), tile=st.integers(30, 300), n_sample=st.integers(1, 300))
@settings(deadline=None, max_examples=150)
def test_quantiles_by_many_narrow_rounds_equal_sorting(problem, tile, n_sample):
    with patch.multiple(quantiles, HELD=3, BINS=8):
        assert_sorted(*problem, searched(*problem, tile=tile, n_sample=n_sample)[0])


def assert_sorted(values, weights, shares, found):
    expected = [by_sorting(*row) for row in zip(values, weights, shares, strict=True)]
    rounding = 4 * np.finfo(values.dtype).eps * np.abs(values).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding)


def test_crowded_brackets_are_narrowed_before_values_are_held():
    values = np.random.default_rng(0).normal(size=(3, 20_000))
    problem = values, np.ones_like(values), np.array([0.1, 0.5, 0.9])
    with patch.multiple(quantiles, HELD=16, BINS=8):
        found, rounds = searched(*problem, tile=700, n_sample=256)
    assert [r.gathers for r in rounds].count(False) >= 4  # rounds that narrowed
    widths = [float((r.stop - r.start).max()) for r in rounds[:-1]]
    assert all(after < before / 4 for before, after in pairwise(widths))
    np.testing.assert_array_equal(found, [by_sorting(*row) for row in zip(*problem, strict=True)])


@pytest.mark.parametrize("share", [0.02, 0.98])
def test_brackets_move_to_quantiles_that_the_sample_missed(share):
    values = np.random.default_rng(0).normal(size=(1, 5000))
    values[0, :100] = np.random.default_rng(1).normal(0, 0.01, 100)
    found, rounds = searched(values, np.ones_like(values), np.array([share]), tile=512, n_sample=100)
    assert not rounds[0].start[0] <= found[0] <= rounds[0].stop[0]
    assert rounds[1].start[0] <= found[0] <= rounds[1].stop[0]
    assert found[0] == by_sorting(values[0], np.ones(5000), share)


def test_far_more_equal_values_than_may_be_held():
    values = np.concatenate([np.full(9000, 0.3), np.linspace(-1, 1, 1001)])[None]
    weights, shares = np.ones_like(values), np.array([0.5])
    found, rounds = searched(values, weights, shares, tile=1000, n_sample=256)
    assert found[0] == pytest.approx(0.3, abs=1e-15)
    assert not any(r.gathers for r in rounds[:-1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_of_any_range_add_up(dtype):
    """Tiles have largest weights from 1 down to e^-700 of each other."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 600)).astype(dtype)
    squared = (rng.random((4, 600)) * 30 + 700 * rng.random(600).round(1)).astype(dtype)
    shares, tallied = np.array([0.1, 0.4, 0.6, 0.95]), []
    search = QuantileSearch.around(shares, values[:, :50], 40)
    while not search.done:
        tallied = []
        for at in range(0, 600, 40):
            near = squared[:, at : at + 40]
            least = near.min(axis=1)
            tallied.append(search.tally(values[:, at : at + 40], np.exp(least[:, None] - near), least))
        search = search.after(reduce(lambda a, b: a.plus(b, 1.0), tallied))
    weights = np.exp(squared.min(axis=1, keepdims=True).astype(float) - squared)
    for row, found in enumerate(search.found):
        below, up_to = (weights[row][m].sum() for m in (values[row] < found, values[row] <= found))
        assert below <= (shares[row] + 1e-5) * weights[row].sum()
        assert up_to >= (shares[row] - 1e-5) * weights[row].sum()


def test_brackets_of_next_to_no_width_do_not_overflow():
    values = np.full((1, 3000), 1e3, np.float32)
    values[0, :256] = 0
    values[0, 0] = 1e-40
    found, _ = searched(values, np.ones_like(values), np.array([0.01]), tile=500, n_sample=256)
    assert found[0] == 0


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
    exact = Span.of(X, n_dims, SvdSolver("svd"), 60.0)
    found = Span.of(X, n_dims, SvdSolver("svd"), 60.0, tile)
    assert_same_span(found, exact, rng.normal(size=(n_cells, 5)))


@pytest.mark.parametrize("mode", ["svd", "rsvd", "irlb"])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_directions_of_nothing_are_left_out_of_tiles(rank, mode):
    rng = np.random.default_rng(0)
    X = 3 + rng.normal(size=(50, rank)) @ rng.normal(size=(rank, 12))
    exact = Span.of(X, 5, SvdSolver("svd"), 20.0)
    assert exact.basis.shape == (12, rank)
    assert_same_span(Span.of(X, 5, SvdSolver(mode), 20.0, 7), exact, rng.normal(size=(50, 4)))
