"""What must hold between two runs, whatever the data."""

import numpy as np
import pytest
from helpers import make_batches
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mnndask import mnn_correct
from mnndask.core.cosine import cosine_lengths
from mnndask.datasets.simulated import simulate
from mnndask.metrics import embed, label_agreement, same_batch_fraction

pytestmark = pytest.mark.filterwarnings("ignore:The values of")  # which are unusual here

seeds = st.integers(0, 10_000)
relaxed = settings(deadline=None, max_examples=8)  # of each combination of options
flags = pytest.mark.parametrize(("cos_norm_in", "cos_norm_out"), [(a, b) for a in (0, 1) for b in (0, 1)])


def correct(batches, **options):
    return mnn_correct(*batches, do_concatenate=False, **{"k": 5} | options)


@flags
@given(seed=seeds)
@relaxed
def test_permuting_cells_permutes_the_result(cos_norm_in, cos_norm_out, seed):
    batches = make_batches((25, 30, 20), 12, seed=seed)
    orders = [np.random.default_rng(seed + i).permutation(len(b)) for i, b in enumerate(batches)]
    options = {
        "cos_norm_in": cos_norm_in,
        "cos_norm_out": cos_norm_out,
        "sigma": 1.0 if cos_norm_in else 20.0,
    }
    plain, mnns, _ = correct(batches, **options)
    shuffled, shuffled_mnns, _ = correct([b[o] for b, o in zip(batches, orders, strict=True)], **options)
    for before, after, order in zip(plain, shuffled, orders, strict=True):
        np.testing.assert_allclose(after, before[order], atol=1e-10 * np.abs(before).max())
    assert [len(m) for m in mnns] == [len(m) for m in shuffled_mnns]


@flags
@given(seed=seeds, order=st.permutations(range(3)))
@relaxed
def test_reference_equals_its_normalised_input(cos_norm_in, cos_norm_out, seed, order):
    batches = make_batches((15, 20, 12), 9, seed=seed)
    corrected, mnns, _ = correct(batches, cos_norm_in=cos_norm_in, cos_norm_out=cos_norm_out, mnn_order=order)
    reference = batches[order[0]]
    expected = reference / cosine_lengths(reference)[:, None] if cos_norm_out else reference
    np.testing.assert_array_equal(corrected[order[0]], expected)
    assert len(mnns[order[0]]) == 0
    assert all(len(mnns[b]) for b in order[1:])


@pytest.mark.parametrize("svd_dim", [None, 2])
@flags
@given(seed=seeds)
@relaxed
def test_a_gene_does_not_depend_on_which_others_are_asked_for(cos_norm_in, cos_norm_out, svd_dim, seed):
    batches = make_batches((20, 25, 15), 16, seed=seed)
    subset = list(range(8))
    assume(all(b[:, subset].any(axis=1).all() for b in batches))  # else a warning: some lengths are zero
    options = {
        "cos_norm_in": cos_norm_in,
        "cos_norm_out": cos_norm_out,
        "svd_dim": svd_dim,
        "svd_mode": "svd",
        "var_subset": subset,
    }
    every, _, _ = correct(batches, var_index=range(16), **options)
    columns = [*subset, 9, 13]
    some, _, _ = correct([b[:, columns] for b in batches], var_index=columns, **options)
    for all_genes, fewer in zip(every, some, strict=True):
        np.testing.assert_allclose(fewer, all_genes[:, columns], atol=1e-10 * np.abs(all_genes).max())


@flags
@given(seed=seeds, double=st.booleans())
@relaxed
def test_a_batch_against_itself_moves_nothing_with_one_neighbour(cos_norm_in, cos_norm_out, seed, double):
    (batch,) = make_batches((40,), 10, seed=seed, dtype=np.float64 if double else np.float32)
    options = {"k": 1, "cos_norm_in": cos_norm_in, "cos_norm_out": cos_norm_out}
    with pytest.warns(UserWarning, match="moved none of its cells"):
        (reference, same), _, _ = correct([batch, batch], **options)
    np.testing.assert_array_equal(same, reference)


@given(seed=seeds)
@relaxed
def test_restricting_to_all_cells_is_no_restriction(seed):
    batches = make_batches((20, 25, 15), 10, seed=seed)
    plain, mnns, _ = correct(batches)
    restricted, restricted_mnns, _ = correct(batches, restrict=[np.arange(20)[::-1], None, np.ones(15, bool)])
    for a, b in zip(plain, restricted, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(mnns, restricted_mnns, strict=True):
        assert a.equals(b)


@given(seed=seeds)
@relaxed
def test_restricted_fit_equals_fitting_those_cells_alone(seed):
    batches = make_batches((30, 35), 10, seed=seed)
    rows = [np.arange(0, 30, 2), np.arange(5, 30)]
    whole, mnns, _ = correct(batches, restrict=rows)
    alone, alone_mnns, _ = correct([b[r] for b, r in zip(batches, rows, strict=True)])
    for a, b, r in zip(whole, alone, rows, strict=True):
        np.testing.assert_allclose(a[r], b, atol=1e-10)
    np.testing.assert_array_equal(mnns[1]["new cell"], rows[1][alone_mnns[1]["new cell"]])
    np.testing.assert_array_equal(mnns[1]["ref cell"], rows[0][alone_mnns[1]["ref cell"]])


def test_mixing_improves_and_types_stay_together():
    batches = simulate(600, 400, 3, batch_effect=0.45)
    raw = np.concatenate([b.X.toarray() for b in batches])
    result, _, _ = mnn_correct(*batches, var_subset=batches[0].var_names)
    before, after = embed(raw / cosine_lengths(raw)[:, None]), embed(result.X)
    assert same_batch_fraction(before, result.obs["batch"]).mean() > 0.8
    assert same_batch_fraction(after, result.obs["batch"]).mean() < 0.5
    assert label_agreement(after, result.obs["cell_type"]).mean() > 0.9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma", [1e-300, 1e-9, 1e9, 1e300])
def test_any_sigma_gives_numbers(sigma, dtype):
    for corrected in correct(make_batches(dtype=dtype), sigma=sigma)[0]:
        assert np.isfinite(corrected).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("times", [30, 1000])
def test_one_huge_cell_does_not_touch_the_others_pairs(times, dtype):
    """What counts as a tie is relative to each cell: the largest must not blur the rest."""
    batches = make_batches((150, 150), 30, dtype=dtype)
    options = {"cos_norm_in": False, "cos_norm_out": False, "sigma": 50.0, "k": 10}
    pairs = correct(batches, **options)[1][1]
    batches[1][7] *= times
    blurred = correct(batches, **options)[1][1]
    kept = {tuple(p) for p in pairs.to_numpy() if p[0] != 7} & {tuple(p) for p in blurred.to_numpy()}
    assert len(kept) > 0.98 * len(pairs[pairs["new cell"] != 7])
