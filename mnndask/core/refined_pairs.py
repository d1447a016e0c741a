"""Refined pairs: the pairs of a merge are found again after the batch has moved by them (step 3').

Pairs found at once join the near faces of two clouds, and pair cells whose type the other side lacks. So the
batch is moved by wide kernels first, narrow ones later, to find pairs again; of the last ones, those that are
far apart for the density around them are left out. The moved cells serve to find pairs only.

Of a side that has r times the cells of the other, r times as many neighbours are taken, so that they lie as
far apart. Equal numbers would reach farther on the smaller side, whose means then lie nearer the middle of
its clouds: a difference between two samples of one cloud that no noise explains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Rows
from mnndask.core.arrays import Points
from mnndask.core.distances import Tolerances
from mnndask.core.neighborhoods import squared_pair_distances, squared_radii
from mnndask.core.neighbors import DOUBT
from mnndask.core.normalisation import CellsInSpace
from mnndask.core.pairs import Pairs, find_pairs
from mnndask.core.parameters import Parameters
from mnndask.core.reference_growth import BatchInSpace, corrected_cells, measured
from mnndask.core.smoothing import anchor_vectors, log_densities
from mnndask.core.step import MergeStep
from mnndask.core.workspace import Workspace

PASSES = 3  # how often each cell counts for progress in a round: pairs, smoothing, moving
SPREAD = 1.2  # radii of a cell beyond which its partner is far
MOST_DROPPED = 0.9  # share of pairs; if more are far, none is left out
MOST_AVERAGED = 50  # cells of a side, by the rule
MOST_COMPARED = 5, 1000  # reference cells: times as many as a batch has, or so many if that is more


def n_compared(n_new: int) -> int:
    """Most cells of the reference with which a merge compares a batch: more would hardly lessen the noise.

    As numbers of neighbours grow with the reference, all of it would pair with a batch of few cells.
    """
    times, least = MOST_COMPARED
    return max(least, times * n_new)


@dataclass(frozen=True)
class Sizes:
    """Numbers that depend on how many cells a merge has.

    Parameters
    ----------
    sigmas
        Bandwidths with which the batch is moved, one after the other.
    n_neighbors
        Nearest cells of the batch, and of the reference, among which a cell of the other side seeks partners.
    n_averaged
        Cells of the batch, and of the reference, whose mean stands for a cell in its pairs.
    n_radius
        Number m: a cell's radius is its distance to the m-th nearest other cell of its side.
    """

    sigmas: tuple[float, ...]
    n_neighbors: tuple[int, int]
    n_averaged: tuple[int, int]
    n_radius: int

    @classmethod
    def of(cls, parameters: Parameters, n_new: int, n_ref: int) -> Sizes:
        """Those that are asked for, or else the rules'."""
        n, sides = min(n_new, n_ref), (n_new, n_ref)
        sigmas, averaged = parameters.repair_sigmas, parameters.pair_averaging
        if sigmas is None:
            sigmas = (1.0, 0.3, 0.15) if n >= 2000 else (1.0, 0.3)
        near = [parameters.k * side // n for side in sides]
        few = min(MOST_AVERAGED, max(10, n // 100))
        means = [min(MOST_AVERAGED, few * side // n) if averaged is None else averaged for side in sides]
        return cls(tuple(sigmas), (near[0], near[1]), (means[0], means[1]), min(25, max(5, n // 200)))


@dataclass
class Repairing:
    """Finds the pairs of a merge again, in *in* space.

    Parameters
    ----------
    work
        Where matrices live, and how loops run.
    space
        The space, with fitted cells of all batches.
    new, ref
        Cells of the batch, and of the reference, that the merge uses.
    number
        Number of the merge, after which matrices are named.
    tolerances
        Of squared distances: of the new cells, and of the reference's.
    """

    work: Workspace
    space: CellsInSpace
    new: Points
    ref: Points
    number: int
    tolerances: tuple[NDArray[np.float64], NDArray[np.float64]]

    def found_again(self, found: tuple[Rows, Rows], sizes: Sizes) -> tuple[Rows, Rows]:
        """Reference rows and new rows of the refined pairs, from those of the first ones."""
        radii = np.full(len(self.ref), np.nan)  # of the reference's cells, as they are needed
        for sigma in sizes.sigmas:
            moved, norms = self._moved(found, sigma)
            squared = Tolerances.of(self.work.dtype).squared_distance * norms**2
            tolerances = (np.maximum(self.tolerances[0], squared), self.tolerances[1])
            found = find_pairs(self.work, moved, self.ref, sizes.n_neighbors, tolerances)
            near = self._near(moved, found, tolerances, radii, sizes.n_radius)
            if near.sum() >= (1 - MOST_DROPPED) * len(near):
                found = found[0][near], found[1][near]
        return found

    def _moved(self, found: tuple[Rows, Rows], sigma: float) -> tuple[Points, NDArray[np.float64]]:
        """The batch's cells, moved by their pairs, and their norms."""
        work, number, cells = self.work, self.number, self.new
        pairs = Pairs(*found, len(self.ref), len(self.ref))
        anchors = work.gather(f"refining-anchors-{number}", cells, pairs.anchors)
        rounding = np.zeros(len(anchors))
        vectors = anchor_vectors(work, f"refining-vectors-{number}", cells, self.ref, pairs, rounding)
        step = MergeStep(
            batches=[],
            anchors=anchors,
            log_density=log_densities(work, anchors, sigma, in_double=False),
            near_vectors=vectors,
            rest_vectors=np.empty((len(anchors), 0), work.dtype),
            new=None,
            ref=None,
            scale=self.space.scale,
        )
        in_space = BatchInSpace(cells, vectors, self.ref, self.space.scale)
        (X,), _ = corrected_cells(work, step, [in_space], sigma, None, number)
        return measured(work, X, self.space.centre, cells.tile)

    def _near(
        self,
        moved: Points,
        found: tuple[Rows, Rows],
        tolerances: tuple[NDArray[np.float64], NDArray[np.float64]],
        radii: NDArray[np.float64],
        n: int,
    ) -> NDArray[np.bool_]:
        """Whether each pair is near for one of its cells: within ``SPREAD`` of its radius.

        Radii are computed where they can matter. Those that rounding may decide are looked at once more, in
        double precision. `radii` are the reference's, squared; NaN where they are yet to be computed.
        """
        ref_rows, new_rows = found
        work, ref = self.work, self.ref
        distances = squared_pair_distances(work, moved, ref, found)
        slack = np.maximum(tolerances[1][ref_rows], tolerances[0][new_rows])

        unknown = np.unique(ref_rows[np.isnan(radii[ref_rows])])
        radii[unknown] = squared_radii(work, ref, unknown, n)
        limits = SPREAD**2 * radii[ref_rows] + slack
        far = np.flatnonzero(distances > limits - DOUBT * slack)
        cells, at = np.unique(new_rows[far], return_inverse=True)
        limits[far] = np.maximum(
            limits[far], SPREAD**2 * squared_radii(work, moved, cells, n)[at] + slack[far]
        )

        doubtful = far[np.abs(distances[far] - limits[far]) <= DOUBT * slack[far]]
        limits[doubtful] = slack[doubtful]
        for points, rows in zip((ref, moved), found, strict=True):
            cells, at = np.unique(rows[doubtful], return_inverse=True)
            own = SPREAD**2 * squared_radii(work, points, cells, n, in_double=True)[at] + slack[doubtful]
            limits[doubtful] = np.maximum(limits[doubtful], own)
        return distances <= limits
