"""Compiled loops against the same in NumPy, in double precision."""

import numpy as np
import pytest

from mnndask.core.distances import bits_of
from mnndask.core.kernels.exponential import exp_in_place
from mnndask.core.kernels.few_dims import packed, padded, weigh_by_lines_in_few_dims
from mnndask.core.kernels.nearest import keep_nearest, keep_smallest
from mnndask.core.kernels.pairs import (
    distances_of,
    settle_small,
    sum_weights,
    weigh_by_distance,
    weigh_by_lines,
)
from mnndask.core.kernels.quantiles import FEW, FEWEST, N_BINS, weighted_quantiles_of
from mnndask.core.kernels.refinement import LANES, add_members, sum_squared_weights

TYPES = pytest.mark.parametrize(("dtype", "allowed"), [(np.float32, 3e-6), (np.float64, 1e-14)])


def points(dtype, n=70, n_dims=6):
    """Two sides of cells, and a direction for each of the first."""
    rng = np.random.default_rng(0)
    X, Y, G = (rng.normal(size=(m, n_dims)) for m in (n, n + 13, n))
    G /= np.linalg.norm(G, axis=1, keepdims=True)
    return tuple(np.ascontiguousarray(A, dtype) for A in (X, Y, G))


def squared(A):
    return np.einsum("ij,ij->i", A, A)


@TYPES
def test_exponentials(dtype, allowed):
    x = np.concatenate([-np.geomspace(1e-30, 1e30, 5000), [0, -np.finfo(dtype).max]]).astype(dtype)
    found = x[None].copy()
    exp_in_place(found, bits_of(found))
    expected = np.exp(x.astype(np.longdouble))
    small = expected < 10 * np.finfo(dtype).tiny
    assert (found[0, small] < 20 * np.finfo(dtype).tiny).all()
    np.testing.assert_allclose(found[0, ~small], expected[~small].astype(float), rtol=allowed / 8, atol=0)
    assert found[0, -2:].tolist() == [1, 0]


@TYPES
@pytest.mark.parametrize("are_squared", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.7, 1e30])
def test_weights_along_lines(dtype, allowed, rate, are_squared):
    X, Y, G = points(dtype)
    ahead, weights, least = G @ Y.T, X @ Y.T, np.empty(len(X), dtype)
    if are_squared:
        weights = np.maximum(squared(X)[:, None] + squared(Y) - 2 * weights, 0)
    own = np.einsum("ij,ij->i", X, G)
    norms = own, squared(X), squared(Y)
    weigh_by_lines(ahead, weights, are_squared, *norms, dtype(rate), least, bits_of(ahead))
    X, Y, G = (A.astype(float) for A in (X, Y, G))
    difference = Y[None] - X[:, None]
    along = np.einsum("ijk,ik->ij", difference, G)
    distance = np.maximum((difference**2).sum(axis=2) - along**2, 0)
    np.testing.assert_allclose(ahead, along, atol=10 * allowed)
    np.testing.assert_allclose(least, distance.min(axis=1), atol=20 * allowed)
    if rate < 1:
        expected = np.exp(-(distance - distance.min(axis=1, keepdims=True)) * rate)
        np.testing.assert_allclose(weights, expected, atol=20 * allowed)
    assert (weights.max(axis=1) == 1).all()


@TYPES
@pytest.mark.parametrize(("n", "n_dims", "n_others"), [(1, 1, 1), (7, 5, 128), (70, 6, 83), (9, 53, 300)])
def test_lines_in_few_dimensions_give_what_whole_products_do(dtype, allowed, n, n_dims, n_others):
    rng = np.random.default_rng(0)
    X, G, Y = (rng.normal(size=(m, n_dims)).astype(dtype) for m in (n, n, n_others))
    G /= np.linalg.norm(G, axis=1, keepdims=True)
    norms = np.einsum("ij,ij->i", X, G), squared(X), squared(Y), dtype(0.7)
    ahead, weights, least = G @ Y.T, X @ Y.T, np.empty(n, dtype)
    weigh_by_lines(ahead, weights, False, *norms, least, bits_of(ahead))
    found = np.empty_like(ahead), np.empty_like(ahead), np.empty(n, dtype)
    weigh_by_lines_in_few_dims(padded("", G), padded("", X), packed("", Y), *norms, *found, bits_of(ahead))
    for ours, expected in zip(found, (ahead, weights, least), strict=True):
        np.testing.assert_allclose(ours, expected, atol=100 * allowed)


@TYPES
def test_sums_of_weights(dtype, allowed):
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(9, 301)).astype(dtype), rng.random((9, 301)).astype(dtype)
    total, below = np.empty((2, 9))
    doubtful = np.zeros(9, np.bool_)
    values[3, 7], values[5, 300], values[6, 0] = 1e-6, -1e-6, 0
    sum_weights(values, weights, dtype(0.2), dtype(1e-5), total, below, doubtful)
    np.testing.assert_allclose(total, weights.sum(axis=1, dtype=float), rtol=1e-14)
    np.testing.assert_allclose(below, (weights * (values <= 0.2)).sum(axis=1, dtype=float), rtol=1e-14)
    assert np.flatnonzero(doubtful).tolist() == [3, 5]


@TYPES
def test_smoothing_weights_over_two_tiles(dtype, allowed):
    X, Y, _ = points(dtype)
    log_density = np.linspace(0, 3, len(Y)).astype(dtype)
    total, top = np.zeros(len(X)), np.full(len(X), -np.inf, dtype)
    sums, tiles = np.zeros((len(X), 2)), [slice(0, 30), slice(30, len(Y))]
    for at in tiles:
        weights, shrink = X @ Y[at].T, np.empty(len(X))
        sides = squared(X), squared(Y[at])
        weigh_by_distance(weights, *sides, dtype(0.5), log_density[at], top, total, shrink, bits_of(weights))
        sums = sums * shrink[:, None] + weights.astype(float) @ Y[at, :2]
    X, Y = X.astype(float), Y.astype(float)
    logs = -0.5 * ((Y[None] - X[:, None]) ** 2).sum(axis=2) - log_density
    expected = np.exp(logs - logs.max(axis=1, keepdims=True))
    np.testing.assert_allclose(top, logs.max(axis=1), atol=20 * allowed)
    np.testing.assert_allclose(total, expected.sum(axis=1), rtol=20 * allowed)
    np.testing.assert_allclose(sums, expected @ Y[:, :2], atol=50 * allowed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_of_some(dtype):
    X, _, _ = points(dtype)
    X[7] = X[3]
    rows, found = np.array([3, 60, 9]), np.array([[7, 0], [1, 69], [9, 8]])
    out = np.empty(found.shape)
    distances_of(X, rows, found, out)
    wide = X.astype(float)
    expected = np.linalg.norm(wide[found] - wide[rows, None], axis=2)
    np.testing.assert_allclose(out, expected, rtol=1e-14)
    assert out[0, 0] == out[2, 0] == 0, "of equal cells"


def test_small_differences_are_taken_again_in_double():
    """A cell's copy lies exactly where it does, whatever single precision made of the product."""
    X, _, G = points(np.float32)
    ahead = (G @ X.T) - np.einsum("ij,ij->i", X, G)[:, None]
    diagonal = np.arange(len(X)), np.arange(len(X))
    assert (ahead[diagonal] != 0).any()
    kept = ahead.copy()
    lengths = np.ones(len(X))
    lengths[3] = 0  # does not move
    settle_small(ahead, np.float32(1e-4), lengths, X, G, X)
    moving = np.arange(len(X)) != 3
    assert (ahead[diagonal][moving] == 0).all()
    assert ahead[3, 3] == kept[3, 3]
    large = np.abs(kept) >= 1e-4
    np.testing.assert_array_equal(ahead[large], kept[large])


WEIGHTS = {
    "whole numbers": lambda rng, shape: rng.integers(0, 4, shape),
    "alike": lambda rng, shape: 0.5 + rng.random(shape),
    "of a few cells": lambda rng, shape: np.exp(-60 * rng.random(shape)),
    "of one cell": lambda rng, shape: (
        np.where(np.arange(shape[1]) == shape[1] // 3, 1, 1e-30) + np.zeros(shape)
    ),
}


@TYPES
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("n", [1, 2, FEW + 1, N_BINS, FEWEST - 1, FEWEST, 3000, 20_000])
def test_quantiles(dtype, allowed, n, kind):
    rng = np.random.default_rng(n)
    values = rng.normal(size=(40, n)).astype(dtype)
    values[1], values[2, ::2], values[3] = 3, 1e6, rng.integers(0, 3, n)  # all equal; far apart; in ties
    values[4] = rng.standard_cauchy(n)
    weights, shares = WEIGHTS[kind](rng, values.shape).astype(dtype), np.linspace(-0.1, 1.1, 8)
    weights[:, 0] += dtype(1e-9)
    shares = np.tile(shares, 5)
    found, least = np.full(len(values), -np.inf), np.resize([-2, 0, 0.7, 3, 1e300], len(values))
    bounded = least.copy()
    for out in (found, bounded):
        weighted_quantiles_of(values, weights, shares, 0.0, out, np.zeros(len(out), np.bool_))
    for v, w, share, ours in zip(values, weights, shares, found, strict=True):
        order = np.argsort(v, kind="stable")
        cumulative = np.cumsum(w[order], dtype=float)
        reached = cumulative >= share * w.sum(dtype=float)
        assert ours == (v[order[np.argmax(reached)]] if reached.any() else v.max())
    np.testing.assert_array_equal(bounded, np.maximum(least, found))


@TYPES
@pytest.mark.parametrize("n_kept", [1, 2, 21])
def test_smallest_distances_of_both_sides(dtype, allowed, n_kept):
    X, Y, _ = points(dtype)
    rows, columns = (np.full((len(side), n_kept), np.inf, dtype) for side in (X, Y))
    row_cells, column_cells = (np.zeros(kept.shape, np.intp) for kept in (rows, columns))
    limits = columns[:, 0].copy()
    distances = []
    for at in (slice(0, 40), slice(40, len(X))):
        block = X[at] @ Y.T
        sides = squared(X)[at], squared(Y)
        kept = rows[at], row_cells[at], columns, column_cells
        keep_smallest(block, *sides, at.start, *kept, limits)
        distances.append(block)
    found = np.concatenate(distances)
    exact = ((Y[None].astype(float) - X[:, None].astype(float)) ** 2).sum(axis=2)
    np.testing.assert_allclose(found, exact, atol=50 * allowed)
    for kept, cells, whole in ((rows, row_cells, found), (columns, column_cells, found.T)):
        np.testing.assert_array_equal(np.sort(kept, axis=1), np.sort(whole, axis=1)[:, :n_kept])
        np.testing.assert_array_equal(np.take_along_axis(whole, cells, axis=1), kept)


@TYPES
@pytest.mark.parametrize("n", [2, 5, 2 * FEWEST])
def test_a_share_of_nothing_is_reached_by_the_smallest_value_whatever_it_weighs(dtype, allowed, n):
    values = np.linspace(-1, 5, n, dtype=dtype)[None]
    weights = (values > 3).astype(dtype)
    for least, expected in [(-np.inf, -1), (-2, -1), (2, 2), (6, 6)]:
        found = np.array([least], float)
        weighted_quantiles_of(values, weights, np.array([-1e-12]), 0.0, found, np.zeros(1, np.bool_))
        assert found.tolist() == [expected]


@TYPES
@pytest.mark.parametrize("n", [70, 500])  # one strip, and several
def test_nearest_of_tiles(dtype, allowed, n):
    X, Y, _ = points(dtype, n)
    n_kept = 9
    values, cells = np.full((len(X), n_kept), np.inf, dtype), np.zeros((len(X), n_kept), np.intp)
    for at in (slice(0, 33), slice(33, len(Y))):
        keep_nearest(X @ Y[at].T, squared(X), squared(Y)[at], at.start, values, cells)
    exact = ((Y[None].astype(float) - X[:, None].astype(float)) ** 2).sum(axis=2)
    np.testing.assert_allclose(np.sort(values, axis=1), np.sort(exact, axis=1)[:, :n_kept], atol=50 * allowed)
    np.testing.assert_array_equal(values[:, 0], values.max(axis=1))
    np.testing.assert_allclose(np.take_along_axis(exact, cells, axis=1), values, atol=50 * allowed)


@TYPES
def test_members_are_added_tile_by_tile(dtype, allowed):
    X, _, _ = points(dtype)
    members = np.random.default_rng(1).integers(0, len(X), (13, 5)).astype(np.int32)
    total = np.zeros((13, X.shape[1]))
    for first in (0, 40):
        add_members(X[first : first + 40], first, members, total)
    np.testing.assert_allclose(total, X.astype(float)[members].sum(axis=1), rtol=1e-12)


@TYPES
def test_squared_weights_of_cells(dtype, allowed):
    """Of cells in none, one and up to nine neighbourhoods."""
    rng = np.random.default_rng(0)
    weights = rng.random((30, LANES)).astype(dtype)
    counts = np.r_[np.arange(10), 3]
    holders = rng.integers(0, 30, counts.sum()).astype(np.int32)
    starts, found = np.concatenate([[0], np.cumsum(counts)]), np.empty(LANES)
    sum_squared_weights(weights, starts, holders, found)
    by_cell = [weights.astype(float)[own].sum(axis=0) for own in np.split(holders, starts[1:-1])]
    np.testing.assert_allclose(found, np.square(by_cell).sum(axis=0), rtol=10 * allowed)
