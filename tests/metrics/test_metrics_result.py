"""Metrics of a result as it is: the cells that its record has, with labels from obs."""

import numpy as np
import pandas as pd
import pytest
from helpers import as_anndata, make_batches

from mnndask import metrics, mnn_correct
from mnndask.errors import InputError, InputKeyError


@pytest.fixture(scope="module")
def result():
    batches = [as_anndata(X, f"b{i}") for i, X in enumerate(make_batches())]
    for batch in batches:
        batch.obs["kind"] = np.where(batch.X[:, 0] > batch.X[:, 1], "B", "T")
    return mnn_correct(*batches, k=10)[0]


def test_a_result_is_measured_as_its_recorded_cells_are(result):
    sample = result.uns["mnn"]["sample"]
    batches = result.uns["mnn"]["batches"][sample["batch"]]
    by_hand = metrics.summarize(
        sample["before"], sample["after"], batches, result.obs["kind"], int(sample["n_neighbors"])
    )
    pd.testing.assert_frame_equal(metrics.summarize(result, label="kind"), by_hand)
    without = metrics.summarize(result)
    assert "label_agreement" not in without.index
    np.testing.assert_allclose(
        without[["before", "after"]], result.uns["mnn"]["overall"][["before", "after"]], rtol=1e-5
    )


def test_a_result_may_be_sorted_and_filtered(result):
    turned = result[np.random.default_rng(0).permutation(result.n_obs)].copy()
    expected = metrics.summarize(result, label="kind")
    pd.testing.assert_frame_equal(metrics.summarize(turned, label="kind"), expected)
    assert metrics.summarize(turned[:120], label="kind").loc["label_agreement", "after"] > 0


def test_what_cannot_be_measured_is_said(result):
    X = result.X
    for given, named, told in (
        ((result, X), {}, r"together with after, batches or labels.*\n.*label='"),
        ((result,), {"label": "no"}, r"no column 'no'.*\n.*kind"),
        ((X, X, result.obs["batch"]), {"label": "kind"}, r"label='kind' names a column.*\n.*labels="),
        ((X,), {}, r"without those after it.*\n.*summarize\(before, after, batches\)"),
        ((as_anndata(X),), {}, "records no correction"),
    ):
        with pytest.raises((InputError, InputKeyError), match=told):
            metrics.summarize(*given, **named)
