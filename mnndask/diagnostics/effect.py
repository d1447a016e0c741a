"""Whether a batch differs from those before it beyond noise, by the factor that shrank its vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# By `benchmarks.calibration`: of 360 merges of random splits, 95 % were below it, and all but 1 % where parts
# had more than some thirty cells; 30 effects of real size had 0.42 to 0.95.
LEAST_EFFECT = 0.4
STILL = 0.05  # mean factor up to which cells stay where they are, but for a twentieth of a correction


def effect_line(row: Mapping[Any, Any]) -> str:
    """Return what a refined step says of its batch effect; empty for other records.

    Parameters
    ----------
    row
        A step, as recorded; see :class:`mnndask.io.record.Record`.
    """
    factor = row.get("effect", np.nan)
    if not np.isfinite(factor):
        return ""
    if factor <= STILL:
        said = "no effect beyond noise: cells left as they are"
    elif factor < LEAST_EFFECT:
        said = "no effect beyond noise: cells moved by a part of what pairs suggest"
    else:
        said = "it differs from the batches before it beyond noise"
    return f"Batch effect: {said} (vectors were multiplied by {factor:.2f} on average)."
