"""The reference implementation's outputs (tests/golden: batchelor 1.14.1 `mnnCorrect`)."""

import numpy as np
import pytest
from golden_cases import CASES, Golden, found_pairs
from transcription import transcribe

pytestmark = [
    pytest.mark.lowest,
    pytest.mark.filterwarnings("ignore:k=20 is more than the 12 cells:UserWarning"),
]


@pytest.fixture(params=CASES)
def golden(request):
    return Golden(request.param)


@pytest.mark.parametrize("svd_mode", ["svd", "rsvd", "irlb"])
def test_double_precision_equals_the_reference(golden, svd_mode):
    corrected, mnns, _ = golden.call(golden.batches, svd_mode=svd_mode)
    assert corrected.dtype == np.float64
    assert golden.error(corrected) < 1e-8
    for step, batch in enumerate(golden.order[1:]):
        assert found_pairs(mnns[batch], golden) == golden.pairs(step)


def test_single_precision_is_near_the_reference(golden):
    corrected, _, _ = golden.call([b.astype(np.float32) for b in golden.batches])
    assert corrected.dtype == np.float32
    assert golden.error(corrected) < 1e-4


@pytest.mark.slow
def test_transcription_equals_the_reference(golden):
    found = transcribe(golden.batches, subset=golden.subset, **golden.options)
    assert golden.error(np.concatenate(found.corrected)) < 1e-12
