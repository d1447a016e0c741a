"""The metrics that judge a correction."""

import numpy as np
import pytest

from mnndask.errors import InputError
from mnndask.metrics import embed, label_agreement, label_transfer, same_batch_fraction


def test_fractions_of_known_arrangements():
    line = np.arange(12.0)[:, None]
    assert same_batch_fraction(line, [0] * 6 + [1] * 6, 2).mean() == pytest.approx(22 / 24)
    assert label_agreement(line, ["a"] * 12, 3).tolist() == [1.0] * 12


def test_labels_are_transferred_by_majority_between_batches_only():
    where = np.array([[0.0], [0.1], [9.0], [0.0], [0.2], [0.3]])
    labels = ["a", "b", "b", "a", "a", "b"]
    batches = [0, 0, 0, 1, 1, 1]
    assert label_transfer(where, labels, batches, 1).tolist() == [1, 0, 1, 1, 0, 1]
    assert label_transfer(where, labels, batches, 3).tolist() == [1, 0, 0, 0, 0, 1]
    assert label_transfer(where, labels, batches, 99).tolist() == [1, 0, 0, 0, 0, 1]


def test_a_label_of_one_batch_only_is_not_counted():
    found = label_transfer(np.arange(4.0)[:, None], ["a", "only", "a", "a"], [0, 0, 1, 1], 1)
    assert np.isnan(found).tolist() == [False, True, False, False]


def test_labels_transfer_where_batches_are_aligned_and_not_where_they_are_shifted():
    rng = np.random.default_rng(0)
    types = np.arange(90) % 3
    aligned = 5.0 * types[:, None] + rng.normal(0, 0.1, (90, 2))
    batches = np.arange(90) // 45
    assert label_transfer(aligned, types, batches, 5).mean() == 1
    assert label_transfer(aligned + 5.0 * batches[:, None], types, batches, 5).mean() < 0.7


def test_bad_neighbour_numbers_and_labels_are_refused():
    with pytest.raises(InputError, match="n_neighbors"):
        same_batch_fraction(np.zeros((3, 2)), [0, 0, 1], 3)
    with pytest.raises(InputError, match="2 batches were given for 3 cells"):
        same_batch_fraction(np.zeros((3, 2)), [0, 0], 1)
    with pytest.raises(InputError, match="n_neighbors"):
        label_transfer(np.zeros((3, 2)), [0, 0, 1], [0, 0, 1], 0)
    with pytest.raises(InputError, match="1 in all"):
        label_transfer(np.zeros((3, 2)), [0, 0, 1], [0, 0, 0], 1)
    with pytest.raises(InputError, match="batches"):
        label_transfer(np.zeros((3, 2)), [0, 0, 1], [0, 1], 1)


def test_embedding_of_small_data_has_fewer_components():
    assert embed(np.random.default_rng(0).random((5, 30))).shape == (5, 5)
