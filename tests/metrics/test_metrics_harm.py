"""What a correction does to batches themselves, and the summary that tells it from mixing."""

import numpy as np
import pytest

from mnndask import metrics
from mnndask.errors import InputError, InputKeyError
from mnndask.metrics import contraction, neighbors_kept, same_batch_fraction, summarize


@pytest.fixture
def cells():
    return np.random.default_rng(0).normal(size=(300, 3)), np.repeat(["a", "b", "c"], 100)


def moved(cells, batches, **factors):
    """Cells of named batches, drawn towards the middle."""
    return cells * np.array([factors.get(b, 1.0) for b in batches])[:, None]


def test_moving_turning_and_scaling_batches_keeps_neighbours(cells):
    X, batches = cells
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    after = moved(X, batches, a=0.01, b=100.0) @ turn + 5.0 * (batches == "c")[:, None]
    assert neighbors_kept(X, after, batches, 20).min() == 1


def test_neighbours_lost_are_counted():
    before = np.array([0.0, 1.0, 2.1, 3.3, 4.6])[:, None]
    after = np.array([0.0, 1.0, 2.1, 3.3, 0.4])[:, None]  # the last now lies between the first two
    # the nearest two, before: 12 02 13 24 32; after: 41 40 13 21 01
    assert neighbors_kept(before, after, ["a"] * 5, 2).tolist() == [0.5, 0.5, 1.0, 0.5, 0.0]


def test_neighbours_are_kept_by_chance_in_scrambled_batches(cells):
    X, batches = cells
    kept = neighbors_kept(X, np.random.default_rng(1).permutation(X), batches, 20)
    assert kept.mean() == pytest.approx(20 / 99, abs=0.02)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_cells_are_not_lost_to_rounding(dtype):
    rng = np.random.default_rng(0)
    before = np.repeat(rng.normal(size=(4, 5)), 30, axis=0).astype(dtype)
    after = before * (1 + np.finfo(dtype).eps * rng.integers(-1, 2, before.shape)).astype(dtype)
    assert len(np.unique(after, axis=0)) > 60
    assert neighbors_kept(before, after, ["a"] * 120, 10).min() == 1


def test_contraction_is_the_factor_of_distances(cells):
    X, batches = cells
    ratio = contraction(X, moved(X, batches, b=0.5, c=3.0), batches, 20)
    assert ratio == pytest.approx(np.repeat([1.0, 0.5, 3.0], 100))
    assert contraction(X, X * 0.25, batches, 20) == pytest.approx(np.full(300, 0.25))
    assert contraction(X, 0 * X, batches, 20) == pytest.approx(np.zeros(300))


def test_contraction_relative_to_a_batch_that_was_left_as_it_is(cells):
    X, batches = cells
    in_other_units = 7 * moved(X, batches, b=0.5)
    ratio = contraction(X, in_other_units, batches, 20, reference="c")
    assert ratio == pytest.approx(np.repeat([1.0, 0.5, 1.0], 100))


def test_contraction_of_equal_cells_is_undefined(cells):
    X, batches = cells
    before = X.copy()
    before[:30] = X[0]
    ratio = contraction(before, X, batches, 20)
    assert np.flatnonzero(np.isnan(ratio)).tolist() == list(range(30))


def test_batches_too_small_to_lose_neighbours_are_left_out():
    X = np.random.default_rng(0).normal(size=(30, 2))
    batches = np.repeat(["large", "small"], [24, 6])
    for metric in (neighbors_kept, contraction):
        assert np.isnan(metric(X, X, batches, 5)).tolist() == [False] * 24 + [True] * 6
        assert not np.isnan(metric(X, X, batches, 4)).any()
    assert neighbors_kept(X, X, ["alone"] * 30, 5).min() == 1


def test_a_reference_that_cannot_be_one_is_refused(cells):
    X, batches = cells
    with pytest.raises(InputKeyError, match=r"'d' is not one of the batches.\nThey are: a, b, c"):
        contraction(X, X, batches, 20, reference="d")
    with pytest.raises(InputError, match="'c' is a batch of 100 cell"):
        contraction(X, moved(X, batches, c=0.0), batches, 20, reference="c")


def test_states_of_different_cells_are_refused(cells):
    X, batches = cells
    for metric in (neighbors_kept, contraction, summarize):
        with pytest.raises(InputError, match="before has 300 cells, and after has 299"):
            metric(X, X[1:], batches)
        with pytest.raises(InputError, match="after contains NaN"):
            metric(X, np.where(X > 2, np.nan, X), batches)


def test_a_contracted_batch_is_told_from_a_mixed_one(cells):
    X, batches = cells
    apart = X + 9.0 * (batches == "c")[:, None]
    table = summarize(apart, moved(X, batches, c=0.3), batches, n_neighbors=20)
    assert table.loc["same_batch", "after"] < table.loc["same_batch", "before"] - 0.1  # mixed, it seems
    assert table.loc["contraction", "worst_batch"] == "c"
    assert table.loc["contraction", "worst"] == pytest.approx(0.3)
    mixed = summarize(apart, X, batches, n_neighbors=20)
    assert mixed.loc["contraction", "worst"] == pytest.approx(1.0)
    assert mixed.loc["lisi", "after"] > table.loc["lisi", "after"]


@pytest.mark.lowest
def test_summary_is_of_the_measures_themselves(cells):
    X, batches = cells
    labels = np.where(np.arange(300) % 4, "T", "B")
    after = moved(X + 30.0 * (labels == "B")[:, None], batches, b=0.5)
    after[:5] += 1
    table = summarize(X, after, batches, labels, 20, reference="a")
    means = {
        "same_batch": [same_batch_fraction(x, batches, 20).mean() for x in (X, after)],
        "lisi": [np.median(metrics.lisi(x, batches, 20)) for x in (X, after)],
        "neighbors_kept": [1, neighbors_kept(X, after, batches, 20).mean()],
        "contraction": [1, np.median(contraction(X, after, batches, 20, reference="a"))],
        "label_agreement": [metrics.label_agreement(x, labels, 20).mean() for x in (X, after)],
        "label_transfer": [metrics.label_transfer(x, labels, batches, 20).mean() for x in (X, after)],
    }
    for measure, values in means.items():
        assert table.loc[measure, ["before", "after"]].tolist() == pytest.approx(values), measure
    by_batch = metrics.mixing_by_batch(after, batches, labels, 20)
    share, ratio = table.loc["same_batch"], table.loc["same_batch_ratio"]
    assert share["ideal"] == pytest.approx(metrics.expected_same_batch(batches, labels).mean())
    assert [share["worst_batch"], share["worst"]] == [by_batch.index[0], by_batch["observed"].iloc[0]]
    assert ratio["worst"] == by_batch["ratio"].iloc[0]
    assert ratio["after"] == pytest.approx(share["after"] / share["ideal"])
    assert table.loc["lisi", "ideal"] == pytest.approx(3, abs=1e-3)


def test_summary_of_cells_that_were_only_turned_finds_no_harm(cells):
    X, batches = cells
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    table = summarize(X, X @ turn, batches, ["x"] * 300, 20)
    unharmed = table.loc[["neighbors_kept", "contraction", "label_agreement", "label_transfer"]]
    assert unharmed[["before", "after", "ideal", "worst"]].to_numpy(float) == pytest.approx(np.ones((4, 4)))
    assert unharmed["worst_batch"].isna().all()
    assert table.index.tolist() == [
        "same_batch",
        "same_batch_ratio",
        "lisi",
        "neighbors_kept",
        "contraction",
        "label_agreement",
        "label_transfer",
    ]


def test_summary_leaves_out_what_is_not_defined():
    X = np.random.default_rng(0).normal(size=(60, 2))
    batches = np.repeat(["large", "small"], [50, 10])
    labels = np.where(batches == "small", "rare", "common")
    table = summarize(X, X, batches, labels, 15)
    assert table.loc["neighbors_kept", "after"] == 1
    assert table.loc["label_transfer", ["before", "after", "ideal"]].isna().all()
    assert table.loc["same_batch", "worst_batch"] is None
    with pytest.raises(InputError, match=r"n_neighbors=21 for 60 cells.*\n.*from 1 to 20"):
        summarize(X, X, batches, n_neighbors=21)
