"""Simulated data and the metrics that judge it."""

import numpy as np
import pytest

from mnndask.datasets import simulate
from mnndask.errors import InputError
from mnndask.metrics import embed, label_agreement, same_batch_fraction


def test_same_seed_same_data():
    for a, b in zip(simulate(90, 30, 3, seed=4), simulate(90, 30, 3, seed=4), strict=True):
        np.testing.assert_array_equal(a.X.toarray(), b.X.toarray())
    assert not np.array_equal(simulate(90, 30, 3, seed=5)[0].X.toarray(), a.X.toarray())


def test_batches_share_genes_and_lack_the_rarest_type_at_the_end():
    batches = simulate(900, 40, 3)
    assert all(b.var.equals(batches[0].var) for b in batches)
    assert all("type5" in set(b.obs["cell_type"]) for b in batches[:2])
    assert "type5" not in set(batches[2].obs["cell_type"])
    assert batches[0].X.dtype == np.float32


@pytest.mark.parametrize("sizes", [(1, 10, 2), (10, 0, 2), (10, 10, 0)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(InputError, match="Cannot simulate"):
        simulate(*sizes)


def test_fractions_of_known_arrangements():
    line = np.arange(12.0)[:, None]
    assert same_batch_fraction(line, [0] * 6 + [1] * 6, 2).mean() == pytest.approx(22 / 24)
    assert label_agreement(line, ["a"] * 12, 3).tolist() == [1.0] * 12


def test_bad_neighbour_numbers_and_labels_are_refused():
    with pytest.raises(InputError, match="n_neighbors"):
        same_batch_fraction(np.zeros((3, 2)), [0, 0, 1], 3)
    with pytest.raises(InputError, match="labels"):
        same_batch_fraction(np.zeros((3, 2)), [0, 0], 1)


def test_embedding_of_small_data_has_fewer_components():
    assert embed(np.random.default_rng(0).random((5, 30))).shape == (5, 5)
