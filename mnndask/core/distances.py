"""Squared Euclidean distances by matrix products, and the tolerances within which numbers count as equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import cached_blocks
from mnndask._typing import Floats
from mnndask.core.arrays import Points


def squared_distances(A: Points, B: Points) -> Floats:
    """Squared distances, shape ``(len(A), len(B))``; rounding below zero is cut off."""
    out: Floats = A.X @ B.X.T
    for rows in cached_blocks(*out.shape):
        own = out[rows]
        own *= -2
        own += A.squared[rows, None]
        own += B.squared
        np.maximum(own, 0, out=own)
    return out


def to_log_weights(squared: Floats, sigma: float) -> Floats:
    """Turn squared distances into logarithms of Gaussian weights, in place; never infinite."""
    squared *= -inverse_sigma(sigma, float(squared.max(initial=0)), squared.dtype)
    return squared


def inverse_sigma(sigma: float, largest: float, dtype: np.dtype) -> Any:
    """``1 / sigma``, limited so that its products with squared distances up to `largest` are finite."""
    limits = np.finfo(dtype)
    smallest = max(largest * 8 / float(limits.max), float(limits.tiny))
    return dtype.type(1 / min(max(sigma, smallest), float(limits.max)))


def squared_distance_bound(A: Points, B: Points) -> float:
    """Upper bound of the squared distances between two sides, ``4 max(|a|², |b|²)``."""
    return 4 * float(max(A.squared.max(initial=0), B.squared.max(initial=0)))


def bits_of(values: Floats) -> NDArray[np.integer]:
    """Buffer that compiled exponentials need for a row of values."""
    return np.empty(values.shape[1], np.int32 if values.dtype == np.float32 else np.int64)


@dataclass(frozen=True)
class Tolerances:
    """How near two numbers must be to count as equal, relative to the scale of the data.

    The scale is a cell's norm (or the median norm, if that is larger), or the largest norm of all cells.
    Without tolerances, results for duplicated cells would depend on the order in which inner products are
    summed.
    """

    squared_distance: float  # of the cell's norm, squared
    projection: float  # of the largest norm
    doubtful: float  # of the largest norm: a smaller difference is computed again in double precision
    beside: float  # of the largest norm: rounding may decide on which side of a cell one is that is so near
    reach: float  # of the total weight
    share: (
        float  # of the total weight: rounding may move a cell's rank by this much, with distances about sigma
    )
    vector: float  # of the cell's norm: an anchor vector shorter than this is rounding

    @classmethod
    def of(cls, dtype: np.dtype) -> Tolerances:
        """Choose by precision."""
        return DOUBLE if dtype == np.float64 else SINGLE


DOUBLE = Tolerances(
    squared_distance=1e-10, projection=1e-11, doubtful=0, beside=0, reach=1e-12, share=0, vector=1e-14
)
SINGLE = Tolerances(
    squared_distance=1e-6, projection=1e-8, doubtful=1e-5, beside=1e-7, reach=1e-12, share=2.5e-7, vector=1e-6
)
