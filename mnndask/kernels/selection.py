"""Weighted quantiles of rows of values, compiled by numba.

Passes of vectors, each of which adds up the weights up to two pivots, narrow the bracket of a quantile; a
histogram of what is in it leaves a handful of values, which are sorted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mnndask.kernels.compiled import weights_up_to
from mnndask.kernels.compiling import STRIP, SUMS, compiled

FEWEST = 1024  # values of a row that are worth passes
SAMPLED = 512  # about so many of them give the first pivots
HALVINGS = 6  # of the sample's range
MARGIN = 1.25  # of first pivots, in standard errors of a sampled share, about
ERRORS, LEAST = 1.25, 0.02  # of later ones: likewise; at least so much of the bracket
GAIN = 1.2  # by which a pass has to narrow a bracket if there is to be another
FEW = 64  # values that are sorted rather than narrowed
N_BINS, N_LANES = 256, 4


@compiled(SUMS)
def _ends(values: Any) -> Any:  # pragma: no cover
    low, high = values[0], values[0]
    for j in range(values.size):
        low, high = min(low, values[j]), max(high, values[j])
    return low, high


@compiled(SUMS)
def _halved(values: Any, weights: Any, target: Any, low: Any, high: Any) -> Any:  # pragma: no cover
    for _ in range(HALVINGS):
        middle = low + (high - low) * values.dtype.type(0.5)
        reached, _ = weights_up_to(values, weights, middle, middle)
        if reached < target:
            low = middle
        else:
            high = middle
    return low, high


@compiled(SUMS)
def _pivots_of_sample(values: Any, weights: Any, share: Any) -> Any:  # pragma: no cover
    """Values between which a share of all weight is likely to be reached."""
    low, high = _ends(values)
    total, _ = weights_up_to(values, weights, high, high)
    margin = MARGIN / np.sqrt(values.size)
    first, _ = _halved(values, weights, (share - margin) * total, low, high)
    _, second = _halved(values, weights, (share + margin) * total, first, high)
    return first, second


@compiled(SUMS)
def _bracket(
    values: Any, weights: Any, share: Any, total: Any, low: Any, before: Any, held: Any, held_weights: Any
) -> Any:  # pragma: no cover
    """Values above and up to which the share is reached, and the weight up to the first of them.

    It is not reached by `before`, the weight up to `low`.
    """
    n, kind = values.size, values.dtype.type
    infinite, target = kind(np.inf), share * total
    high, upto = infinite, total
    if n < FEWEST:
        return low, high, before
    n_sampled = 0
    for j in range(0, n, n // SAMPLED):
        held[n_sampled], held_weights[n_sampled] = values[j], weights[j]
        n_sampled += 1
    first, second = _pivots_of_sample(held[:n_sampled], held_weights[:n_sampled], share)
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


@compiled(SUMS)
def _gather(
    values: Any, weights: Any, low: Any, high: Any, held: Any, held_weights: Any
) -> int:  # pragma: no cover
    """Copy what is above `low` and at most `high`; returns how many. There has to be room for one more."""
    n, whole = 0, values.size - values.size % STRIP
    for start in range(0, whole, STRIP):
        some = np.int32(0)
        for j in range(STRIP):
            some |= np.int32(values[start + j] > low) & np.int32(values[start + j] <= high)
        if some:
            for j in range(start, start + STRIP):  # a branch would often be guessed wrong
                held[n], held_weights[n] = values[j], weights[j]
                n += (values[j] > low) & (values[j] <= high)
    for j in range(whole, values.size):
        held[n], held_weights[n] = values[j], weights[j]
        n += (values[j] > low) & (values[j] <= high)
    return n


@compiled(SUMS)
def _in_fullest(
    values: Any, weights: Any, before: Any, target: Any, bins: Any, sums: Any
) -> Any:  # pragma: no cover
    """Move the values of the histogram's bin in which the target is reached to the front.

    Returns
    -------
    How many they are, and the weight before them.
    """
    low, high = _ends(values)
    if not low < high:
        return 1, before
    kind = values.dtype.type
    per_unit = kind(min(N_BINS * (1 - 1e-6) / (high - low), np.finfo(values.dtype).max))
    for j in range(values.size):
        bins[j] = np.int32((values[j] - low) * per_unit)
    sums[:] = 0
    for j in range(values.size):  # in lanes: an addition need not wait for the last one to the same bin
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


@compiled(SUMS)
def weighted_quantiles_of(values: Any, weights: Any, shares: Any, out: Any) -> None:  # pragma: no cover
    """See :func:`mnndask.kernels.quantiles.weighted_quantiles`; `out` holds the least ones to begin with."""
    n = values.shape[1]
    held, held_weights = np.empty(n + 1, values.dtype), np.empty(n + 1, weights.dtype)
    bins, sums = np.empty(n, np.int32), np.empty((N_LANES, N_BINS))
    infinite = values.dtype.type(np.inf)
    for i in range(values.shape[0]):
        v, w = values[i], weights[i]
        low = v.dtype.type(out[i])
        if low > out[i]:
            low = np.nextafter(low, -infinite)
        before, total = weights_up_to(v, w, low, infinite)
        target = shares[i] * total
        if target <= 0:
            out[i] = max(out[i], v.min())
            continue
        if before >= target:
            continue
        low, high, before = _bracket(v, w, shares[i], total, low, before, held, held_weights)
        n_held = _gather(v, w, low, high, held, held_weights)
        if n_held == 0:  # the share is never reached
            out[i] = max(out[i], v.max())
            continue
        if n_held > FEW:
            n_held, before = _in_fullest(held[:n_held], held_weights[:n_held], before, target, bins, sums)
        order = np.argsort(held[:n_held])
        found = held[order[-1]]
        for j in order:
            before += held_weights[j]
            if before >= target:
                found = held[j]
                break
        out[i] = max(out[i], found)
