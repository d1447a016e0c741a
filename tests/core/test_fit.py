"""The fit does each piece of work once."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from helpers import make_batches

from mnndask import mnn_correct
from mnndask.core import pairs, reference_growth, smoothing, step, workspace
from mnndask.core.fit_cells import FitCellsInMemory
from mnndask.core.gene_spaces import GeneSpaces


@pytest.fixture
def calls(monkeypatch):
    """How often the fit calls each kernel; small data is one block a call."""
    counted = Counter()
    for module, name in (
        (pairs, "smallest_both_ways"),
        (smoothing, "density"),
        (reference_growth, "smooth"),
        (step, "variance_factors"),  # where spaces coincide, and of cells that were not fitted
        (workspace, "variance_factors"),  # where they differ
    ):
        kernel = getattr(module, name)

        def counting(*args, kernel=kernel, name=name):
            counted[name] += 1
            return kernel(*args)

        monkeypatch.setattr(module, name, counting)
    return counted


@pytest.mark.parametrize("flags", [(True, True), (False, False)])
@pytest.mark.parametrize("subset", [None, range(20)])
def test_spaces_that_coincide_are_computed_once(calls, flags, subset):
    names = {} if subset is None else {"var_index": range(40), "var_subset": subset}
    mnn_correct(*make_batches(), k=5, cos_norm_in=flags[0], cos_norm_out=flags[1], n_jobs=1, **names)
    assert calls["smallest_both_ways"] == 2  # two steps, both ways at once
    assert calls["density"] == 2
    assert calls["variance_factors"] == 2


@pytest.mark.parametrize("flags", [(True, False), (False, True)])
def test_spaces_that_differ_share_pairs_and_weights(calls, flags):
    mnn_correct(*make_batches(), k=5, cos_norm_in=flags[0], cos_norm_out=flags[1], n_jobs=1)
    assert calls["smallest_both_ways"] == 2
    assert calls["density"] == calls["smooth"] == 2
    assert calls["variance_factors"] == 2 * 2


@pytest.mark.parametrize("n_components", [None, 10])
def test_distances_that_are_kept_change_nothing(monkeypatch, n_components):
    given = []

    def noting(*args, kernel=step.variance_factors):
        given.append(args[-1])
        return kernel(*args)

    monkeypatch.setattr(step, "variance_factors", noting)
    options = {"k": 5, "n_components": n_components}
    kept = mnn_correct(*make_batches(), **options)[0]
    assert all(distances is not None for distances in given)
    given.clear()
    monkeypatch.setattr("mnndask.engine.memory_budget.Budget.distance_bytes", 0)
    np.testing.assert_allclose(mnn_correct(*make_batches(), **options)[0], kept, rtol=0, atol=1e-12)
    assert given == [None] * len(given) != []


@pytest.mark.parametrize(("cos_norm_in", "n_calls"), [(True, 2), (False, 4)], ids=["coincide", "differ"])
def test_factors_of_fitted_cells_are_not_computed_again(calls, cos_norm_in, n_calls):
    options = {"k": 5, "cos_norm_in": cos_norm_in, "n_jobs": 1}
    mnn_correct(*make_batches(), **options)
    assert calls["variance_factors"] == n_calls
    calls.clear()
    mnn_correct(*make_batches(), **options, restrict=[None, range(30), None])
    assert calls["variance_factors"] == n_calls + 1, "once for the cells that were not fitted"


def test_a_block_of_other_genes_is_all_that_is_copied_of_a_dense_matrix():
    X = np.ones((300, 4000), np.float32)
    spaces = GeneSpaces(4000, np.arange(10), True, True, X.dtype)
    sketch = FitCellsInMemory(X, np.arange(300), 300)
    tracemalloc.start()
    part = sketch.rest(spaces, np.arange(299), slice(5, 25))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert part.shape == (299, 20)
    assert peak < X.nbytes / 10
