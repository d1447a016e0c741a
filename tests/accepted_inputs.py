"""Two plain batches, and the check that awkward forms of them give what the plain ones give."""

import anndata as ad
import numpy as np
from helpers import make_batches, values
from snapshots import snapshot

from mnndask import mnn_correct

A, B = make_batches((30, 26), seed=3)
PLAIN = mnn_correct(A, B, k=5)[0]
TOLERANCE = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 1e-4}


def check(*batches, plain=None, dtype=np.float64, **options):
    """Correct, compare with the plain run, and see that nothing that was given has changed."""
    before = snapshot(batches)
    corrected, mnns, _ = mnn_correct(*batches, **{"k": 5} | options)
    found = values(corrected)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found, PLAIN if plain is None else plain, rtol=0, atol=TOLERANCE[np.dtype(dtype)]
    )
    assert len(mnns) == len(
        corrected.obs["batch"].cat.categories if isinstance(corrected, ad.AnnData) else batches
    )
    assert snapshot(batches) == before
    return corrected
