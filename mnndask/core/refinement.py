"""What `refine=True` adds to a merge: refined pairs (3'), averaged (4') and shrunk (4'') anchor vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._progress import stage
from mnndask._typing import Matrix, Rows
from mnndask.core.arrays import Points
from mnndask.core.history import MergeHistory
from mnndask.core.neighborhoods import Neighborhoods
from mnndask.core.pairs import Pairs
from mnndask.core.refined_pairs import PASSES, Repairing, Sizes
from mnndask.core.shrinkage import AveragedPairs, AveragedVectors, Smoothing, shrink, shrink_factors
from mnndask.core.support import N_NEAREST, marked, shares
from mnndask.core.workspace import Workspace


@dataclass(frozen=True)
class Refinement:
    """Refines one merge.

    Parameters
    ----------
    history
        The merges so far.
    batch
        The new batch.
    ref
        Cells of the reference that the merge uses, in *in* space.
    used
        Their rows among all of the reference; None for all.
    tolerances
        Of squared distances: of the new cells, and of those of the reference.
    which
        What progress calls the batch.
    """

    history: MergeHistory
    batch: int
    ref: Points
    used: Rows | None
    tolerances: tuple[NDArray[np.float64], NDArray[np.float64]]
    which: str

    @property
    def new(self) -> Points:
        """The batch's fitted cells, in *in* space."""
        return self.history.cells.space_in.points[self.batch]

    @property
    def sizes(self) -> Sizes:
        """Numbers that depend on how many cells there are."""
        return Sizes.of(self.history.parameters, len(self.new), len(self.ref))

    def pairs(self, work: Workspace, found: tuple[Rows, Rows]) -> tuple[Rows, Rows]:
        """Refined pairs, from those found at first: rows of the used reference, and of the batch."""
        sizes, space = self.sizes, self.history.cells.space_in
        with stage(f"refining pairs of {self.which}", len(self.new), passes=PASSES * len(sizes.sigmas)):
            return Repairing(work, space, self.batch, self.ref, self.tolerances).found_again(found, sizes)

    def averaged(self, work: Workspace, pairs: Pairs) -> tuple[AveragedPairs, NDArray[np.float32]]:
        """Pairs of neighbourhoods in the place of pairs of cells; and the support of the batch's cells."""
        (n_new, n_ref), used = self.sizes.n_averaged, self.used
        partners = np.unique(pairs.ref_rows if used is None else np.searchsorted(used, pairs.ref_rows))
        of_ref = Neighborhoods.of(work, self.ref, partners, n_ref, self.tolerances[1])
        every, sizes = np.arange(len(self.new)), [n_new, N_NEAREST]
        of_new, near = Neighborhoods.of_sizes(work, self.new, every, sizes, self.tolerances[0])
        averaged = AveragedPairs.of(
            pairs, of_ref if used is None else of_ref.among(used), of_new.some(pairs.anchors)
        )
        return averaged, shares(near.members, marked(pairs.anchors, len(self.new)))

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
        cells, references, batch = self.history.cells, self.history.references, self.batch
        sides = [
            (reference.points, space.points[batch])
            for reference, space in zip(references, cells.distinct, strict=True)
        ]
        found = [
            AveragedVectors.of(work, averaged, side, f"{s}-{batch}", shortest[s])
            for s, side in enumerate(sides)
        ]
        strength, n = self.history.parameters.shrinkage, len(smoothing.anchors)
        if strength == 0:
            return [own.vectors for own in found], np.ones(n)
        with stage(f"shrinking vectors of {self.which}", n, "anchors"):
            factors = shrink_factors(work, averaged, found[0], sides[0], smoothing, strength)
            for own in found:
                shrink(work, own.vectors, factors)
        return [own.vectors for own in found], factors
