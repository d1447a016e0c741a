"""Warn of expression values that the method does not expect: counts, untransformed or z-scored values.

A few of the fitted cells suffice, which were read for the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnndask._typing import Floats
from mnndask.core.fit_cells import FitCells
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.errors import warn

CELLS = 256  # of each batch
VALUES = 2**20  # of all batches
FEWEST_CELLS = 8  # of each batch
FEWEST_VALUES = 100
LARGE_COUNT = 8  # smaller integers may be categories, ranks or binary values
LARGEST_LOG = 30.0  # log2 of a thousand million
NEGATIVE = 0.05  # share of values from which they are no rounding
CENTRED = 0.5  # median over genes of |mean| / standard deviation, below which values are centred

LOGNORMALISE = "sc.pp.normalize_total(adata), sc.pp.log1p(adata)"


@dataclass(frozen=True)
class _Values:
    """Some values of a batch, and what they look like."""

    name: str
    X: Floats

    @property
    def largest(self) -> float:
        return float(self.X.max(initial=0))

    @property
    def negative(self) -> float:
        return float((self.X < 0).mean()) if self.X.size else 0.0

    @property
    def are_counts(self) -> bool:
        return not self.negative and self.largest >= LARGE_COUNT and bool((np.floor(self.X) == self.X).all())

    @property
    def are_untransformed(self) -> bool:
        return not self.are_counts and not self.negative and self.largest > LARGEST_LOG


def warn_of_values(cells: Sequence[FitCells], names: Sequence[str], spaces: GeneSpaces) -> None:
    """Warn of values that are not log-transformed, and of centred values that are to be normalised.

    Parameters
    ----------
    cells, names
        Fitted cells of each batch, and its name.
    spaces
        Says which genes are read, and whether cells are divided by their length.
    """
    of_values = VALUES // max(1, spaces.n_near * len(cells))
    few = slice(0, max(FEWEST_CELLS, min(CELLS, of_values)))
    batches = [_Values(name, own.near(spaces, few)) for name, own in zip(names, cells, strict=True)]
    batches = [batch for batch in batches if batch.X.size >= FEWEST_VALUES]
    if not batches:
        return
    counts = [batch for batch in batches if batch.are_counts]
    if counts:
        warn(
            f"{_named(counts)} like raw counts: integers up to {_largest(counts)}.",
            f"Give log-normalised values ({LOGNORMALISE}), or the layer that has them: layer=...",
        )
    large = [batch for batch in batches if batch.are_untransformed]
    if large:
        warn(
            f"{_named(large)} not log-transformed: values up to {_largest(large)}.",
            "Give log-transformed values (sc.pp.log1p(adata)), or the layer that has them: layer=...",
        )
    if spaces.cos_norm_in or spaces.cos_norm_out:
        _warn_of_centred(batches)


def _warn_of_centred(batches: Sequence[_Values]) -> None:
    """Warn of z-scored or otherwise centred values: a cell's length then says nothing of its depth."""
    negative = [batch for batch in batches if batch.negative > NEGATIVE]
    if not negative:
        return
    X = np.concatenate([batch.X for batch in batches], dtype=np.float64)
    X /= max(1.0, float(np.abs(X).max(initial=0)))  # squares of huge values would overflow
    deviation = X.std(axis=0)
    varying = deviation > 0
    if varying.any() and np.median(np.abs(X.mean(axis=0)[varying]) / deviation[varying]) < CENTRED:
        share = max(batch.negative for batch in negative)
        warn(
            f"{_named(negative)} z-scored or centred ({share:.0%} are negative), and cosine normalisation "
            "divides cells by their length.",
            "Give the values before sc.pp.scale, or set cos_norm_in=False and cos_norm_out=False.",
        )


def _named(batches: Sequence[_Values]) -> str:
    """Name the batches as a subject, with its verb."""
    names = [repr(batch.name) for batch in batches]
    if len(names) == 1:
        return f"The values of batch {names[0]} look"
    if len(names) > 4:
        return f"The values of {len(names)} batches look"
    return f"The values of batches {', '.join(names[:-1])} and {names[-1]} look"


def _largest(batches: Sequence[_Values]) -> str:
    return f"{max(batch.largest for batch in batches):,.6g}"
