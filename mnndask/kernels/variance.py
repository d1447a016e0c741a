"""Variance adjustment (definition, step 8): how far a correction must reach to keep a cell's rank.

For one block of cells it is a reduction over tiles of the two sides: a small partial for each tile, partials
that add up in any order, and a last step that makes the factors. :func:`variance_factors` does it all in one
process; a scheduler may spread the partials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.compiled import settle_small, sum_weights, weigh_by_lines
from mnndask.kernels.distances import (
    Floats,
    Points,
    Tolerances,
    bits_of,
    decay,
    farthest,
    row_dots,
    strips,
    to_log_weights,
)
from mnndask.kernels.quantiles import QuantileSearch, Tally, add_tallies, weighted_quantiles
from mnndask.kernels.rooms import products, room
from mnndask.kernels.thin import is_thin, packed, padded, weigh_thin_lines

Visit: TypeAlias = Callable[[slice, Floats, Floats], None]

SAMPLED = 256  # reference cells by whose projections a search of the quantile begins


def variance_factors(
    cells: Points,
    vectors: Floats,
    new: Points,
    ref: Points,
    sigma: float,
    scale: float,
    made: Floats | None = None,
    distances: Floats | None = None,
) -> NDArray[np.float64]:
    """Factor by which each cell's correction vector is lengthened.

    A cell's share of the batch below it, along its correction vector, is looked up in the reference: the
    vector must reach at least to the reference's quantile of that share. Other cells count by their distance
    from the line on which the cell moves.

    Parameters
    ----------
    cells
        Cells to correct.
    vectors
        Their correction vectors, shape ``(n_cells, n_genes)``.
    new, ref
        Sketched cells of the batch and of the reference, in the same space.
    sigma
        Divisor of the squared distance to the line.
    scale
        Largest norm among sketched cells; tolerances are relative to it.
    made
        Products of `cells` and `new`, if they are at hand; they are overwritten.
    distances
        Squared distances of `cells` and `ref`; likewise.

    Returns
    -------
    Factors of at least 1, shape ``(n_cells,)``.

    References
    ----------
    Haghverdi et al. (2018), Methods, "Variance adjustment"; with the two undefined cases settled: a vector of
    no length keeps it, and a cell below all of its batch aims at the reference's lowest projection.
    """
    lines = Lines.of(cells, vectors, sigma, scale)
    if new.tile is None:
        share = lines.share_of(new, made)
    else:
        share = add_shares((lines.share_of(tile) for _, tile in new.tiles()), sigma)
    if ref.tile is None:
        return lines.factors(lines.reach(lines.sought(share), ref, distances))
    search = lines.search(share, ref)
    while not search.done:
        search = search.after(add_tallies(_tallies(lines, search, ref), sigma))
    return lines.factors(search.found)


def _tallies(lines: Lines, search: QuantileSearch, ref: Points) -> Iterator[Tally]:
    for _, tile in ref.tiles():
        yield lines.tally(search, tile)


@dataclass(frozen=True)
class Share:
    """Weight of the batch's cells around each line, and of those among them that lie at or below the cell.

    Parameters
    ----------
    least
        Squared distance to which weights are relative, shape ``(n_cells,)``.
    total, below
        Weights, shape ``(n_cells,)``.
    """

    least: Floats
    total: NDArray[np.float64]
    below: NDArray[np.float64]

    def plus(self, other: Share, sigma: float) -> Share:
        """Share of both tiles."""
        least = np.minimum(self.least, other.least)
        own, its = (np.exp(to_log_weights(part.least - least, sigma)).astype(float) for part in (self, other))
        return Share(least, self.total * own + other.total * its, self.below * own + other.below * its)


def add_shares(shares: Iterable[Share], sigma: float) -> Share:
    """Share of all tiles."""
    return reduce(lambda a, b: a.plus(b, sigma), shares)


@dataclass(frozen=True)
class Lines:
    """The lines on which cells move, and how other cells lie to them.

    Parameters
    ----------
    cells
        In memory.
    directions, lengths
        Of their correction vectors.
    own
        Each cell's own projection.
    sigma, scale
        As in :func:`variance_factors`.
    """

    cells: Points
    directions: Floats
    lengths: NDArray[np.float64]
    own: NDArray[np.float64]
    sigma: float
    scale: float

    @classmethod
    def of(cls, cells: Points, vectors: Floats, sigma: float, scale: float) -> Lines:
        """Lines of cells along their correction vectors."""
        directions, lengths = unit_rows(vectors)
        return cls(cells, directions, lengths, row_dots(cells.X, directions), sigma, scale)

    @property
    def tolerances(self) -> Tolerances:
        """Those of the cells' precision."""
        return Tolerances.of(self.directions.dtype)

    def look_at(
        self,
        others: Points,
        made: Floats | None = None,
        *,
        are_squared: bool = False,
        then: Visit | None = None,
    ) -> tuple[Floats, Floats, Floats]:
        """How far ahead of each cell the others lie on its line, and their weights (a row's largest is 1).

        Products of cells and others, or their squared distances, are overwritten if they are `made` already.
        `then` is called as by :meth:`visit`.

        Returns
        -------
        Both of shape ``(n_cells, n_others)``; and the least squared distance to each line, to which weights
        are relative.
        """
        ahead = products("ahead", self.directions, others.X)
        weights = products("weights", self.cells.X, others.X) if made is None else made
        own, rate, least = self._terms(others)
        bits = bits_of(ahead)
        for rows in strips(*ahead.shape):
            weigh_by_lines(
                ahead[rows],
                weights[rows],
                made is not None and are_squared,
                own[rows],
                self.cells.squared[rows],
                others.squared,
                rate,
                least[rows],
                bits,
            )
            if then is not None:
                then(rows, ahead[rows], weights[rows])
        return ahead, weights, least

    def visit(
        self, others: Points, then: Visit, made: Floats | None = None, *, are_squared: bool = False
    ) -> Floats:
        """Call `then` on a few cells, how far ahead of them the others lie, and weights, all in cache.

        What is `made` is as in :meth:`look_at`.

        Returns
        -------
        Least squared distance to each line.
        """
        if made is not None or not is_thin(others.X):
            return self.look_at(others, made, are_squared=are_squared, then=then)[2]
        own, rate, least = self._terms(others)
        sides = padded("directions", self.directions), padded("cells", self.cells.X)
        theirs = packed("others", others.X)
        for rows in strips(len(own), len(others)):
            shape = rows.stop - rows.start, len(others)
            ahead, weights = (room(name, shape, own.dtype) for name in ("ahead", "weights"))
            weigh_thin_lines(
                *(side[rows.start :] for side in sides),
                theirs,
                own[rows],
                self.cells.squared[rows],
                others.squared,
                rate,
                ahead,
                weights,
                least[rows],
                bits_of(ahead),
            )
            then(rows, ahead, weights)
        return least

    def _terms(self, others: Points) -> tuple[Floats, Any, Floats]:
        """Cells' own projections, the exponent's factor, and room for the least distances."""
        dtype = self.directions.dtype
        rate = decay(self.sigma, farthest(self.cells, others), dtype)
        return self.own.astype(dtype), rate, np.empty(len(self.cells), dtype)

    def share_of(self, new: Points, made: Floats | None = None) -> Share:
        """Partial of the batch's own side."""
        total, below = np.empty((2, len(self.cells)))
        doubtful, limit = (
            self.directions.dtype.type(tolerance * self.scale)
            for tolerance in (self.tolerances.doubtful, self.tolerances.projection)
        )

        def count(rows: slice, ahead: Floats, weights: Floats) -> None:
            if doubtful:  # products cannot tell the signs of small differences
                sides = self.cells.X[rows], self.directions[rows], new.X
                settle_small(ahead, doubtful, self.lengths[rows], *sides)
            sum_weights(ahead, weights, limit, total[rows], below[rows])

        return Share(self.visit(new, count, made), total, below)

    def reach(
        self, shares: NDArray[np.float64], ref: Points, distances: Floats | None = None
    ) -> NDArray[np.float64]:
        """How far ahead the shares of the reference's weight are reached, at least the vectors' lengths.

        All of the reference is in memory.
        """
        out = np.empty(len(self.cells))

        def find(rows: slice, ahead: Floats, weights: Floats) -> None:
            out[rows] = weighted_quantiles(ahead, weights, shares[rows], self.lengths[rows])

        self.visit(ref, find, distances, are_squared=True)
        return out

    def sought(self, share: Share) -> NDArray[np.float64]:
        """Share of the reference's weight that is to be reached."""
        out: NDArray[np.float64] = share.below / share.total - self.tolerances.reach
        return out

    def search(self, share: Share, ref: Points) -> QuantileSearch:
        """Begin to look for the reference's quantiles, with some of its cells."""
        tile = ref.tile or len(ref)
        return QuantileSearch.around(self.sought(share), self.look_at(ref[: min(SAMPLED, tile)])[0], tile)

    def tally(self, search: QuantileSearch, ref: Points) -> Tally:
        """Partial of the reference's side."""
        return search.tally(*self.look_at(ref))

    def factors(self, reach: NDArray[np.float64]) -> NDArray[np.float64]:
        """Factors by which the vectors reach that far at least."""
        return np.maximum(
            1.0, np.divide(reach, self.lengths, out=np.ones_like(self.lengths), where=self.lengths > 0)
        )


def unit_rows(vectors: Floats) -> tuple[Floats, NDArray[np.float64]]:
    """Directions and lengths of row vectors, also of those whose squares would underflow."""
    largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)
    safe = np.where(largest > 0, largest, 1)
    directions = vectors / safe
    relative = np.sqrt(row_dots(directions, directions))
    directions /= np.where(relative > 0, relative, 1).astype(vectors.dtype)[:, None]
    return directions, relative * largest[:, 0]
