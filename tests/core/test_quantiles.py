"""Weighted quantiles, at once and by rounds over tiles: equal to sorting."""

from functools import reduce
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnndask.core import quantile_search as quantiles
from mnndask.core.kernels.quantiles import weighted_quantiles
from mnndask.core.quantile_search import QuantileSearch, add_tallies


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
    np.testing.assert_array_equal(weighted_quantiles(*problem)[0], expected)


@given(problem=quantile_problems(), tile=st.integers(1, 300), n_sample=st.integers(1, 300))
@settings(deadline=None, max_examples=200)
def test_quantiles_by_rounds_equal_sorting(problem, tile, n_sample):
    """To rounding, where more values are equal than may be held."""
    assert_sorted(*problem, searched(*problem, tile=tile, n_sample=n_sample)[0])


@given(problem=quantile_problems(), tile=st.integers(30, 300), n_sample=st.integers(1, 300))
@settings(deadline=None, max_examples=150)
def test_quantiles_by_many_narrow_rounds_equal_sorting(problem, tile, n_sample):
    with patch.multiple(quantiles, MOST_GATHERED=3, BINS=8):
        assert_sorted(*problem, searched(*problem, tile=tile, n_sample=n_sample)[0])


def assert_sorted(values, weights, shares, found):
    expected = [by_sorting(*row) for row in zip(values, weights, shares, strict=True)]
    rounding = 4 * np.finfo(values.dtype).eps * np.abs(values).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding)


def test_crowded_brackets_are_narrowed_before_values_are_held():
    values = np.random.default_rng(0).normal(size=(3, 20_000))
    problem = values, np.ones_like(values), np.array([0.1, 0.5, 0.9])
    with patch.multiple(quantiles, MOST_GATHERED=16, BINS=8):
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
