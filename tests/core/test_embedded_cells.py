"""Embeddings of corrected cells are what the fit itself compares later batches with."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import GENES, make_batches

from mnndask import MNNCorrector
from mnndask.core.low_rank import LowRank
from mnndask.datasets.simulated import simulate

SUBSET = GENES[3:33]
SPACES = {
    "same": {},
    "not-normalised": {"cos_norm_in": False, "cos_norm_out": False},
    "genes-not-normalised": {"cos_norm_out": False},
    "distances-not-normalised": {"cos_norm_in": False},
    "subset": {"var_subset": SUBSET, "cos_norm_out": False},
    "span": {"svd_dim": 2, "cos_norm_out": False},
    "refined": {"refine": True, "var_adj": False},
    "refined-genes-not-normalised": {"refine": True, "var_adj": False, "cos_norm_out": False},
}


@pytest.mark.parametrize("n_components", [6, 40, 500])
@pytest.mark.parametrize("options", SPACES.values(), ids=SPACES)
def test_cells_are_where_the_fit_has_them(options, n_components, monkeypatch):
    histories = []
    monkeypatch.setattr("mnndask.engine.fit_batches.with_other_genes", kept(histories))
    batches = make_batches()
    corrector = MNNCorrector(k=10, n_components=n_components, var_index=GENES, **options).fit(batches)
    model, (history,) = corrector.model_, histories
    fitted = history.references[0].points.X + history.cells.space_in.centre
    n_dims = min(n_components, 30 if "var_subset" in options else 40)
    assert fitted.shape == (180, n_dims) == (180, model.n_dims)
    for b, (X, expected) in enumerate(zip(batches, np.split(fitted, [60, 130]), strict=True)):
        rows = np.arange(len(X))
        for known in (rows, None):  # as fitted, and from its values alone
            np.testing.assert_allclose(model.embed(b, X, known), expected, rtol=0, atol=1e-10)
        genes, embedding = model.correct_and_embed(b, X, rows)
        np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-10)
        np.testing.assert_array_equal(genes, model.correct(b, X, rows))
    moved = fitted[60:] - np.concatenate([cells.X for cells in history.cells.space_in.points[1:]])
    assert np.linalg.norm(moved, axis=1).min() > 0


def kept(histories):
    """The function that finds vectors of other genes, which also keeps the history of the fit."""
    from mnndask.core.other_genes import with_other_genes

    def function(history, *args):
        histories.append(history)
        return with_other_genes(history, *args)

    return function


def test_the_reference_is_projected_and_not_moved():
    batches = make_batches()
    model = MNNCorrector(k=10, n_components=6).fit(batches).model_
    cells = batches[0] / np.linalg.norm(batches[0], axis=1, keepdims=True)
    expected = model.components_in.project(cells)
    np.testing.assert_allclose(model.embed(0, batches[0]), expected, rtol=0, atol=1e-12)


def test_low_rank_vectors_embed_as_accurately_as_genes(monkeypatch):
    batches = [b.X.toarray() for b in simulate([600, 500], 300, 2, batch_effect=0.45)]
    options = {"n_components": 20, "sketch_size": 200}
    whole = MNNCorrector(**options, genes="none").fit(batches).model_
    monkeypatch.setattr("mnndask.core.other_genes.is_worth_it", lambda *_: True)
    thin = MNNCorrector(**options).fit(batches).model_
    assert type(thin.steps[0].near_vectors) is LowRank
    assert type(whole.steps[0].near_vectors) is np.ndarray
    exact = whole.embed(1, batches[1])
    cells = batches[1] / np.linalg.norm(batches[1], axis=1, keepdims=True)
    moved = np.linalg.norm(exact - whole.components_in.project(cells), axis=1)
    for found in (thin.embed(1, batches[1]), thin.correct_and_embed(1, batches[1])[1]):
        off = np.linalg.norm(found - exact, axis=1)
        assert 0 < (off / moved).max() < 1e-3
