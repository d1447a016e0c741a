"""Anchor vectors as two thin matrices: near the whole ones, and only where that saves time."""

import numpy as np
import pytest
from helpers import make_batches

from mnndask import MNNCorrector
from mnndask.core import other_genes
from mnndask.core.low_rank import LowRank, bytes_needed, compress, is_worth_it
from mnndask.datasets.simulated import simulate


@pytest.fixture(scope="module")
def batches():
    return [b.X.toarray() for b in simulate([600, 500], 300, 2, batch_effect=0.45)]


def corrected(batches, monkeypatch, *, thin, **options):
    """All cells, most of which are not in the sketch; and the step's vectors."""
    monkeypatch.setattr(other_genes, "is_worth_it", lambda *_: thin)
    fitted = MNNCorrector(n_components=20, sketch_size=200, **options).fit(batches)
    return fitted.transform(batches), fitted.model_.steps[0]


def test_cells_outside_the_sketch_are_corrected_alike(batches, monkeypatch):
    whole, step = corrected(batches, monkeypatch, thin=False)
    thin, thin_step = corrected(batches, monkeypatch, thin=True)
    assert isinstance(step.rest_vectors, np.ndarray)
    two = thin_step.rest_vectors
    assert isinstance(two, LowRank)
    assert two.left.size + two.right.size < step.rest_vectors.size / 2
    assert thin_step.near_vectors.left is two.left, "weights are multiplied once"
    moved = np.linalg.norm(np.asarray(whole)[600:] - batches_normalised(batches[1]), axis=1)
    off = np.linalg.norm(np.asarray(whole) - np.asarray(thin), axis=1)[600:]
    assert 0 < (off / moved).max() < 1e-3
    assert np.median(off / moved) < 1e-4


def batches_normalised(X):
    return X / np.linalg.norm(X, axis=1)[:, None]


def test_vectors_that_weights_tell_apart_stay_whole(batches, monkeypatch):
    """With so small a sigma each cell follows its own anchor."""
    _, step = corrected(batches, monkeypatch, thin=True, sigma=1e-3)
    assert isinstance(step.rest_vectors, np.ndarray)
    assert isinstance(step.near_vectors, np.ndarray)


@pytest.mark.parametrize(("dtype", "allowed"), [(np.float32, 2e-4), (np.float64, 2e-9)])
def test_what_is_found_smooths_alike(dtype, allowed):
    rng = np.random.default_rng(0)
    weights = rng.random((300, 10)) @ rng.random((10, 200))
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(dtype)
    both = [rng.normal(size=(200, n)).astype(dtype) for n in (20, 3000)]
    found = compress(weights, both)
    assert found[0].left is found[1].left
    for thin, vectors in zip(found, both, strict=True):
        assert thin.shape == vectors.shape
        assert thin.left.dtype == thin.right.dtype == dtype
        assert thin.left.shape[1] <= 16, "no more than it takes, in steps"
        expected = weights @ vectors
        error = np.linalg.norm((weights @ thin.left) @ thin.right - expected, axis=1)
        assert (error <= allowed * np.linalg.norm(expected, axis=1)).all()


def test_the_worse_of_the_vectors_counts():
    """Of one kind weights see a single dimension."""
    rng = np.random.default_rng(0)
    weights = rng.random((300, 10)) @ rng.random((10, 200))
    first = np.linalg.svd(weights)[2][0]
    simple, other = np.outer(first, rng.normal(size=1500)), rng.normal(size=(200, 1500))
    ranks = [
        compress(weights, both)[0].left.shape[1] for both in ([simple] * 2, [simple, other], [other, simple])
    ]
    assert ranks[0] < 10 <= ranks[1] == ranks[2]


def test_zero_vectors_are_found():
    (found,) = compress(np.full((500, 400), 0.0025), [np.zeros((400, 1000))])
    assert not (found.left @ found.right).any()


def test_few_cells_are_not_worth_it():
    assert is_worth_it(10**6, 5000, (2500, 2000))
    assert not is_worth_it(20_000, 5000, (2500, 2000))
    assert bytes_needed(5000, 2500, 4) < 2**28


def test_it_is_done_for_components_only(monkeypatch):
    monkeypatch.setattr(other_genes, "is_worth_it", lambda *_: True)
    fitted = MNNCorrector(var_index=range(40), var_subset=range(20)).fit(make_batches())
    assert all(isinstance(step.rest_vectors, np.ndarray) for step in fitted.model_.steps)
