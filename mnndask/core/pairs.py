"""Mutual nearest neighbours (definition, step 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask._blocks import block_rows, row_blocks
from mnndask._progress import counted_blocks, current_line
from mnndask._threads import map_blocks, shared_blocks
from mnndask._typing import Floats, Rows
from mnndask.core.arrays import Points, tile_size
from mnndask.core.neighbors import (
    Smallest,
    nearest_in_double,
    nearest_values,
    searched,
    smallest_both_ways,
    without_doubt,
)
from mnndask.core.workspace import Workspace

Side: TypeAlias = tuple[Points, Points, NDArray[np.float64]]  # queries, others, the queries' tolerances


@dataclass(frozen=True)
class Pairs:
    """Pairs of cells that are mutual nearest neighbours.

    Parameters
    ----------
    ref_rows, new_rows
        The cells of each pair: row among all cells of the reference, row among the batch's fitted cells;
        ordered by new row, then by reference row.
    n_reference
        Cells of the reference.
    n_reference_used
        How many of them were compared with.
    """

    ref_rows: Rows
    new_rows: Rows
    n_reference: int
    n_reference_used: int

    @property
    def anchors(self) -> Rows:
        """Fitted cells of the batch that are in a pair, ascending."""
        return np.unique(self.new_rows)


def find_pairs(
    work: Workspace,
    new: Points,
    ref: Points,
    n_neighbors: tuple[int, int],
    tolerances: Sequence[NDArray[np.float64]],
    distances: Floats | None = None,
) -> tuple[Rows, Rows]:
    """Pairs of cells of two sides that are among each other's nearest.

    A squared distance within a cell's tolerance of its k-th smallest counts as tied with it. Ties go to the
    lowest rows, so that each cell has exactly k neighbours. For progress, each new cell counts once.

    Parameters
    ----------
    new, ref
        Cells of both sides in *in* space.
    n_neighbors
        Number k of neighbours among the new cells, and among the reference's.
    tolerances
        For ties: of the new cells, and of the reference's.
    distances
        Is filled with all squared distances, if given; see :func:`memory_for_distances`.

    Returns
    -------
    Reference rows and new rows of the pairs, ordered by new row, then by reference row.
    """
    sides = (new, ref, tolerances[0]), (ref, new, tolerances[1])
    numbers = n_neighbors[::-1]  # of each new cell, among the reference's, first
    if _both_at_once(new, ref, n_neighbors):
        if len(new) * numbers[0] <= len(ref):
            return _pairs_of_few(work, new, ref, numbers, tolerances, distances)
        smallest = _smallest_of_both(work, new, ref, numbers, distances)
        found = [_neighbours(work, *of, 0) for of in zip(sides, numbers, smallest, strict=True)]
    else:  # both directions take the same time
        shares = [len(new) / len(queries) / 2 for queries, _, _ in sides]
        found = [
            _neighbours(work, side, k, None, n) for side, k, n in zip(sides, numbers, shares, strict=True)
        ]
    return mutual(found[0], found[1], (len(new), len(ref)))


def _pairs_of_few(
    work: Workspace,
    new: Points,
    ref: Points,
    numbers: tuple[int, int],
    tolerances: Sequence[NDArray[np.float64]],
    distances: Floats | None,
) -> tuple[Rows, Rows]:
    """Pairs of a batch that is small beside the reference; see :func:`find_pairs`.

    Only cells of the reference that are a neighbour of some new cell can be in a pair, so only these seek
    theirs.
    """

    def one(at: slice) -> Smallest:
        return nearest_values(new[at], ref, numbers[0] + 1, None if distances is None else distances[at])

    smallest = Smallest.stacked(work.map("neighbours", len(new), len(ref), one, counts=1))
    of_new = _neighbours(work, (new, ref, tolerances[0]), numbers[0], smallest, 0)
    named, at = np.unique(of_new[1], return_inverse=True)
    of_named = _neighbours(work, (ref[named], new, tolerances[1][named]), numbers[1], None, 0)
    ref_rows, new_rows = mutual((of_new[0], at), of_named, (len(new), len(named)))
    return named[ref_rows], new_rows


def memory_for_distances(work: Workspace, new: Points, ref: Points, k: int) -> Floats | None:
    """Memory for all squared distances, if :func:`find_pairs` computes them at once and they fit."""
    fit = len(new) * len(ref) * work.dtype.itemsize <= work.distance_bytes
    return np.empty((len(new), len(ref)), work.dtype) if fit and _both_at_once(new, ref, (k, k)) else None


def _both_at_once(new: Points, ref: Points, n_neighbors: tuple[int, int]) -> bool:
    """Whether one product of all cells gives the neighbours in both directions."""
    return new.whole and ref.whole and n_neighbors[0] < len(new) and n_neighbors[1] < len(ref)


def _neighbours(
    work: Workspace, side: Side, k: int, smallest: Smallest | None, counts: float
) -> tuple[Rows, Rows]:
    """Neighbour relation of all queries; those in doubt are looked at once more, in double precision.

    The smallest distances may be known already. `counts` is what each query counts for progress.
    """
    queries, others, tolerance = side

    def one(at: slice) -> tuple[Rows, Rows, Rows]:
        if smallest is None:
            (query, other), doubtful = searched(queries[at], others, k, tolerance[at])
        else:
            (query, other), doubtful = without_doubt(
                k, tolerance[at], smallest.values[at], smallest.cells[at]
            )
        return query + at.start, other, doubtful + at.start

    found = work.map("neighbours", len(queries), 3 * tile_size(others), one, counts=counts)
    rows, cols, doubtful = map(np.concatenate, zip(*found, strict=True))
    if not len(doubtful):
        return rows, cols

    def again(at: slice) -> tuple[Rows, Rows]:
        some = doubtful[at]
        query, other = nearest_in_double(queries[some], others, k, tolerance[some])
        return some[query], other

    more = work.map("ties", len(doubtful), 3 * tile_size(others), again)
    return np.concatenate([rows, *(r for r, _ in more)]), np.concatenate([cols, *(c for _, c in more)])


def _smallest_of_both(
    work: Workspace, new: Points, ref: Points, numbers: tuple[int, int], distances: Floats | None
) -> tuple[Smallest, Smallest]:
    """One smallest distance more than neighbours of either side; each thread keeps a share's of new cells."""
    of_new = Smallest.empty(len(new), numbers[0] + 1, work.dtype)
    rows, line = block_rows(len(ref), work.dtype.itemsize, work.block_bytes), current_line()

    def one(share: slice) -> Smallest:
        of_ref = Smallest.empty(len(ref), numbers[1] + 1, work.dtype)
        blocks = [
            slice(b.start + share.start, b.stop + share.start)
            for b in row_blocks(share.stop - share.start, rows)
        ]
        smallest_both_ways(new, ref, counted_blocks(blocks, line), of_new, of_ref, distances)
        return of_ref

    shares = shared_blocks(len(new), work.n_threads)
    return of_new, Smallest.merged(map_blocks(one, shares, work.n_threads))


def mutual(of_new: tuple[Rows, Rows], of_ref: tuple[Rows, Rows], shape: tuple[int, int]) -> tuple[Rows, Rows]:
    """Keep the pairs that are in both neighbour relations.

    Parameters
    ----------
    of_new
        New rows and their nearest reference rows.
    of_ref
        Reference rows and their nearest new rows.
    shape
        Number of new cells, number of reference cells.

    Returns
    -------
    Reference rows and new rows of the pairs, ordered by new row, then by reference row.
    """
    towards = sparse.csr_array((np.ones(len(of_new[0]), bool), of_new), shape=shape)
    back = sparse.csr_array((np.ones(len(of_ref[0]), bool), of_ref), shape=shape[::-1])
    both = towards.multiply(back.T).tocsr()
    both.sort_indices()
    new_rows, ref_rows = both.nonzero()
    return ref_rows.astype(np.intp), new_rows.astype(np.intp)
