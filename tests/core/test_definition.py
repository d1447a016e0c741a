"""Any shape, chunking, kind of array and options: equal to the slow transcription of the definition."""

import dask.array as da
import numpy as np
import pytest
from helpers import make_batches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from transcription import DOUBLE, SINGLE, transcribe

from mnndask import mnn_correct

pytestmark = [
    pytest.mark.filterwarnings("ignore:k=:UserWarning"),
    pytest.mark.filterwarnings("ignore:The values of:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*express none of the genes:UserWarning"),
]
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@st.composite
def cells(draw, n_cells, n_genes):
    """A batch: continuous, or on a lattice (ties everywhere), with some cells twice and some all zero."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        X = rng.gamma(1.0, 1.0, (n_cells, n_genes)) + 0.1
    else:
        X = rng.integers(0, draw(st.sampled_from([2, 4])), (n_cells, n_genes)).astype(float)
    if draw(st.booleans()):
        X = X[rng.integers(n_cells, size=n_cells)]
    X[rng.random(n_cells) < draw(st.sampled_from([0, 0.2]))] = 0
    return X * draw(st.sampled_from([1.0, 1e-3, 50.0]))


@st.composite
def problems(draw):
    n_genes = draw(st.integers(1, 9))
    n_batches = draw(st.integers(2, 3))
    sizes = [draw(st.integers(1, 14)) for _ in range(n_batches)]
    batches = [draw(cells(n, n_genes)) for n in sizes]
    if draw(st.booleans()):  # cells of one batch in another
        batches[1] = np.vstack([batches[1], batches[0][: sizes[1]]])
    options = {
        "k": draw(st.sampled_from([1, 2, 5, 20])),
        "sigma": draw(st.sampled_from([0.1, 1.0, 20.0])),
        "cos_norm_in": draw(st.booleans()),
        "cos_norm_out": draw(st.booleans()),
        "var_adj": draw(st.booleans()),
        "mnn_order": draw(st.permutations(range(n_batches))),
    }
    subset = draw(st.none() | st.sets(st.integers(0, n_genes - 1), min_size=1).map(sorted))
    if draw(st.booleans()):
        options["restrict"] = [
            draw(st.none() | st.sets(st.integers(0, len(b) - 1), min_size=1).map(sorted)) for b in batches
        ]
    return batches, subset, options


KINDS = {
    "numpy": lambda X, chunks: X,
    "csr": lambda X, chunks: sparse.csr_array(X),
    "csc": lambda X, chunks: sparse.csc_matrix(X),
    "dask": lambda X, chunks: da.from_array(X, chunks=chunks),
    "dask csr": lambda X, chunks: da.from_array(X, chunks=chunks).map_blocks(sparse.csr_matrix),
}


@st.composite
def chunks(draw, X):
    """An irregular chunking of the cells, a regular one of the genes."""
    cuts = sorted(draw(st.sets(st.integers(1, len(X)), max_size=4)) | {0, len(X)})
    return tuple(int(n) for n in np.diff(cuts)), draw(st.integers(1, X.shape[1]))


def run(batches, subset, options, **more):
    if subset is not None:
        more |= {"var_index": range(batches[0].shape[1]), "var_subset": subset}
    corrected, mnns, angles = mnn_correct(*batches, do_concatenate=False, **options, **more)
    return [np.asarray(c) for c in corrected], mnns, angles


def agree(found, expected, precision, batches, options):
    """Compare on decided cells, relative to the largest value, of the result or before its normalisation."""
    largest = max(np.abs(c).max() for c in expected.corrected)
    if not options["cos_norm_out"]:  # large cells may have been moved to small values
        largest = max(largest, *(np.abs(b).max() for b in batches))
    for ours, theirs, undecided in zip(found, expected.corrected, expected.undecided, strict=True):
        np.testing.assert_allclose(
            ours[~undecided], theirs[~undecided], rtol=0, atol=precision.allowed * max(largest, 1e-300)
        )


@given(
    problem=problems(), kind=st.sampled_from(sorted(KINDS)), n_jobs=st.sampled_from([1, 2]), data=st.data()
)
@settings(SETTINGS, max_examples=100)
def test_double_precision_is_the_definition(problem, kind, n_jobs, data):
    batches, subset, options = problem
    given_ = [KINDS[kind](b, data.draw(chunks(b))) for b in batches]
    found, mnns, _ = run(given_, subset, options, n_jobs=n_jobs)
    expected = transcribe(batches, subset=subset, **options)
    agree(found, expected, DOUBLE, batches, options)
    for b, pairs in expected.pairs.items():
        if not expected.undecided[b].all():
            assert set(zip(mnns[b]["ref cell"], mnns[b]["new cell"], strict=True)) == pairs


@given(problem=problems(), data=st.data())
@settings(SETTINGS, max_examples=60)
def test_single_precision_is_near_the_definition(problem, data):
    batches, subset, options = problem
    single = [b.astype(np.float32) for b in batches]
    lazy = [da.from_array(b, chunks=(data.draw(st.integers(1, len(b))), b.shape[1])) for b in single]
    found, _, _ = run(lazy, subset, options)
    assert all(f.dtype == np.float32 for f in found)
    agree(found, transcribe(single, subset=subset, precision=SINGLE, **options), SINGLE, batches, options)


@given(problem=problems(), svd_dim=st.integers(1, 4), svd_mode=st.sampled_from(["svd", "rsvd", "irlb"]))
@settings(SETTINGS, max_examples=60)
def test_biological_span_is_the_definition(problem, svd_dim, svd_mode):
    batches, subset, options = problem
    found, _, _ = run(batches, subset, options, svd_dim=svd_dim, svd_mode=svd_mode)
    expected = transcribe(batches, subset=subset, svd_dim=svd_dim, **options)
    agree(found, expected, DOUBLE, batches, options)


@given(seed=st.integers(0, 2**32 - 1), svd_mode=st.sampled_from(["svd", "rsvd", "irlb"]), lazy=st.booleans())
@settings(SETTINGS, max_examples=30)
def test_angles_are_the_definition(seed, svd_mode, lazy):
    rng = np.random.default_rng(seed)
    spread = np.array([4.0, 2.0, 0.3, 0.2, 0.1])
    batches = [rng.normal(size=(n, 5)) * spread + rng.normal(size=5) + 8 for n in (15, 20, 12)]
    given_ = [da.from_array(b, chunks=(7, 5)) for b in batches] if lazy else batches
    _, _, angles = run(given_, None, {"k": 4}, compute_angle=True, svd_mode=svd_mode)
    expected = transcribe(batches, k=4, compute_angle=True)
    assert angles[0] is None
    for b in (1, 2):
        if not expected.undecided[b].any():
            np.testing.assert_allclose(np.asarray(angles[b]), expected.angles[b], atol=1e-6)


def test_hardly_any_cell_is_undecided():
    """The exception must not swallow the rule."""
    undecided = []
    for seed in range(12):
        batches = make_batches((18, 22, 15), 8, seed=seed)
        undecided += transcribe(batches, k=4, sigma=[0.1, 1.0][seed % 2]).undecided
    assert np.concatenate(undecided).mean() < 0.01
