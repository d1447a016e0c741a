"""What a fit tells of itself, against what it can be seen to have done."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import as_anndata, make_batches, one_anndata

from mnndask import MNNCorrector, mnn_correct
from mnndask.core.cosine import cosine_lengths
from mnndask.datasets.simulated import simulate

SIZES = (60, 70, 50)
OF_STEPS = ["paired", "paired_reference", "length_median", "length_95", "lengthened", "lost_variance"]
OF_STEPS += ["angle", "mixing_before", "reference_mixing_before", "mixing_after", "reference_mixing_after"]


def corrected(*batches, **options):
    batches = [as_anndata(X, f"b{i}", [f"g{j}" for j in range(X.shape[1])]) for i, X in enumerate(batches)]
    return mnn_correct(*batches, **options)[0]


@pytest.fixture(scope="module")
def result():
    return corrected(*make_batches(), k=10)


def normalised(X):
    return X / cosine_lengths(X)[:, None]


def test_shares_and_lengths_are_those_of_the_pairs_and_of_the_cells(result):
    mnns, steps = mnn_correct(*make_batches(), k=10)[1], result.uns["mnn"]["steps"]
    before = np.vstack([normalised(X) for X in make_batches()])
    length = np.linalg.norm(result.X - before, axis=1)
    starts = np.cumsum((0, *SIZES))
    assert steps.loc["0", OF_STEPS].isna().all()
    for b in (1, 2):
        own = length[starts[b] : starts[b + 1]]
        row = steps.loc[str(b)]
        assert row["paired"] == mnns[b]["new cell"].nunique() / SIZES[b]
        assert row["paired_reference"] == mnns[b]["ref cell"].nunique() / starts[b]
        np.testing.assert_allclose(row["length_median"], np.median(own), rtol=1e-5)
        np.testing.assert_allclose(row["length_95"], np.quantile(own, 0.95), rtol=1e-5)
    np.testing.assert_allclose(result.uns["mnn"]["sample"]["length"], length, atol=1e-6)


def test_lost_variance_is_that_along_the_mean_correction(result):
    before, after = normalised(make_batches()[1]), result.X[60:130]
    shift = (after - before).mean(axis=0)
    along = shift / np.linalg.norm(shift)
    expected = ((before @ along).var() - (after @ along).var()) / before.var(axis=0).sum()
    np.testing.assert_allclose(result.uns["mnn"]["steps"].loc["1", "lost_variance"], expected, atol=1e-10)


def test_a_shift_away_is_seen_to_be_undone():
    X = np.vstack(make_batches((240,)))
    rng = np.random.default_rng(0)
    uns = corrected(X[:120], X[120:] + rng.normal(0, 3, 40).clip(0), k=15).uns["mnn"]
    step = uns["steps"].loc["1"]
    assert step["mixing_before"] < 0.2
    assert step["mixing_after"] > step["mixing_before"] + 0.3
    assert step["reference_mixing_after"] > step["reference_mixing_before"]
    overall = uns["overall"]
    assert overall.loc["same_batch", "before"] > 0.8 > overall.loc["same_batch", "after"]
    assert (uns["mixing"]["excess_before"] > uns["mixing"]["excess_after"]).all()


def test_coordinates_are_of_both_states_together(result):
    sample = result.uns["mnn"]["sample"]
    before = np.vstack([normalised(X) for X in make_batches()])
    for state, values in (("before", before), ("after", result.X)):
        away = np.linalg.norm(values[:1] - values, axis=1)
        seen = np.linalg.norm(sample[state][:1] - sample[state], axis=1)
        assert (seen <= away + 1e-5).all()  # a projection
        assert np.corrcoef(away[1:], seen[1:])[0, 1] > 0.8
    reference = sample["batch"] == 0
    np.testing.assert_allclose(sample["before"][reference], sample["after"][reference], atol=1e-6)


def test_rows_and_pairs_point_into_the_result():
    adata, _ = one_anndata(["x", "y", "z"])
    result, mnns, _ = mnn_correct(adata, batch_key="sample", k=10, mnn_order=["z", "x", "y"])
    names = result.uns["mnn"]["batches"]
    sample = result.uns["mnn"]["sample"]
    row = np.argsort(result.obs["mnn_sample"].to_numpy())  # all cells are in the sample
    np.testing.assert_array_equal(names[sample["batch"]], result.obs["sample"].astype(str).iloc[row])
    new, ref = (sample["batch"][sample[side]] for side in ("pair_new", "pair_reference"))
    rank = {"z": 0, "x": 1, "y": 2}
    assert all(rank[names[n]] > rank[names[r]] for n, r in zip(new, ref, strict=True))
    assert len(new) == sum(map(len, mnns)) > 0


def test_a_large_fit_is_measured_on_some_of_its_cells(monkeypatch):
    monkeypatch.setattr("mnndask.diagnostics.sample.CELLS_OF_BATCH", 40)
    monkeypatch.setattr("mnndask.diagnostics.measures.PAIRS", 50)
    result = corrected(*make_batches(), k=10)
    first, again = result.uns["mnn"]["sample"], corrected(*make_batches(), k=10).uns["mnn"]["sample"]
    numbers = result.obs["mnn_sample"]
    assert sorted(numbers[numbers >= 0]) == list(range(120))
    assert (numbers == -1).sum() == result.n_obs - 120
    assert np.bincount(first["batch"]).tolist() == [40, 40, 40]
    assert 0 < len(first["pair_new"]) <= 50
    assert first["pair_new"].max() < 120
    np.testing.assert_equal(first, again)
    other = corrected(*make_batches(), k=10, random_state=1)
    assert (numbers != other.obs["mnn_sample"]).any()


@pytest.mark.parametrize("sizes", [(1, 1), (1, 40), (40, 1), (2, 3), (40, 30, 1)])
@pytest.mark.parametrize("options", [{}, {"var_adj": False, "cos_norm_out": False}, {"n_components": 2}])
def test_batches_of_a_few_cells_are_measured_as_far_as_can_be(sizes, options, tmp_path):
    result = corrected(*make_batches(sizes), k=1, **options)
    result.write_h5ad(tmp_path / "out.h5ad")
    uns = result.uns["mnn"]
    assert len(uns["steps"]) == len(sizes)
    assert len(uns["sample"]["batch"]) == sum(sizes)
    assert sorted(result.obs["mnn_sample"]) == list(range(sum(sizes)))
    assert ("overall" in uns) == (max(sizes) > 2)


@pytest.mark.parametrize("suffix", ["zarr", "h5ad"])
def test_files_give_back_what_was_measured(result, suffix, tmp_path):
    path = tmp_path / f"out.{suffix}"
    result.write_zarr(path) if suffix == "zarr" else result.write_h5ad(path)
    back = (ad.read_zarr(path) if suffix == "zarr" else ad.read_h5ad(path)).uns["mnn"]
    for table in ("steps", "overall", "mixing"):
        pd.testing.assert_frame_equal(
            back[table],
            result.uns["mnn"][table],
            check_names=False,
            check_index_type=False,
            check_dtype=False,
        )
    np.testing.assert_equal(back["sample"], result.uns["mnn"]["sample"])


def test_an_estimator_measures_when_asked():
    corrector = MNNCorrector(k=10).fit(make_batches())
    assert set(OF_STEPS) <= set(corrector.uns_["steps"])
    assert corrector.uns_ is corrector.uns_
    with pytest.raises(AttributeError, match="not fitted"):
        _ = MNNCorrector().uns_


def test_few_pairs_are_warned_of():
    rng = np.random.default_rng(0)
    a, b = (np.abs(rng.normal(size=(n, 30))) for n in (300, 300))
    a[:, :15], b[5:, 15:] = 0, 0  # five cells of b are like those of a
    b[:5, :15] = 0
    with pytest.warns(UserWarning, match=r"cells of batch '1' found a pair.*\n.*mnn_order") as caught:
        mnn_correct(a, b, k=1)
    assert caught[0].filename == __file__


def test_a_step_that_moves_nothing_is_warned_of():
    X = make_batches((40,))[0]
    with pytest.warns(UserWarning, match="batch '1' moved none of its cells") as caught:
        mnn_correct(X, X, k=1)
    assert caught[0].filename == __file__


def test_usual_data_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = simulate(n_cells=400, n_genes=100, n_batches=2, seed=0)
        mnn_correct(*batches, var_subset=batches[0].var_names)
