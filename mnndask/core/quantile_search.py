"""Weighted quantiles of many rows at once, where values come in tiles (definition, step 8).

In memory, :func:`mnndask.core.kernels.quantiles.weighted_quantiles` gives the same.

Weights below some split points bracket the quantile; only the values in the bracket are sorted. As weights
add up over tiles of values, the same works where the values of a row are never together in memory: round by
round, each of which visits all tiles, and keeps for each row no more than a histogram or a handful of values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import cached_blocks
from mnndask._typing import Floats
from mnndask.core.distances import to_log_weights
from mnndask.core.kernels.quantiles import Doubles

Counts = NDArray[np.intp]
BINS, FEWEST_BINS = 256, 16
MOST_GATHERED, FEWEST_GATHERED = 1024, 32  # values of a row that may be gathered
SLACK = 1e-3  # fraction of a bin by which a bracket is widened, so that rounding pushes no value out of it
HALVINGS = 64  # of a bracket, which is then narrower than rounding


def _histogram(
    values: Floats, weights: Floats, start: Floats, stop: Floats, n_bins: int
) -> tuple[NDArray[np.int32], Doubles, Counts]:
    """Bin of each value, and weights and numbers of values in the bins of each row.

    Bins cut the range from `start` to `stop`, which are in it; a first and a last one are for values outside.
    """
    width = (stop - start).astype(values.dtype)
    limit = np.finfo(values.dtype).max
    place = values - start.astype(values.dtype)[:, None]
    outside = (place < 0, values > stop[:, None])
    # Slightly less than n_bins / width, so that the end of the range falls into its last bin.
    with np.errstate(over="ignore"):  # values far outside a very narrow range overflow; they are set below
        per_unit = np.divide(n_bins * (1 - 1e-6), width, out=np.zeros_like(width), where=width > 0)
        place *= np.minimum(per_unit, limit)[:, None]
    bins = np.clip(place, 0, n_bins - 1, out=place).astype(np.int32)
    bins += 1
    bins[outside[0]] = 0
    bins[outside[1]] = n_bins + 1
    n = n_bins + 2
    flat: Counts = (bins + (np.arange(len(bins), dtype=np.intp) * n)[:, None]).ravel()
    sums = np.bincount(flat, weights=weights.ravel(), minlength=len(bins) * n).astype(np.float64)
    counts: Counts = np.bincount(flat, minlength=len(bins) * n)
    return bins, sums.reshape(-1, n), counts.reshape(-1, n)


def _bin_that_reaches(sums: Doubles, counts: Counts, target: Doubles) -> Counts:
    """First bin of each row that has values and at which the cumulative weight reaches the target."""
    cumulative = np.cumsum(sums, axis=1)
    reached = (cumulative >= target[:, None]) & (counts > 0)
    last = counts.shape[1] - 1 - np.argmax(counts[:, ::-1] > 0, axis=1)
    chosen: Counts = np.where(reached.any(axis=1), np.argmax(reached, axis=1), last)
    return chosen


def _first_to_reach(
    rows: Counts, values: Floats, weights: Floats, target: Doubles, rounding: Doubles
) -> tuple[Doubles, NDArray[np.bool_]]:
    """Of the values of each row, the first in ascending order that reaches the target, else the largest.

    And whether it would be another if the sum of weights differed by as much as rounding.

    Parameters
    ----------
    rows, values, weights
        An entry each value. A row without any gets NaN.
    target, rounding
        Shape ``(n_rows,)``.
    """
    order = np.lexsort((values, rows))
    rows, values, weights = rows[order], values[order], weights[order]
    n_values = np.bincount(rows, minlength=len(target))
    first = np.cumsum(n_values) - n_values
    # Each row's own sum: one over all rows would lose digits.
    own = np.zeros((len(target), n_values.max(initial=0)))
    own[rows, np.arange(len(rows)) - first[rows]] = weights
    beyond = np.cumsum(own, axis=1) - target[:, None]
    short = (beyond < 0).sum(axis=1)
    out = np.full(len(target), np.nan)
    some = n_values > 0
    out[some] = values[(first + np.minimum(short, n_values - 1))[some]]
    doubtful = (np.abs(beyond) < rounding[:, None]).any(axis=1) | (np.abs(target) < rounding)
    return out, doubtful & some


def rescaling(least: Floats, smaller: Floats, sigma: float) -> Doubles:
    """Factors that make weights relative to a smaller squared distance.

    In double precision: rounded, they would shift the balance between tiles.
    """
    out: Doubles = np.exp(to_log_weights(least.astype(np.float64) - smaller, sigma))
    return out


@dataclass(frozen=True)
class Tally:
    """What a tile of values says about each row's quantile; tallies add up.

    Parameters
    ----------
    least
        Squared distance to which weights are relative, shape ``(n_rows,)``.
    sums, counts
        Weights and numbers of values in each bin, shape ``(n_rows, n_bins + 2)``.
    low, high
        Smallest and largest value.
    rows, values, weights
        Gathered values; none while the bracket is wide.
    """

    least: Floats
    sums: Doubles
    counts: Counts
    low: Floats
    high: Floats
    rows: Counts
    values: Floats
    weights: Doubles

    def plus(self, other: Tally, sigma: float) -> Tally:
        """Tally of both tiles."""
        least = np.minimum(self.least, other.least)
        own, its = rescaling(self.least, least, sigma), rescaling(other.least, least, sigma)
        return Tally(
            least,
            self.sums * own[:, None] + other.sums * its[:, None],
            self.counts + other.counts,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.weights * own[self.rows], other.weights * its[other.rows]]),
        )


@dataclass(frozen=True)
class QuantileSearch:
    """Where the quantile of each row may lie, between two rounds.

    Parameters
    ----------
    share
        Of the total weight, shape ``(n_rows,)``.
    start, stop
        Bracket of each row.
    found
        Quantiles; NaN where they are still sought.
    doubtful
        Whether rounding may decide them.
    margin
        Share of the total weight that counts as rounding.
    n_bins
        Bins of a bracket in each round that narrows it.
    n_gathered
        Most values of a row that may be gathered.
    gathers
        Whether the next round collects the values in the brackets instead of narrowing the brackets.
    n_rounds
        Rounds done.
    """

    share: Doubles
    start: Floats
    stop: Floats
    found: Doubles
    doubtful: NDArray[np.bool_]
    margin: float
    n_bins: int
    n_gathered: int
    gathers: bool = False
    n_rounds: int = 0

    @classmethod
    def around(
        cls,
        share: Doubles,
        sample: Floats,
        tile: int,
        doubtful: NDArray[np.bool_] | None = None,
        margin: float = 0,
    ) -> QuantileSearch:
        """Begin with the range of a sample of values, widened by half; a good sample saves rounds.

        `tile` is the number of values in a tile: a tally is no larger. Rows whose share is doubtful have
        doubtful quantiles.
        """
        low, high = sample.min(axis=1), sample.max(axis=1)
        half = (high - low) / 2
        return cls(
            share,
            low - half,
            high + half,
            np.full(len(share), np.nan),
            np.zeros(len(share), np.bool_) if doubtful is None else doubtful,
            margin,
            n_bins=min(BINS, max(FEWEST_BINS, tile // 2)),
            n_gathered=min(MOST_GATHERED, max(FEWEST_GATHERED, 2 * tile)),
        )

    @property
    def most_rounds(self) -> int:
        """Rounds that make a bracket narrower than rounding; the first may move it instead."""
        return 1 + ceil(HALVINGS / log2(self.n_bins))

    @property
    def done(self) -> bool:
        """Whether all are found."""
        return not np.isnan(self.found).any()

    def tally(self, values: Floats, weights: Floats, least: Floats) -> Tally:
        """Look at a tile of values, shape ``(n_rows, n_values)``; `least` as in :class:`Tally`."""
        n_bins = 1 if self.gathers else self.n_bins
        sums = np.empty((len(values), n_bins + 2))
        counts = np.empty(sums.shape, np.intp)
        gathered = [np.empty((2, 0), np.intp)]
        for block in cached_blocks(*values.shape):
            bins, sums[block], counts[block] = _histogram(
                values[block], weights[block], self.start[block], self.stop[block], n_bins
            )
            if self.gathers:
                found = np.nonzero((bins == 1) & np.isnan(self.found[block])[:, None])
                gathered.append(np.stack([found[0] + block.start, found[1]]))
        rows, cols = np.hstack(gathered)
        return Tally(
            least,
            sums,
            counts,
            values.min(axis=1),
            values.max(axis=1),
            rows,
            values[rows, cols],
            weights[rows, cols].astype(np.float64),
        )

    def after(self, tally: Tally) -> QuantileSearch:
        """Next round, from the tally of all tiles."""
        total = tally.sums.sum(axis=1)
        target = self.share * total
        if self.gathers:
            found, doubtful = _first_to_reach(
                tally.rows, tally.values, tally.weights, target - tally.sums[:, 0], self.margin * total
            )
            found = np.where(np.isnan(self.found), found, self.found)
            found = np.where(np.isnan(found), self.start, found)
            return replace(self, found=found, doubtful=self.doubtful | doubtful)
        chosen = _bin_that_reaches(tally.sums, tally.counts, target)
        width = (self.stop - self.start) / self.n_bins
        start = self.start + ((chosen - 1 - SLACK) * width).astype(width.dtype)
        stop = self.start + ((chosen + SLACK) * width).astype(width.dtype)
        before, beyond = chosen == 0, chosen == self.n_bins + 1
        start = np.maximum(np.where(before, tally.low, start), tally.low)
        stop = np.minimum(np.where(beyond, tally.high, stop), tally.high)
        many = tally.counts[np.arange(len(chosen)), chosen] > self.n_gathered
        # Of brackets that are narrower than rounding, take the start.
        spent = many & (self.n_rounds + 1 >= self.most_rounds)
        found = np.where(spent & np.isnan(self.found), start, self.found)
        return replace(
            self,
            start=start,
            stop=stop,
            found=found,
            gathers=not (many & np.isnan(found)).any(),
            n_rounds=self.n_rounds + 1,
        )


def add_tallies(tallies: Iterable[Tally], sigma: float) -> Tally:
    """Tally of all tiles."""
    return reduce(lambda a, b: a.plus(b, sigma), tallies)
