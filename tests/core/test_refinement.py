"""`refine=True`: equal to its slow transcription, and what must hold between two runs."""

import dask.array as da
import numpy as np
import pytest
from helpers import make_batches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transcription import DOUBLE, SINGLE, transcribe

from mnndask import mnn_correct

pytestmark = [
    pytest.mark.filterwarnings("ignore:k=:UserWarning"),
    pytest.mark.filterwarnings("ignore:The values of:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*express none of the genes:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*moved none of its cells:UserWarning"),
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
@settings(SETTINGS, max_examples=40)
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
@settings(SETTINGS, max_examples=25)
def test_single_precision_is_near_the_definition(problem):
    batches, subset, options = problem
    single = [b.astype(np.float32) for b in batches]
    found, _ = run(single, subset, options)
    assert all(f.dtype == np.float32 for f in found)
    agree(found, transcribe(single, subset=subset, precision=SINGLE, **options), SINGLE, batches, options)
