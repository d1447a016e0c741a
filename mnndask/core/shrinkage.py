"""Anchor vectors that average both sides of their pairs, and are shrunk by their own noise (steps 4', 4'').

The vector of an anchor a is ``v_a = mean of R'_j over its partners j, minus P'_a``. R' and P' are means over
the nearest cells of the own side. Smoothed at the anchor, it is a difference of two weighted means of cells,
whose noise is estimated from the cells' spread and from the weights that the cells get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask._blocks import row_blocks
from mnndask._typing import Floats, Matrix, Rows
from mnndask.core.arrays import Points, row_dots
from mnndask.core.kernels.refinement import LANES, sum_squared_weights
from mnndask.core.neighborhoods import Neighborhoods
from mnndask.core.node import Side
from mnndask.core.pairs import Pairs
from mnndask.core.smoothing import anchor_vectors, pair_means, smoothing_weights
from mnndask.core.workspace import Workspace

FEWEST_FREE = 0.05  # share of a weighted mean that more than one cell makes up, at least


@dataclass(frozen=True)
class AveragedPairs:
    """Pairs of neighbourhoods in the place of pairs of cells; the same in all genes.

    Parameters
    ----------
    pairs
        The pairs, with cells counted among those of `partners` and `anchors`.
    partners, anchors
        Neighbourhoods of the reference's cells, and of the batch's, that are in a pair.
    """

    pairs: Pairs
    partners: Neighborhoods
    anchors: Neighborhoods

    @classmethod
    def of(cls, pairs: Pairs, partners: Neighborhoods, anchors: Neighborhoods) -> AveragedPairs:
        """Average over neighbourhoods of all cells that are in a pair."""
        ref_rows = np.searchsorted(partners.rows, pairs.ref_rows)
        new_rows = np.searchsorted(anchors.rows, pairs.new_rows)
        counted = replace(pairs, ref_rows=ref_rows, new_rows=new_rows, n_reference=len(partners.rows))
        return cls(counted, partners, anchors)

    def of_nodes(self, pairs: Pairs, ref: Side, new: Side) -> AveragedPairs:
        """The same, with cells counted among all of the sides' nodes, as in `pairs`."""
        partners = self.partners if ref.used is None else self.partners.among(ref.used)
        anchors = self.anchors if new.used is None else self.anchors.among(new.used)
        return AveragedPairs.of(pairs, partners, anchors)

    @property
    def means(self) -> sparse.csr_array:
        """Matrix that averages over each anchor's partners, shape ``(n_anchors, n_partners)``."""
        return pair_means(self.pairs.ref_rows, self.pairs.new_rows, len(self.partners.rows))

    def differences(self, ref: tuple[Rows, Floats], new: tuple[Rows, Floats], n_threads: int) -> Floats:
        """Anchor vectors, of some of the cells of both sides: their rows, ascending, and the cells."""
        of_ref, out = self.partners.means_of(*ref, n_threads), self.anchors.means_of(*new, n_threads)
        means = self.means.astype(out.dtype)
        np.subtract(means @ of_ref, out, out=out)
        return out


@dataclass(frozen=True)
class AveragedVectors:
    """Anchor vectors in one space, and the anchors' neighbourhood means, from which they lead.

    Parameters
    ----------
    vectors
        Shape ``(n_anchors, n_genes)``.
    starts
        Means of the anchors' neighbourhoods.
    """

    vectors: Matrix
    starts: Points

    @classmethod
    def of(
        cls,
        work: Workspace,
        averaged: AveragedPairs,
        sides: tuple[Points, Points],
        name: str,
        shortest: NDArray[np.float64],
    ) -> AveragedVectors:
        """Vectors in the space of the two sides: all cells of the reference, and the batch's fitted cells."""
        partners = averaged.partners.means(work, f"partners-{name}", sides[0])
        anchors = averaged.anchors.means(work, f"averaged-{name}", sides[1])
        vectors = anchor_vectors(work, f"vectors-{name}", anchors, partners, averaged.pairs, shortest)
        return cls(vectors, anchors)


@dataclass(frozen=True)
class Smoothing:
    """What smoothing weights are made of, as of :class:`mnndask.core.step.MergeStep`."""

    anchors: Points
    log_density: NDArray[np.float64]
    sigma: float


def shrink_factors(
    work: Workspace,
    averaged: AveragedPairs,
    found: AveragedVectors,
    sides: tuple[Points, Points],
    smoothing: Smoothing,
    strength: float,
) -> NDArray[np.float64]:
    """Factors of the anchors' vectors, from 0 (noise) to 1, shape ``(n_anchors,)`` (step 4'').

    With w an anchor's smoothing weights and t, u what they put on the cells of each side: the noise of the
    smoothed vector V is ``s q / (1 - q)``, summed over both sides, where ``q = sum t²`` and s is the weighted
    variance of the cells. The factor is ``1 - strength * noise / |V|²``, and never below 0.

    Parameters
    ----------
    averaged
        Pairs of neighbourhoods.
    found
        Their vectors in *in* space.
    sides
        All cells of the reference and the batch's fitted cells, in *in* space.
    smoothing
        Anchors, their densities and the bandwidth.
    strength
        How much of the noise counts; 0 for none.
    """
    anchors, means, order = smoothing.anchors, averaged.means, averaged.anchors.order
    back = means.T.tocsr()[averaged.partners.order][:, order].astype(work.dtype)
    on_new, on_ref = _Spread.over(averaged.anchors), _Spread.over(averaged.partners)
    squares = np.column_stack(
        [
            means @ averaged.partners.mean_values(sides[0].squared),
            averaged.anchors.mean_values(sides[1].squared),
        ]
    )
    columns = 5 * len(anchors) + 3 * anchors.X.shape[1]  # weights, also in double precision and in order
    rows_at_once = max(LANES, work.block_bytes // (columns * work.dtype.itemsize))

    def noise(rows: slice) -> NDArray[np.float64]:
        """Shrink factors of some anchors."""
        weights = smoothing_weights(anchors[rows], anchors, smoothing.log_density, smoothing.sigma)
        V, start = (_product(weights, X, anchors.tile) for X in (found.vectors, found.starts.X))
        variances = weights @ squares
        variances[:, 0] -= row_dots(start + V, start + V)
        variances[:, 1] -= row_dots(start, start)
        noise = np.zeros(len(weights))
        for part in row_blocks(len(weights), LANES):
            on_anchors = _in_lanes(weights[part], order)
            q = on_ref.sum_of_squares(back @ on_anchors), on_new.sum_of_squares(on_anchors)
            for side, shares in enumerate(q):
                own = shares[: part.stop - part.start]
                spread = np.maximum(variances[part, side], 0)
                noise[part] += spread * own / np.maximum(1 - own, FEWEST_FREE)
        return _factors(noise, row_dots(V, V), strength)

    def one(at: slice) -> NDArray[np.float64]:
        blocks = row_blocks(at.stop - at.start, rows_at_once)
        return np.concatenate([noise(slice(at.start + b.start, at.start + b.stop)) for b in blocks])

    return np.concatenate(work.map("shrink", len(anchors), columns, one, counts=1))


def _factors(
    noise: NDArray[np.float64], lengths: NDArray[np.float64], strength: float
) -> NDArray[np.float64]:
    """One minus the share of noise in squared lengths, not below 0; without noise, 1."""
    noise = strength * noise
    share = np.divide(noise, lengths, out=np.full(len(noise), np.inf), where=lengths > noise)
    return np.where(noise > 0, np.maximum(0, 1 - share), 1.0)


@dataclass(frozen=True)
class _Spread:
    """Spreads weights of neighbourhoods, which are in their order, over the cells that are in any of them.

    Parameters
    ----------
    starts, holders
        The neighbourhoods that each cell is in, cell after cell, and where each cell's begin, with the end.
        Cells follow their first neighbourhoods.
    n_members
        Cells of a neighbourhood, among which its weight is divided.
    """

    starts: Rows
    holders: NDArray[np.integer]
    n_members: int

    @classmethod
    def over(cls, neighborhoods: Neighborhoods) -> _Spread:
        members = neighborhoods.members[neighborhoods.order]
        cells, first, of_member = np.unique(members, return_index=True, return_inverse=True)
        ranks = np.empty(len(cells), np.intp)  # of cells, by their first neighbourhoods
        ranks[np.argsort(first)] = np.arange(len(cells))
        by_cell = np.argsort(ranks[of_member.ravel()], kind="stable")
        holders = (by_cell // members.shape[1]).astype(members.dtype)
        counts = np.bincount(ranks[of_member.ravel()])
        return cls(np.concatenate([[0], np.cumsum(counts)]), holders, members.shape[1])

    def sum_of_squares(self, weights: Floats) -> NDArray[np.float64]:
        """Sum of the squared weights of cells, for each column of the neighbourhoods' weights."""
        out = np.empty(LANES)
        sum_squared_weights(weights, self.starts, self.holders, out)
        out /= self.n_members**2
        return out


def _in_lanes(weights: Floats, order: Rows) -> Floats:
    """Rows as columns, padded with zeros; what were columns are in that order."""
    out = np.zeros((len(order), LANES), weights.dtype)
    out[:, : len(weights)] = weights[:, order].T
    return out


def _product(weights: Floats, X: Matrix, tile: int | None) -> Floats:
    """Inner product with a matrix that is read tile by tile."""
    parts: Sequence[Floats] = [weights[:, at] @ X[at] for at in row_blocks(len(X), tile)]
    return np.sum(parts, axis=0) if len(parts) > 1 else parts[0]


def shrink(work: Workspace, vectors: Matrix, factors: NDArray[np.float64]) -> None:
    """Multiply anchor vectors by their factors, in place."""

    def one(at: slice) -> None:
        vectors[at] = vectors[at] * factors[at].astype(vectors.dtype)[:, None]

    work.map("shrink", len(vectors), 2 * vectors.shape[1], one)
