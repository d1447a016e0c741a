"""The kernels alone, where the definition is easy to get wrong."""

import numpy as np
import pytest

from mnndask.core.arrays import Points, unit_rows
from mnndask.core.cosine import cosine_lengths
from mnndask.core.distances import squared_distances
from mnndask.core.kernels.quantiles import weighted_quantiles
from mnndask.core.neighbors import nearest
from mnndask.core.pairs import mutual
from mnndask.core.smoothing import density, pair_means, smooth
from mnndask.core.span import Span, angles_to_span
from mnndask.core.svd import SvdSolver
from mnndask.core.variance import Lines, variance_factors


def points(*rows, dtype=np.float64):
    return Points.of(np.array(rows, dtype=dtype))


def neighbours(queries, others, k, tie):
    return nearest(queries, others, k, np.full(len(queries), tie))


def test_lengths_of_zero_cells_are_not_zero():
    assert cosine_lengths(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [5.0, 1e-8]


def test_distances_never_fall_below_zero():
    X = np.random.default_rng(0).normal(1000, 1e-3, (50, 30)).astype(np.float32)
    assert squared_distances(Points.of(X), Points.of(X)).min() >= 0


def test_ties_go_to_the_lower_index():
    others = points([1.0], [-1.0], [1.0], [-1.0], [5.0])
    assert neighbours(points([0.0]), others, 2, 1e-10)[1].tolist() == [0, 1]
    assert neighbours(points([0.1]), others, 3, 1e-10)[1].tolist() == [0, 1, 2]


def test_ties_are_within_the_tolerance():
    others = points([1.0 + 1e-9], [1.0], [1.0 - 1e-9])
    assert neighbours(points([0.0]), others, 1, 1e-6)[1].tolist() == [0]
    assert neighbours(points([0.0]), others, 1, 1e-12)[1].tolist() == [2]


@pytest.mark.parametrize("k", [3, 4, 100])
def test_all_are_neighbours_when_k_is_large(k):
    rows, cols = neighbours(points([0.0], [9.0]), points([1.0], [2.0], [3.0]), k, 1e-10)
    assert rows.tolist() == [0, 0, 0, 1, 1, 1]
    assert cols.tolist() == [0, 1, 2, 0, 1, 2]


def test_pairs_are_mutual():
    new, ref = points([0.0], [1.0], [1.1]), points([1.04], [0.2])
    ref_rows, new_rows = mutual(neighbours(new, ref, 1, 0), neighbours(ref, new, 1, 0), (3, 2))
    assert list(zip(ref_rows.tolist(), new_rows.tolist(), strict=True)) == [(1, 0), (0, 1)]


def test_pair_means_average_over_partners():
    means = pair_means(np.array([0, 2, 1]), np.array([4, 4, 7]), 3).toarray()
    np.testing.assert_array_equal(means, [[0.5, 0, 0.5], [0, 1, 0]])


def test_far_cells_follow_their_nearest_anchor():
    anchors = points([0.0], [1.0])
    log_density = np.log(density(anchors, 0, anchors, 1.0))
    (weights,) = smooth(points([1e6], [-1e6]), anchors, log_density, [np.eye(2)], 1e-3)
    np.testing.assert_array_equal(weights, [[0, 1], [1, 0]])


def test_density_counts_the_anchor_itself_however_small_sigma():
    anchors = Points.of(np.random.default_rng(0).normal(100, 1, (9, 30)).astype(np.float32))
    assert density(anchors[4:9], 4, anchors, 1e-300).tolist() == [1.0] * 5


def test_crowded_anchors_weigh_less():
    anchors = points([1.0], [1.0], [1.0], [-1.0])
    (weights,) = smooth(points([0.0]), anchors, np.log(density(anchors, 0, anchors, 0.1)), [np.eye(4)], 0.1)
    np.testing.assert_allclose(weights[0], [1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_unit_rows_survive_underflow():
    directions, lengths = unit_rows(np.array([[3e-200, 4e-200], [0.0, 0.0]]))
    np.testing.assert_allclose(directions, [[0.6, 0.8], [0, 0]])
    np.testing.assert_allclose(lengths, [5e-200, 0])


def test_quantile_is_the_first_value_that_reaches_the_share():
    values, weights = np.array([[3.0, 1.0, 2.0]] * 4), np.array([[1.0, 1.0, 2.0]] * 4)
    shares = np.array([0.25, 0.26, 1.0, -1e-12])
    assert weighted_quantiles(values, weights, shares)[0].tolist() == [1.0, 2.0, 3.0, 1.0]
    assert weighted_quantiles(values, weights, np.full(4, 1.1))[0].tolist() == [3.0] * 4


def test_cells_that_are_not_moved_have_factor_one():
    cells = points([0.0, 1.0])
    factors, _ = variance_factors(Lines.of(cells, np.zeros((1, 2)), 1.0, 1.0), cells, points([5.0, 5.0]))
    assert factors.tolist() == [1.0]


def test_factor_carries_a_cell_to_the_quantile_of_its_rank():
    line = np.arange(4.0)[:, None]
    new, ref = Points.of(line), Points.of(10 + 2 * line)
    factors, _ = variance_factors(Lines.of(new, np.full((4, 1), 10.0), 1.0, 16.0), new, ref)
    np.testing.assert_allclose(factors * 10 + line[:, 0], ref.X[:, 0])


def test_a_cell_below_its_batch_aims_at_the_lowest_reference():
    new, ref = points([1.0], [2.0]), points([7.0], [5.0], [6.0])
    factors, _ = variance_factors(Lines.of(points([0.0]), np.ones((1, 1)), 1.0, 7.0), new, ref)
    assert factors.tolist() == [5.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_duplicates_count_as_level_in_any_precision(dtype):
    rng = np.random.default_rng(3)
    X = np.repeat(rng.normal(size=(8, 300)), 5, axis=0).astype(dtype)
    vectors = np.repeat(rng.normal(size=(8, 300)), 5, axis=0).astype(dtype)
    new, ref = Points.of(X), Points.of(rng.normal(size=(30, 300)).astype(dtype))
    factors, _ = variance_factors(Lines.of(new, vectors, 50.0, 20.0), new, ref)
    factors = factors.reshape(8, 5)
    np.testing.assert_allclose(factors, factors[:, :1] * np.ones(5), rtol=1e-6)


@pytest.mark.parametrize("mode", ["svd", "rsvd", "irlb"])
def test_solvers_agree(mode):
    X = np.random.default_rng(0).normal(size=(50, 40)) * np.geomspace(10, 0.01, 40)
    U, s, Wt = SvdSolver(mode)(X, 5, 10.0)
    np.testing.assert_allclose(
        (U * s) @ Wt, ((E := np.linalg.svd(X))[0][:, :5] * E[1][:5]) @ E[2][:5], atol=1e-8
    )


@pytest.mark.parametrize("mode", ["svd", "rsvd", "irlb"])
def test_directions_of_nothing_are_left_out(mode):
    line, point = Points.of(np.outer(np.arange(6.0), [1.0, 2.0, 0.0])), Points.of(np.ones((6, 3)))
    assert Span.of(line, 2, SvdSolver(mode), 10.0).basis.shape == (3, 1)
    assert Span.of(point, 2, SvdSolver(mode), 2.0).basis.shape == (3, 0)


def test_lanczos_options_reach_the_solver():
    X = np.random.default_rng(0).normal(size=(50, 40))
    with pytest.raises(Exception, match="No convergence"):
        SvdSolver("irlb", options={"maxiter": 1, "ncv": 6, "tol": 1e-14})(X, 5, 1.0)


def test_angles_are_in_degrees():
    vectors = np.array([[2.0, 0, 0], [0, 0, 3.0], [1, 0, 1], [0, 0, 0]])
    np.testing.assert_allclose(angles_to_span(vectors, np.eye(3)[:, :2]), [0, 90, 45, np.nan], atol=1e-12)
