"""The metrics that judge a correction: labels, tables, and what they refuse."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mnndask import metrics
from mnndask.errors import InputError, NonFiniteError
from mnndask.metrics import (
    agreement_by_label,
    embed,
    expected_same_batch,
    label_agreement,
    label_transfer,
    mixing_by_batch,
    same_batch_fraction,
)


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


def test_each_label_is_told_apart():
    rng = np.random.default_rng(0)
    types = np.repeat(["common", "lost", "alone"], [160, 20, 20])
    batches = np.where(types == "alone", 0, np.arange(200) % 2)
    cells = rng.normal(size=(200, 3)) + 20.0 * (types == "alone")[:, None]
    table = agreement_by_label(cells, types, batches, 10)
    assert table.index.tolist() == ["alone", "common", "lost"]
    assert table["cells"].tolist() == [20, 160, 20]
    assert table["batches"].tolist() == [1, 2, 2]
    assert table.loc["alone", "agreement"] == 1
    assert np.isnan(table.loc["alone", "transfer"])
    assert table.loc["lost", "transfer"] < 0.2 < 0.9 < table.loc["common", "transfer"]
    overall = (table["agreement"] * table["cells"]).sum() / 200
    assert overall == pytest.approx(label_agreement(cells, types, 10).mean())


def test_expectation_is_what_shuffled_batches_give():
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(60, 2))
    labels = np.repeat(["x", "y"], [45, 15])
    cells[labels == "y"] += 50
    batches = np.repeat(["a", "b", "a", "b"], [41, 4, 5, 10])
    shuffled = [batches.copy() for _ in range(200)]
    for one in shuffled:
        for label in ("x", "y"):
            one[labels == label] = rng.permutation(one[labels == label])
    small = "b"
    observed = np.mean([same_batch_fraction(cells, b, 5)[b == small].mean() for b in shuffled])
    expected = expected_same_batch(batches, labels)[batches == small].mean()
    assert expected == pytest.approx((4 * 3 / 44 + 10 * 9 / 14) / 14)
    assert observed == pytest.approx(expected, abs=0.01)


def test_most_deviant_batch_comes_first_whatever_its_size():
    rng = np.random.default_rng(0)
    batches = np.repeat(["large", "middle", "small"], [600, 250, 150])
    cells = rng.normal(size=(1000, 2))
    apart = rng.random(1000) < np.repeat([0.5, 0.0, 0.0], [600, 250, 150])
    cells[apart] += 100  # half of the large batch
    table = mixing_by_batch(cells, batches)
    assert table.index[0] == "large"
    assert table["ratio"].idxmax() != "large"  # which a batch of over half the cells could not be
    assert (table["ratio"] * table["expected"]).to_numpy() == pytest.approx(table["observed"].to_numpy())
    assert mixing_by_batch(cells + 9.0 * (batches == "small")[:, None], batches).index[0] == "small"


def test_excess_is_the_part_kept_apart():
    rng = np.random.default_rng(0)
    batches = np.repeat([0, 1, 2, 3], [4000, 2400, 1000, 600])
    alone = rng.random(8000) < 0.3  # of each batch, in a place of its own
    cells = rng.normal(size=(8000, 2))
    cells[alone] += 1000.0 * (1 + batches[alone])[:, None]
    # the others of each batch mix at random
    assert mixing_by_batch(cells, batches)["excess"].to_numpy() == pytest.approx(np.full(4, 0.3), abs=0.05)


def test_a_batch_that_can_mix_with_none_has_no_excess():
    cells = np.random.default_rng(0).normal(size=(90, 2))
    batches = np.repeat(["a", "b", "own"], 30)
    table = mixing_by_batch(cells, batches, np.where(batches == "own", "x", "y"), 5)
    assert table.index[-1] == "own"
    assert table["excess"].isna().tolist() == [False, False, True]
    assert expected_same_batch(batches, np.arange(90)).tolist() == pytest.approx([np.nan] * 90, nan_ok=True)


@pytest.mark.parametrize(
    "kind",
    [
        list,
        np.array,
        lambda x: pd.Series(x, index=np.arange(len(x))[::-1]),
        lambda x: pd.Categorical(x, ["unused", "b", "a"]),
        lambda x: pd.Series(x, dtype="category"),
        lambda x: np.array(x, dtype=object),
    ],
    ids=["list", "array", "series", "categorical", "category-series", "objects"],
)
def test_batches_and_labels_may_be_of_any_kind(kind):
    cells = np.random.default_rng(0).normal(size=(40, 2))
    batches, labels = ["a", "b"] * 20, ["a", "a", "b", "b"] * 10
    table = mixing_by_batch(cells, kind(batches), kind(labels), 5)
    expected = mixing_by_batch(cells, batches, labels, 5)
    pd.testing.assert_frame_equal(table.loc[["a", "b"]], expected.loc[["a", "b"]], check_index_type=False)
    assert "unused" not in agreement_by_label(cells, kind(labels), kind(batches), 5).index


PER_CELL = {
    "same_batch_fraction": lambda x, b: metrics.same_batch_fraction(x, b, 3),
    "mixing_by_batch": lambda x, b: metrics.mixing_by_batch(x, b, None, 3),
    "lisi": lambda x, b: metrics.lisi(x, b, 3),
    "neighbors_kept": lambda x, b: metrics.neighbors_kept(x, x, b, 3),
    "contraction": lambda x, b: metrics.contraction(x, x, b, 3),
    "label_agreement": lambda x, b: metrics.label_agreement(x, b, 3),
    "label_transfer": lambda x, b: metrics.label_transfer(x, b, b, 3),
    "agreement_by_label": lambda x, b: metrics.agreement_by_label(x, b, b, 3),
    "summarize": lambda x, b: metrics.summarize(x, x, b, b, 3),
}
CELLS = np.random.default_rng(0).normal(size=(30, 2))
BATCHES = ["a", "b"] * 15


@pytest.mark.parametrize("metric", PER_CELL.values(), ids=PER_CELL)
@pytest.mark.parametrize(
    ("cells", "batches", "says"),
    [
        (np.where(np.arange(30)[:, None] == 7, np.nan, CELLS), BATCHES, r"NaN or infinity in 1 .* cell 7"),
        (CELLS[:, 0], BATCHES, "shape"),
        (sparse.csr_array(CELLS), BATCHES, "shape"),
        (CELLS.astype(str), BATCHES, "type"),
        (CELLS[:0], [], "shape"),
        (CELLS, BATCHES[1:], "29 (batches|labels) were given for 30 cells"),
        (CELLS, np.zeros((30, 2)), "2-dimensional (batches|labels)"),
        (CELLS, [None, "b"] * 15, r"(batches|labels) of 15 cell\(s\) are missing, first that of cell 0"),
        (CELLS, [1.0, np.nan] * 15, "missing"),
        (CELLS, pd.Categorical(["a", np.nan] * 15), "missing"),
    ],
    ids=[
        "nan",
        "one-dimensional",
        "sparse",
        "text",
        "empty",
        "too-few",
        "table",
        "none",
        "nan-label",
        "nan-category",
    ],
)
def test_what_cannot_be_measured_is_refused_in_two_lines(metric, cells, batches, says):
    metric(CELLS, BATCHES)
    with pytest.raises(InputError, match=says) as refused:
        metric(cells, batches)
    assert len(str(refused.value).splitlines()) == 2
    assert isinstance(refused.value, NonFiniteError) == says.startswith("NaN")


@pytest.mark.parametrize("n_neighbors", [0, -1, 2.5, 30, 1000])
def test_numbers_of_neighbours_that_there_are_not_are_refused(n_neighbors):
    for metric in ("same_batch_fraction", "label_agreement", "mixing_by_batch"):
        options = {"n_neighbors": n_neighbors}
        with pytest.raises(InputError, match=rf"n_neighbors={n_neighbors} for 30 cells.\n.*from 1 to 29"):
            getattr(metrics, metric)(CELLS, BATCHES, **options)
    with pytest.raises(InputError, match=rf"perplexity={n_neighbors} for 30 cells.*\n.*from 1 to 10"):
        metrics.lisi(CELLS, BATCHES, n_neighbors)
    for metric in (metrics.neighbors_kept, metrics.contraction):
        with pytest.raises(InputError, match=r"for batches of at most 15 cells.\n.*from 1 to 13"):
            metric(CELLS, CELLS, BATCHES, n_neighbors)


def test_bad_neighbour_numbers_and_labels_of_transfer_are_refused():
    with pytest.raises(InputError, match=r"n_neighbors=0 for other batches.\n.*at least 1"):
        label_transfer(np.zeros((3, 2)), [0, 0, 1], [0, 0, 1], 0)
    with pytest.raises(InputError, match="batches"):
        label_transfer(np.zeros((3, 2)), [0, 0, 1], [0, 1], 1)


@pytest.mark.parametrize("metric", ["label_transfer", "agreement_by_label", "mixing_by_batch", "summarize"])
def test_one_batch_has_none_to_mix_with(metric):
    with pytest.raises(InputError, match="belong to one batch, 'a'"):
        PER_CELL[metric](CELLS, ["a"] * 30)


def test_embedding_of_small_data_has_fewer_components():
    assert embed(np.random.default_rng(0).random((5, 30))).shape == (5, 5)
    assert embed(sparse.csr_array(np.eye(5, 30))).shape == (5, 5)
