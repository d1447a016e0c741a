"""`refine=True`: equal to its slow transcription, and what must hold between two runs."""

import dask.array as da
import numpy as np
import pytest
from anndata import AnnData
from helpers import make_batches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transcription import DOUBLE, SINGLE, transcribe

from mnndask import RECOMMENDED, MNNCorrector, mnn_correct
from mnndask.core.history import MergeHistory
from mnndask.core.parameters import Parameters
from mnndask.core.refined_pairs import Sizes
from mnndask.datasets.simulated import simulate

pytestmark = [
    pytest.mark.filterwarnings("ignore:k=:UserWarning"),
    pytest.mark.filterwarnings("ignore:The values of:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*express none of the genes:UserWarning"),
]
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@st.composite
def problems(draw):
    """Batches of one to three clouds, on a lattice or not, and any options."""
    n_genes, n_batches = draw(st.integers(2, 8)), draw(st.integers(2, 3))
    sizes = [draw(st.integers(1, 16)) for _ in range(n_batches)]
    batches = make_batches(sizes, n_genes, seed=draw(st.integers(0, 10**6)))
    if draw(st.booleans()):
        batches = [np.round(b) for b in batches]
    options = {
        "k": draw(st.sampled_from([1, 3, 20])),
        "sigma": draw(st.sampled_from([0.15, 1.0, 20.0])),
        "cos_norm_in": draw(st.booleans()),
        "cos_norm_out": draw(st.booleans()),
        "var_adj": draw(st.booleans()),
        "mnn_order": draw(st.permutations(range(n_batches))),
        "pair_averaging": draw(st.sampled_from([None, 1, 2, 5])),
        "repair_sigmas": draw(st.sampled_from([None, (0.5,), (10.0, 0.1)])),
        "shrinkage": draw(st.sampled_from([0, 0.5, 1.0])),
        "refine": True,
    }
    subset = draw(st.none() | st.sets(st.integers(0, n_genes - 1), min_size=1).map(sorted))
    if draw(st.booleans()):
        options["restrict"] = [
            draw(st.none() | st.sets(st.integers(0, len(b) - 1), min_size=1).map(sorted)) for b in batches
        ]
    return batches, subset, options


def run(batches, subset, options, **more):
    if subset is not None:
        more |= {"var_index": range(batches[0].shape[1]), "var_subset": subset}
    corrected, mnns, _ = mnn_correct(*batches, do_concatenate=False, diagnostics=False, **options, **more)
    return [np.asarray(c) for c in corrected], mnns


def agree(found, expected, precision, batches, options):
    largest = max(np.abs(c).max() for c in expected.corrected)
    if not options["cos_norm_out"]:
        largest = max(largest, *(np.abs(b).max() for b in batches))
    for ours, theirs, undecided in zip(found, expected.corrected, expected.undecided, strict=True):
        np.testing.assert_allclose(
            ours[~undecided], theirs[~undecided], rtol=0, atol=precision.allowed * max(largest, 1e-300)
        )


@given(problem=problems(), n_jobs=st.sampled_from([1, 2]), rows=st.integers(1, 20), lazy=st.booleans())
@settings(SETTINGS, max_examples=30)
def test_double_precision_is_the_definition(problem, n_jobs, rows, lazy):
    batches, subset, options = problem
    given_ = [da.from_array(b, chunks=(min(rows, len(b)), b.shape[1])) if lazy else b for b in batches]
    found, mnns = run(given_, subset, options, n_jobs=n_jobs)
    expected = transcribe(batches, subset=subset, **options)
    agree(found, expected, DOUBLE, batches, options)
    for b, pairs in expected.pairs.items():
        if not expected.undecided[b].all():
            assert set(zip(mnns[b]["ref cell"], mnns[b]["new cell"], strict=True)) == pairs


@given(problem=problems())
@settings(SETTINGS, max_examples=15)
def test_single_precision_is_near_the_definition(problem):
    batches, subset, options = problem
    single = [b.astype(np.float32) for b in batches]
    found, _ = run(single, subset, options)
    assert all(f.dtype == np.float32 for f in found)
    agree(found, transcribe(single, subset=subset, precision=SINGLE, **options), SINGLE, batches, options)


# ---------------------------------------------------------------- what must hold between two runs


def correct(batches, **options):
    given_ = {"k": 5, "refine": True, "do_concatenate": False, "diagnostics": False}
    return mnn_correct(*batches, **given_ | options)


def assert_near(found, expected, allowed=1e-10):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=allowed * np.abs(theirs).max())


SPACES = {
    "genes": {},
    "components": {"n_components": 6, "sigma": 0.15, "var_adj": False},
    "spaces that differ": {"cos_norm_in": False, "sigma": 20.0, "repair_sigmas": (20.0, 6.0)},
}
spaces = pytest.mark.parametrize("options", SPACES.values(), ids=SPACES)


@spaces
def test_permuting_cells_and_genes_permutes_the_result(options):
    batches, rng = make_batches(), np.random.default_rng(3)
    plain, mnns, _ = correct(batches, svd_mode="svd", **options)
    orders, genes = [rng.permutation(len(b)) for b in batches], rng.permutation(40)
    shuffled = [b[order][:, genes] for b, order in zip(batches, orders, strict=True)]
    found, shuffled_mnns, _ = correct(shuffled, svd_mode="svd", **options)
    assert_near(found, [p[order][:, genes] for p, order in zip(plain, orders, strict=True)])
    assert [len(m) for m in mnns] == [len(m) for m in shuffled_mnns]


def test_lengths_of_cells_do_not_matter_when_these_are_normalised():
    batches = make_batches()
    assert_near(correct([1000 * b for b in batches])[0], correct(batches)[0])


def test_scale_and_rotation_pass_through_when_cells_are_not_normalised():
    batches = make_batches(n_genes=12)
    turned, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))
    plain = {"cos_norm_in": False, "cos_norm_out": False, "var_adj": False}
    expected, mnns, _ = correct(batches, sigma=20.0, repair_sigmas=(20.0, 6.0), **plain)
    scaled = [3 * b @ turned + 7 for b in batches]
    found, scaled_mnns, _ = correct(scaled, sigma=180.0, repair_sigmas=(180.0, 54.0), **plain)
    assert_near(found, [3 * e @ turned + 7 for e in expected])
    assert all(ours.equals(theirs) for ours, theirs in zip(mnns, scaled_mnns, strict=True))


@spaces
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_chunks_and_threads_do_not_matter(options, n_jobs):
    batches = make_batches((300, 260))
    whole = correct(batches, n_jobs=1, **options)
    lazy = [da.from_array(b, chunks=(37, 11)) for b in batches]
    found = correct(lazy, n_jobs=n_jobs, **options)
    assert_near([np.asarray(part) for part in found[0]], whole[0])
    assert found[1][1].equals(whole[1][1])


@spaces
def test_single_precision_is_near_double(options):
    batches = make_batches()
    single = correct([b.astype(np.float32) for b in batches], **options)[0]
    assert single[1].dtype == np.float32
    assert_near(single, correct([b.astype(np.float32).astype(float) for b in batches], **options)[0], 1e-4)


@pytest.mark.parametrize("svd_dim", [None, 2])
def test_a_gene_does_not_depend_on_which_others_are_asked_for(svd_dim):
    batches, near = make_batches(), list(range(15))
    options = {"var_subset": near, "cos_norm_out": False, "svd_dim": svd_dim, "svd_mode": "svd"}
    every = correct(batches, var_index=range(40), **options)[0]
    columns = [*near, 20, 33]
    some = correct([b[:, columns] for b in batches], var_index=columns, **options)[0]
    assert_near(some, [part[:, columns] for part in every])


@spaces
def test_cells_outside_the_sketch_follow_those_in_it(options):
    """Index sets are of fitted cells; a model corrects the fitted cells as the fit did."""
    batches = make_batches()
    rows = [np.arange(0, 60, 2), np.arange(5, 65), np.arange(50)]
    whole, mnns, _ = correct(batches, restrict=rows, **options)
    fitted = [b[r] for b, r in zip(batches, rows, strict=True)]
    alone, alone_mnns, _ = correct(fitted, **options)
    assert_near([part[r] for part, r in zip(whole, rows, strict=True)], alone)
    np.testing.assert_array_equal(mnns[1]["new cell"], rows[1][alone_mnns[1]["new cell"]])
    corrector = MNNCorrector(k=5, refine=True, do_concatenate=False, diagnostics=False, **options).fit(fitted)
    assert_near(corrector.transform(fitted), alone)


# ---------------------------------------------------------------- what it is for


def cloud(n, n_genes=50, seed=0):
    """Cells of three types that vary along a few directions."""
    rng = np.random.default_rng(seed)
    types = rng.gamma(1.0, 1.0, (3, n_genes)) + 0.5
    return np.maximum(types[rng.integers(3, size=n)] + rng.normal(0, 0.3, (n, n_genes)), 0)


SETTINGS_OF_USE = {"k": 10, "sigma": 0.15, "var_adj": False, "n_components": 20}


def moved_by(halves, **options):
    """Median displacement of the second batch's cells."""
    corrected = mnn_correct(*halves, do_concatenate=False, diagnostics=False, **options)[0]
    start = halves[1] / np.linalg.norm(halves[1], axis=1)[:, None]
    return np.median(np.linalg.norm(corrected[1] - start, axis=1))


def test_random_halves_of_a_batch_stay_where_they_are():
    cells = cloud(600)
    halves = cells[::2], cells[1::2]
    shrunk = moved_by(halves, refine=True, **SETTINGS_OF_USE)
    assert shrunk < 0.1 * moved_by(halves, **SETTINGS_OF_USE)
    assert shrunk < 0.1 * moved_by(halves, refine=True, shrinkage=0, **SETTINGS_OF_USE)


def merges_of(batches, **options):
    """Merges of a refined fit."""
    seen = []
    merged = MergeHistory.merged

    def noting(history, merge, references):
        seen.append(merge)
        return merged(history, merge, references)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MergeHistory, "merged", noting)
        mnn_correct(*batches, **{"refine": True, "diagnostics": False} | SETTINGS_OF_USE | options)
    return seen


def test_effects_are_told_from_noise():
    cells = cloud(600)
    shift = np.random.default_rng(1).normal(0, 0.3, 50)
    (none,) = merges_of([cells[::2], cells[1::2]])
    (some,) = merges_of([cells[::2], np.maximum(cells[1::2] + shift, 0)])
    assert none.shrink_factors.mean() < 0.1
    assert some.shrink_factors.mean() > 0.8


@pytest.mark.parametrize("strength", [0, 0.5, 2.0])
def test_strength_scales_the_noise(strength):
    cells = cloud(300)
    batches = [cells[::2], cells[1::2] + 0.1]
    full = np.concatenate([m.shrink_factors for m in merges_of(batches, shrinkage=1.0)])
    some = np.concatenate([m.shrink_factors for m in merges_of(batches, shrinkage=strength)])
    inside = (full > 0) & (full < 1)
    assert inside.any()
    np.testing.assert_allclose(some[inside], np.maximum(0, 1 - strength * (1 - full[inside])), atol=1e-12)


def test_a_batch_that_is_left_as_it_is_gives_no_warning(recwarn):
    """Without refinement, one that no vector moves is said to be a copy."""
    cells = cloud(60)
    (merge,) = merges_of([cells, cells], diagnostics=True)
    assert merge.shrink_factors.max() == 0
    assert not [w for w in recwarn if "moved none" in str(w.message)]


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (60, Sizes((1.0, 0.3), (5, 5), (10, 10), 5)),
        (1999, Sizes((1.0, 0.3), (5, 5), (19, 19), 9)),
        (2000, Sizes((1.0, 0.3, 0.15), (5, 5), (20, 20), 10)),
        (100_000, Sizes((1.0, 0.3, 0.15), (5, 5), (50, 50), 25)),
    ],
)
def test_rules_are_of_the_smaller_side(n, expected):
    parameters = Parameters(k=5, refine=True)
    assert Sizes.of(parameters, n, n) == expected
    twice = Sizes.of(parameters, n, 2 * n)
    assert (twice.sigmas, twice.n_radius) == (expected.sigmas, expected.n_radius)
    assert twice.n_neighbors == (5, 10)
    assert twice.n_averaged == (expected.n_averaged[0], min(50, 2 * expected.n_averaged[0]))
    turned = Sizes.of(parameters, 2 * n, n)
    assert turned.n_neighbors == twice.n_neighbors[::-1]
    assert turned.n_averaged == twice.n_averaged[::-1]


def test_numbers_that_are_given_hold_for_both_sides():
    given_ = Parameters(refine=True, pair_averaging=7, repair_sigmas=np.array([2, 0.5]))
    sizes = Sizes.of(given_, 300, 100)
    assert sizes.sigmas == (2.0, 0.5)
    assert sizes.n_averaged == (7, 7)
    assert sizes.n_radius == Sizes.of(Parameters(refine=True), 300, 100).n_radius


@pytest.mark.parametrize("shares", [(0.8, 0.2), (1 / 6,) * 6], ids=["80/20", "6 parts"])
def test_random_parts_of_unequal_sides_differ_by_noise(shares):
    """Equal numbers of neighbours on both sides, and equal weights of batches, each tell them apart."""
    [whole] = simulate([3000], 500, 1, n_types=8, counts_per_gene=1.0, seed=1)
    X = whole.X.toarray()
    order = np.random.default_rng(0).permutation(len(X))
    ends = np.round(np.cumsum(shares)[:-1] * len(X)).astype(int)
    parts = [AnnData(X[np.sort(rows)]) for rows in np.split(order, ends)]
    steps = mnn_correct(*parts, sketch_size=None, diagnostics=False, **RECOMMENDED)[0].uns["mnn"]["steps"]
    assert steps["effect"][1:].max() < 0.05
