"""Weighted quantiles of rows of values in memory; where they come in tiles, see `core.quantile_search`.

Vectorised passes sum the weights up to each of two pivots, and so narrow the bracket of a quantile. A
histogram of the values in the bracket leaves a handful, which are sorted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Floats
from mnndask.core.kernels.jit import FAST_SUMS, STRIP, compiled
from mnndask.core.kernels.pairs import weights_up_to

FEWEST = 1024  # values in a row, below which they are sorted
SAMPLED = 512  # values, about, that give the first pivots
BISECTIONS = 6  # of the sample's range
MARGIN = 1.25  # around the first pivots, in standard errors of a sampled share
ERRORS, LEAST = 1.25, 0.02  # around later pivots: standard errors, and the least share of the bracket
GAIN = 1.2  # factor by which a pass must narrow a bracket for another pass to be worth it
FEW = 64  # values in a bracket that are sorted rather than narrowed
N_BINS, N_LANES = 256, 4


@compiled(FAST_SUMS)
def _ends(values: Any) -> Any:  # pragma: no cover
    low, high = values[0], values[0]
    for j in range(values.size):
        low, high = min(low, values[j]), max(high, values[j])
    return low, high


@compiled(FAST_SUMS)
def _halved(values: Any, weights: Any, target: Any, low: Any, high: Any) -> Any:  # pragma: no cover
    """Bisect a range for the value at which the cumulative weight reaches the target."""
    for _ in range(BISECTIONS):
        middle = low + (high - low) * values.dtype.type(0.5)
        reached, _ = weights_up_to(values, weights, middle, middle)
        if reached < target:
            low = middle
        else:
            high = middle
    return low, high


@compiled(FAST_SUMS)
def _pivots_of_sample(values: Any, weights: Any, share: Any) -> Any:  # pragma: no cover
    """Two values between which the cumulative weight is likely to reach a share of the total."""
    low, high = _ends(values)
    total, _ = weights_up_to(values, weights, high, high)
    margin = MARGIN / np.sqrt(values.size)
    first, _ = _halved(values, weights, (share - margin) * total, low, high)
    _, second = _halved(values, weights, (share + margin) * total, first, high)
    return first, second


@compiled(FAST_SUMS)
def _bracket(
    values: Any,
    weights: Any,
    share: Any,
    total: Any,
    low: Any,
    before: Any,
    gathered: Any,
    gathered_weights: Any,
) -> Any:  # pragma: no cover
    """Bracket the quantile: two values, and the weight up to the first, which does not reach the share.

    `before` is the weight up to `low`, and does not reach it either.
    """
    n, kind = values.size, values.dtype.type
    infinite, target = kind(np.inf), share * total
    high, upto = infinite, total
    if n < FEWEST:
        return low, high, before
    n_sampled = 0
    for j in range(0, n, n // SAMPLED):
        gathered[n_sampled], gathered_weights[n_sampled] = values[j], weights[j]
        n_sampled += 1
    first, second = _pivots_of_sample(gathered[:n_sampled], gathered_weights[:n_sampled], share)
    first, second = max(low, first), max(low, second)
    while True:
        wide = upto - before
        one, other = weights_up_to(values, weights, first, second)
        if one < target:
            low, before = first, one
        else:
            high, upto = first, one
        if other < target:
            low, before = second, other
        elif second < high:
            high, upto = second, other
        narrow = upto - before
        if narrow * n <= FEW * total or narrow * GAIN > wide or low == -infinite or high == infinite:
            return low, high, before
        width = high - low
        error = width * kind(max(ERRORS / np.sqrt(narrow / total * n), LEAST))
        middle = low + width * kind((target - before) / narrow)
        first, second = max(low, middle - error), min(high, middle + error)


@compiled(FAST_SUMS)
def _gather(
    values: Any, weights: Any, low: Any, high: Any, gathered: Any, gathered_weights: Any
) -> int:  # pragma: no cover
    """Copy values above `low` and at most `high`; return how many. The buffer has space for one more."""
    n, whole = 0, values.size - values.size % STRIP
    for start in range(0, whole, STRIP):
        some = np.int32(0)
        for j in range(STRIP):
            some |= np.int32(values[start + j] > low) & np.int32(values[start + j] <= high)
        if some:
            for j in range(start, start + STRIP):  # without a branch, which would often be mispredicted
                gathered[n], gathered_weights[n] = values[j], weights[j]
                n += (values[j] > low) & (values[j] <= high)
    for j in range(whole, values.size):
        gathered[n], gathered_weights[n] = values[j], weights[j]
        n += (values[j] > low) & (values[j] <= high)
    return n


@compiled(FAST_SUMS)
def _keep_bin_of_target(
    values: Any, weights: Any, before: Any, target: Any, bins: Any, sums: Any
) -> Any:  # pragma: no cover
    """Move the values of the bin in which the cumulative weight reaches the target to the front.

    Returns
    -------
    Their number, and the weight below them.
    """
    low, high = _ends(values)
    if not low < high:
        return 1, before
    kind = values.dtype.type
    per_unit = kind(min(N_BINS * (1 - 1e-6) / (high - low), np.finfo(values.dtype).max))
    for j in range(values.size):
        bins[j] = np.int32((values[j] - low) * per_unit)
    sums[:] = 0
    for j in range(values.size):  # in lanes, so that additions to one bin do not wait for each other
        sums[j % N_LANES, bins[j]] += weights[j]
    for lane in range(1, N_LANES):
        sums[0] += sums[lane]
    chosen, last = 0, np.int32((high - low) * per_unit)
    while chosen < last and before + sums[0, chosen] < target:
        before += sums[0, chosen]
        chosen += 1
    n = 0
    for j in range(values.size):
        value, weight = values[j], weights[j]
        values[n], weights[n] = value, weight
        n += bins[j] == chosen
    return n, before


@compiled(FAST_SUMS)
def weighted_quantiles_of(
    values: Any, weights: Any, shares: Any, margin: Any, out: Any, doubtful: Any
) -> None:  # pragma: no cover
    """Fill `out`, which has lower bounds at first, and `doubtful`; see :func:`weighted_quantiles`."""
    n = values.shape[1]
    gathered, gathered_weights = np.empty(n + 1, values.dtype), np.empty(n + 1, weights.dtype)
    bins, sums = np.empty(n, np.int32), np.empty((N_LANES, N_BINS))
    infinite = values.dtype.type(np.inf)
    for i in range(values.shape[0]):
        v, w = values[i], weights[i]
        low = v.dtype.type(out[i])
        if low > out[i]:
            low = np.nextafter(low, -infinite)
        before, total = weights_up_to(v, w, low, infinite)
        target, rounding = shares[i] * total, margin * total
        if target <= 0:
            out[i] = max(out[i], v.min())
            continue
        if before >= target:
            doubtful[i] = before - target < rounding
            continue
        low, high, before = _bracket(v, w, shares[i], total, low, before, gathered, gathered_weights)
        n_gathered = _gather(v, w, low, high, gathered, gathered_weights)
        if n_gathered == 0:  # the share is never reached
            out[i] = max(out[i], v.max())
            continue
        if n_gathered > FEW:
            n_gathered, before = _keep_bin_of_target(
                gathered[:n_gathered], gathered_weights[:n_gathered], before, target, bins, sums
            )
        order = np.argsort(gathered[:n_gathered])
        found = gathered[order[-1]]
        for j in order:
            short = target - before
            before += gathered_weights[j]
            if before >= target:
                found = gathered[j]
                doubtful[i] = short < rounding or before - target < rounding
                break
        out[i] = max(out[i], found)


Doubles = NDArray[np.float64]


def weighted_quantiles(
    values: Floats, weights: Floats, shares: Doubles, least: Doubles | None = None, margin: float = 0
) -> tuple[Doubles, NDArray[np.bool_]]:
    """First value of each row, in ascending order, at which the cumulative weight reaches its share.

    Parameters
    ----------
    values, weights
        Shape ``(n_rows, n_values)``.
    shares
        Shares of the row's total weight, shape ``(n_rows,)``. A share of 0 or less gives the smallest value,
        a share that is never reached the largest.
    least
        Lower bound of each row: smaller quantiles are not searched for, and the bound is returned.
    margin
        Share of the total weight that counts as rounding.

    Returns
    -------
    The values, and which of them would be others if a sum of weights differed by as much as rounding.
    """
    out = np.full(len(values), -np.inf) if least is None else least.copy()
    doubtful = np.zeros(len(values), np.bool_)
    weighted_quantiles_of(values, weights, shares, float(margin), out, doubtful)  # compiled for one type
    return out, doubtful
