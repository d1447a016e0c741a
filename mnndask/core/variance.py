"""Variance adjustment (definition, step 8): lengthen a correction until the cell keeps its rank.

For a block of cells, this is a reduction over tiles of the batch and of the reference. Each tile gives a
small sum (:class:`.BatchWeights`, :class:`.Tally`), sums of tiles add up in any order, and the factors
follow.
:func:`variance_factors` does all of it in one process; a scheduler may spread the tiles over several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import cached_blocks
from mnndask._typing import Floats
from mnndask.core.arrays import Points, row_dots, unit_rows
from mnndask.core.batch_weights import BatchWeights, add_batch_weights
from mnndask.core.distances import Tolerances, bits_of, inverse_sigma, squared_distance_bound
from mnndask.core.kernels.buffers import buffer, products
from mnndask.core.kernels.few_dims import has_few_dims, packed, padded, weigh_by_lines_in_few_dims
from mnndask.core.kernels.pairs import settle_small, sum_weights, weigh_by_lines
from mnndask.core.kernels.quantiles import weighted_quantiles
from mnndask.core.quantile_search import QuantileSearch, Tally, add_tallies

Visit: TypeAlias = Callable[[slice, Floats, Floats], None]
PAIR_COPIES = 3  # values in memory for each cell and other cell: projection, weight and distance
SAMPLED = 256  # reference cells whose projections give the first bracket of the quantile


def variance_factors(
    lines: Lines,
    new: Points,
    ref: Points,
    inner: Floats | None = None,
    distances: Floats | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Factor by which each cell's correction vector is lengthened.

    The cells of the batch and of the reference are projected on the cell's correction vector, and weighted by
    their distance to the line through the cell in that direction. The cell has a rank in its own batch: the
    share of the batch's weight at or below it. The vector is lengthened until it reaches the quantile of the
    reference with that share.

    Parameters
    ----------
    lines
        Cells to correct, and their correction vectors.
    new, ref
        Fitted cells of the batch and of the reference, in the same space.
    inner
        Precomputed inner products of the cells and `new`, which must be one tile; overwritten.
    distances
        Precomputed squared distances of the cells to `ref`, which must be one tile; overwritten.

    Returns
    -------
    Factors of at least 1, and whether rounding may decide them, as a sum of weights nearly equals a rank or a
    cell lies nearly beside another; see :mod:`mnndask.core.doubt`. Shapes ``(n_cells,)``.

    References
    ----------
    Haghverdi et al. (2018), Methods, "Variance adjustment". Two undefined cases are settled: a vector of
    length 0 has factor 1, and a cell below all fitted cells of its batch aims at the reference's lowest
    projection.
    """
    batch_weights = add_batch_weights(
        (lines.batch_weights(tile, inner) for _, tile in new.tiles()), lines.sigma
    )
    if ref.whole:
        quantiles, doubtful = lines.quantiles(lines.target_rank(batch_weights), ref, distances)
        return lines.factors(quantiles), doubtful | batch_weights.doubtful
    search = lines.search(batch_weights, ref)
    while not search.done:
        search = search.after(add_tallies(_tallies(lines, search, ref), lines.sigma))
    return lines.factors(search.found), search.doubtful


def _tallies(lines: Lines, search: QuantileSearch, ref: Points) -> Iterator[Tally]:
    for _, tile in ref.tiles():
        yield lines.tally(search, tile)


@dataclass(frozen=True)
class Lines:
    """Lines through cells along their correction vectors, on which other cells are projected.

    Parameters
    ----------
    cells
        A block of cells.
    directions, lengths
        Directions and lengths of their correction vectors.
    own
        Projection of each cell on its own direction.
    sigma
        Bandwidth: weights are ``exp(-squared distance to the line / sigma)``.
    scale
        Largest norm of a fitted cell; tolerances are relative to it.
    tolerances
        Those for the cells' precision.
    """

    cells: Points
    directions: Floats
    lengths: NDArray[np.float64]
    own: NDArray[np.float64]
    sigma: float
    scale: float
    tolerances: Tolerances

    @classmethod
    def of(
        cls,
        cells: Points,
        vectors: Floats,
        sigma: float,
        scale: float,
        tolerances: Tolerances | None = None,
    ) -> Lines:
        """Lines of cells along their correction vectors."""
        directions, lengths = unit_rows(vectors)
        own = row_dots(cells.X, directions)
        chosen = tolerances or Tolerances.of(directions.dtype)
        return cls(cells, directions, lengths, own, sigma, scale, chosen)

    @property
    def margin(self) -> float:
        """Share of a total weight that counts as rounding. Weights are as wrong as distances over sigma."""
        return self.tolerances.share * max(1.0, self.scale**2 / self.sigma)

    def project(
        self,
        others: Points,
        precomputed: Floats | None = None,
        *,
        are_squared: bool = False,
        then: Visit | None = None,
    ) -> tuple[Floats, Floats, Floats]:
        """Project other cells on each cell's line, relative to the cell, and weight them.

        Parameters
        ----------
        others
            Other cells, in memory.
        precomputed
            Inner products of cells and others, or their squared distances if `are_squared`; overwritten.
        then
            Is called on blocks of cells, as by :meth:`visit`.

        Returns
        -------
        Projections and weights, shape ``(n_cells, n_others)``, the largest weight of a row being 1; and the
        smallest squared distance to each line, to which weights are relative.
        """
        projections = products("projections", self.directions, others.X)
        weights = products("weights", self.cells.X, others.X) if precomputed is None else precomputed
        own, rate, least = self._terms(others)
        bits = bits_of(projections)
        for rows in cached_blocks(*projections.shape):
            weigh_by_lines(
                projections[rows],
                weights[rows],
                precomputed is not None and are_squared,
                own[rows],
                self.cells.squared[rows],
                others.squared,
                rate,
                least[rows],
                bits,
            )
            if then is not None:
                then(rows, projections[rows], weights[rows])
        return projections, weights, least

    def visit(
        self, others: Points, then: Visit, precomputed: Floats | None = None, *, are_squared: bool = False
    ) -> Floats:
        """Call `then` on blocks of cells, the others' projections and weights, while they are in cache.

        The parameters are those of :meth:`project`.

        Returns
        -------
        Smallest squared distance to each line.
        """
        if precomputed is not None or not has_few_dims(others.X):
            return self.project(others, precomputed, are_squared=are_squared, then=then)[2]
        own, rate, least = self._terms(others)
        sides = padded("directions", self.directions), padded("cells", self.cells.X)
        packed_others = packed("others", others.X)
        for rows in cached_blocks(len(own), len(others)):
            shape = rows.stop - rows.start, len(others)
            projections, weights = (buffer(name, shape, own.dtype) for name in ("projections", "weights"))
            weigh_by_lines_in_few_dims(
                *(side[rows.start :] for side in sides),
                packed_others,
                own[rows],
                self.cells.squared[rows],
                others.squared,
                rate,
                projections,
                weights,
                least[rows],
                bits_of(projections),
            )
            then(rows, projections, weights)
        return least

    def _terms(self, others: Points) -> tuple[Floats, Any, Floats]:
        """Cells' own projections, the factor in the exponent, and a buffer for the smallest distances."""
        dtype = self.directions.dtype
        rate = inverse_sigma(self.sigma, squared_distance_bound(self.cells, others), dtype)
        return self.own.astype(dtype), rate, np.empty(len(self.cells), dtype)

    def batch_weights(self, new: Points, inner: Floats | None = None) -> BatchWeights:
        """Weights of a tile of the batch's fitted cells."""
        total, below = np.empty((2, len(self.cells)))
        undecided = np.empty(len(self.cells), np.bool_)
        doubtful, limit, near = (
            self.directions.dtype.type(tolerance * self.scale)
            for tolerance in (self.tolerances.doubtful, self.tolerances.projection, self.tolerances.beside)
        )

        def count(rows: slice, projections: Floats, weights: Floats) -> None:
            if doubtful:  # rounding may change the sign of a small difference
                sides = self.cells.X[rows], self.directions[rows], new.X
                settle_small(projections, doubtful, self.lengths[rows], *sides)
            sum_weights(projections, weights, limit, near, total[rows], below[rows], undecided[rows])

        return BatchWeights(self.visit(new, count, inner), total, below, undecided)

    def quantiles(
        self, shares: NDArray[np.float64], ref: Points, distances: Floats | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Projections at which the reference's weight reaches the shares, at least the vectors' lengths.

        And whether rounding may decide them. All of the reference is in memory.
        """
        out, doubtful = np.empty(len(self.cells)), np.empty(len(self.cells), np.bool_)

        def find(rows: slice, projections: Floats, weights: Floats) -> None:
            out[rows], doubtful[rows] = weighted_quantiles(
                projections, weights, shares[rows], self.lengths[rows], self.margin
            )

        self.visit(ref, find, distances, are_squared=True)
        return out, doubtful

    def target_rank(self, weights: BatchWeights) -> NDArray[np.float64]:
        """Rank of each cell in its batch: the share of the reference's weight that its vector must reach.

        Lowered by a tolerance, so that rounding of the sums does not select the next larger projection.
        """
        out: NDArray[np.float64] = weights.below / weights.total - self.tolerances.reach
        return out

    def search(self, weights: BatchWeights, ref: Points) -> QuantileSearch:
        """Begin the search for the reference's quantiles, around the projections of its first cells."""
        tile = ref.tile or len(ref)
        sample = self.project(ref[: min(SAMPLED, tile)])[0]
        rank = self.target_rank(weights)
        return QuantileSearch.around(rank, sample, tile, weights.doubtful, self.margin)

    def tally(self, search: QuantileSearch, ref: Points) -> Tally:
        """Tally of a tile of the reference."""
        return search.tally(*self.project(ref))

    def factors(self, quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
        """Factors by which the vectors reach the quantiles, at least 1."""
        return np.maximum(
            1.0, np.divide(quantiles, self.lengths, out=np.ones_like(self.lengths), where=self.lengths > 0)
        )
