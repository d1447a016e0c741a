"""A cell's rank in its own batch, from sums of weights that add up over tiles (definition, step 8)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Floats
from mnndask.core.quantile_search import rescaling


@dataclass(frozen=True)
class BatchWeights:
    """Weight of the batch's cells around each cell's line, in all and at or below the cell.

    Parameters
    ----------
    least
        Smallest squared distance to the line, to which weights are relative, shape ``(n_cells,)``.
    total, below
        Sums of weights, shape ``(n_cells,)``.
    doubtful
        Whether rounding may decide on which side of the cell another is, shape ``(n_cells,)``.
    """

    least: Floats
    total: NDArray[np.float64]
    below: NDArray[np.float64]
    doubtful: NDArray[np.bool_]

    def plus(self, other: BatchWeights, sigma: float) -> BatchWeights:
        """Sum over both tiles."""
        least = np.minimum(self.least, other.least)
        own, its = rescaling(self.least, least, sigma), rescaling(other.least, least, sigma)
        return BatchWeights(
            least,
            self.total * own + other.total * its,
            self.below * own + other.below * its,
            self.doubtful | other.doubtful,
        )


def add_batch_weights(weights: Iterable[BatchWeights], sigma: float) -> BatchWeights:
    """Sum over all tiles."""
    return reduce(lambda a, b: a.plus(b, sigma), weights)
