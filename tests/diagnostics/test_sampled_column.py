"""``obs["mnn_sample"]`` finds the recorded cells, whatever was done to the result."""

from __future__ import annotations

import copy

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import as_anndata, make_batches

from mnndask import MNNCorrector, mnn_correct
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.errors import InputError

KINDS = ["near", "far"]


@pytest.fixture(scope="module")
def result():
    """A result with a column of the recorded side of each cell, so that wrong look-ups are seen."""
    batches = [as_anndata(X, f"b{i}_") for i, X in enumerate(make_batches())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnndask.diagnostics.sample.CELLS_OF_BATCH", 40)
        out, _, _ = mnn_correct(*batches, k=10)
    numbers, sample = out.obs["mnn_sample"].to_numpy(), out.uns["mnn"]["sample"]
    assert len(sample["batch"]) == 120 < out.n_obs
    side = np.full(out.n_obs, "outside", object)
    side[numbers >= 0] = np.array(KINDS)[(sample["after"][:, 0] > 0).astype(int)][numbers[numbers >= 0]]
    out.obs["side"] = pd.Categorical(side)
    return out


def sides(cells):
    return np.array(KINDS)[(cells.sample["after"][:, 0] > 0).astype(int)]


CHANGES = {
    "unchanged": lambda adata: adata,
    "permuted": lambda adata: adata[np.random.default_rng(0).permutation(adata.n_obs)],
    "sorted": lambda adata: adata[adata.obs.sort_values(["side", "mnn_sample"]).index],
    "filtered": lambda adata: adata[adata.obs["side"] == "near"],
    "every third": lambda adata: adata[::3],
    "one batch": lambda adata: adata[adata.obs["batch"] == "1"],
    "with others": lambda adata: ad.concat(
        [adata, as_anndata(make_batches()[0], "new_")], join="outer", uns_merge="first"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_cells_are_found_after_changes(result, change):
    changed = CHANGES[change](result).copy()
    cells = RecordedCells.of(changed)
    present = set(changed.obs_names) & set(result.obs_names[result.obs["mnn_sample"] >= 0])
    assert len(cells.sample["batch"]) == len(present) > 0
    np.testing.assert_array_equal(np.asarray(cells.column("side")), sides(cells))
    for new, reference in zip(cells.sample["pair_new"], cells.sample["pair_reference"], strict=True):
        assert cells.sample["batch"][new] > cells.sample["batch"][reference]
    if change != "one batch":
        overall, _ = cells.by_label("side")
        assert np.isfinite(overall.loc["label_agreement", "after"])


def test_what_position_would_have_found_is_wrong(result):
    """The fault that the column mends: positions point at other cells in a permuted result."""
    permuted = CHANGES["permuted"](result)
    old = as_of_format_1(permuted, np.flatnonzero(result.obs["mnn_sample"] >= 0))
    cells = RecordedCells.of(old)
    assert (np.asarray(cells.column("side")) != sides(cells)).mean() > 0.2


def as_of_format_1(adata, rows):
    """A result as it was recorded before there was a column."""
    old = adata.copy()
    del old.obs["mnn_sample"]
    old.uns["mnn"] = copy.deepcopy(dict(old.uns["mnn"]))
    old.uns["mnn"]["format_version"] = 1
    old.uns["mnn"]["sample"]["row"] = rows
    del old.uns["mnn"]["values"]
    return old


def test_older_records_are_read(result):
    numbers = result.obs["mnn_sample"].to_numpy()
    rows = np.argsort(np.where(numbers < 0, 10_000, numbers))[:120]
    old = as_of_format_1(result, rows)
    cells = RecordedCells.of(old)
    np.testing.assert_array_equal(np.asarray(cells.column("side")), sides(cells))
    assert "cosine-normalised" in cells.record.meaning["scale"]
    with pytest.raises(InputError, match=r"180 cells were corrected, but obs has 9"):
        RecordedCells.of(old[:9]).column("side")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda adata: ad.concat([adata, adata], uns_merge="first"), "numbers|a number twice"),
        (lambda adata: adata[adata.obs["mnn_sample"] < 0].copy(), "none of the cells"),
        (lambda adata: assigned(adata, "mnn_sample", 10_000), "not of the correction"),
        (lambda adata: assigned(adata, "mnn_sample", 0.5), "not of the correction"),
    ],
)
@pytest.mark.filterwarnings("ignore:Observation names")
def test_cells_that_cannot_be_told_apart_are_refused(result, spoil, said):
    with pytest.raises(InputError, match=said):
        RecordedCells.of(spoil(result))


def assigned(adata, column, value):
    out = adata.copy()
    out.obs[column] = value
    return out


def test_without_the_column_there_are_measures_but_no_labels(result):
    bare = result.copy()
    del bare.obs["mnn_sample"]
    cells = RecordedCells.of(bare)
    assert len(cells.sample["batch"]) == 120
    with pytest.raises(InputError, match="has no column 'mnn_sample'"):
        cells.column("side")


def test_a_list_of_results_numbers_the_cells_of_each():
    batches = [as_anndata(X, f"b{i}_") for i, X in enumerate(make_batches())]
    parts, _, _ = mnn_correct(*batches, k=10, do_concatenate=False)
    numbers = [part.obs["mnn_sample"].to_numpy() for part in parts]
    assert sorted(np.concatenate(numbers)) == list(range(180))
    for b, part in enumerate(parts):
        assert (RecordedCells.of(part).sample["batch"] == b).all()


def test_a_corrected_input_has_the_column_of_the_new_correction(result):
    again, _, _ = mnn_correct(result, batch_key="batch", k=10)
    numbers = again.obs["mnn_sample"]
    assert sorted(numbers[numbers >= 0]) == list(range(180))
    transformed = MNNCorrector(k=10, batch_key="batch").fit([result]).transform([result])
    assert "mnn_sample" not in transformed.obs


def test_a_column_of_the_user_is_named_when_it_is_replaced():
    batches = [as_anndata(X, f"b{i}_") for i, X in enumerate(make_batches())]
    for batch in batches:
        batch.obs["MNN_sample"] = "mine"
    with pytest.warns(UserWarning, match=r"obs\['MNN_sample'\] \(mnndask writes a column of this name\)"):
        out, _, _ = mnn_correct(*batches, k=10)
    assert "MNN_sample" not in out.obs
    with pytest.raises(InputError, match="batch_key is 'mnn_sample'"):
        mnn_correct(*batches, batch_key="mnn_sample")


def test_measuring_can_be_switched_off():
    batches = [as_anndata(X, f"b{i}_") for i, X in enumerate(make_batches())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnndask.api.fitting.Diagnostics", None)
        out, _, _ = mnn_correct(*batches, k=10, diagnostics=False)
    assert set(out.uns["mnn"]) == {
        *("version", "format_version", "parameters", "batches", "steps", "values", "order"),
    }
    assert "mnn_sample" not in out.obs
    with pytest.raises(InputError, match="without measuring"):
        RecordedCells.of(out)
    np.testing.assert_array_equal(out.X, mnn_correct(*batches, k=10)[0].X)
