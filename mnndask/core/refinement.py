"""What `refine=True` adds to a merge: refined pairs (3'), averaged (4') and shrunk (4'') anchor vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._progress import stage
from mnndask._typing import Matrix, Rows
from mnndask.core.neighborhoods import Neighborhoods
from mnndask.core.node import Side
from mnndask.core.normalisation import CellsInSpace
from mnndask.core.pairs import Pairs
from mnndask.core.parameters import Parameters
from mnndask.core.refined_pairs import PASSES, Repairing, Sizes
from mnndask.core.shrinkage import AveragedPairs, AveragedVectors, Smoothing, shrink, shrink_factors
from mnndask.core.support import N_NEAREST, marked, shares
from mnndask.core.workspace import Workspace


@dataclass(frozen=True)
class Refinement:
    """Refines one merge.

    Parameters
    ----------
    parameters
        What the method is asked to do.
    space
        *In* space.
    new, ref
        The two sides.
    tolerances
        Of squared distances: of the new cells, and of those of the reference.
    number
        Number of the merge.
    which
        What progress calls the merge.
    """

    parameters: Parameters
    space: CellsInSpace
    new: Side
    ref: Side
    tolerances: tuple[NDArray[np.float64], NDArray[np.float64]]
    number: int
    which: str

    @property
    def sizes(self) -> Sizes:
        """Numbers that depend on how many cells there are."""
        return Sizes.of(self.parameters, len(self.new), len(self.ref))

    def pairs(self, work: Workspace, found: tuple[Rows, Rows]) -> tuple[Rows, Rows]:
        """Refined pairs, from those found at first: rows of the used reference, and of the batch."""
        sizes, new, ref = self.sizes, self.new.points[0], self.ref.points[0]
        with stage(f"refining pairs of {self.which}", len(self.new), passes=PASSES * len(sizes.sigmas)):
            own = Repairing(work, self.space, new, ref, self.number, self.tolerances)
            return own.found_again(found, sizes)

    def averaged(self, work: Workspace, pairs: Pairs) -> tuple[AveragedPairs, NDArray[np.float32] | None]:
        """Pairs of neighbourhoods in the place of pairs of cells; and the cells' support, if of one batch."""
        (n_new, n_ref), (new, ref) = self.sizes.n_averaged, (self.new.points[0], self.ref.points[0])
        partners = np.unique(pairs.ref_rows)
        of_ref = Neighborhoods.of(work, ref, partners, n_ref, self.tolerances[1])
        if len(self.new.node.batches) > 1:
            of_new = Neighborhoods.of(work, new, pairs.anchors, n_new, self.tolerances[0])
            return AveragedPairs.of(pairs, of_ref, of_new), None
        every, sizes = np.arange(len(new)), [n_new, N_NEAREST]
        of_every, near = Neighborhoods.of_sizes(work, new, every, sizes, self.tolerances[0])
        support = shares(near.members, marked(pairs.anchors, len(new)))
        return AveragedPairs.of(pairs, of_ref, of_every.some(pairs.anchors)), support

    def vectors(
        self,
        work: Workspace,
        averaged: AveragedPairs,
        smoothing: Smoothing,
        shortest: Sequence[NDArray[np.float64]],
    ) -> tuple[list[Matrix], NDArray[np.float64]]:
        """Anchor vectors in each distinct space, and the factors, of *in* space, by which all are shrunk.

        Parameters
        ----------
        averaged
            Pairs of neighbourhoods.
        smoothing
            Anchors, their densities and the bandwidth.
        shortest
            Lengths of rounding in each distinct space.
        """
        sides = list(zip(self.ref.points, self.new.points, strict=True))
        found = [
            AveragedVectors.of(work, averaged, side, f"{s}-{self.number}", shortest[s])
            for s, side in enumerate(sides)
        ]
        strength, n = self.parameters.shrinkage, len(smoothing.anchors)
        if strength == 0:
            return [own.vectors for own in found], np.ones(n)
        with stage(f"shrinking vectors of {self.which}", n, "anchors"):
            factors = shrink_factors(work, averaged, found[0], sides[0], smoothing, strength)
            for own in found:
                shrink(work, own.vectors, factors)
        return [own.vectors for own in found], factors
