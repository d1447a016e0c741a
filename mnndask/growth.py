"""Correcting the sketched cells of a batch, by which the reference grows (definition, steps 5, 8 and 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.distances import Floats, Matrix, Points
from mnndask.kernels.smoothing import smooth
from mnndask.kernels.variance import variance_factors
from mnndask.model import PAIR_COPIES, MergeStep, tile_of
from mnndask.reduce import PASSES
from mnndask.reference import Space
from mnndask.workspace import Workspace


@dataclass(frozen=True)
class Growth:
    """What correcting a batch's sketched cells needs.

    Parameters
    ----------
    batch
        The batch.
    spaces
        Distinct spaces.
    vectors
        Anchor vectors in each.
    refs
        Reference cells that the step uses, in each.
    step
        The merge step; without `new` and `ref`, nothing is adjusted.
    sigma
        Divisor of squared distances.
    work
        Where matrices live.
    distances
        Squared, of the batch's cells and those of the reference, if they are at hand; they are overwritten.
    """

    batch: int
    spaces: Sequence[Space]
    vectors: Sequence[Matrix]
    refs: Sequence[Points]
    step: MergeStep
    sigma: float
    work: Workspace
    distances: Floats | None = None

    @property
    def adjusts(self) -> bool:
        """Whether variance is adjusted."""
        return self.step.new is not None

    @property
    def passes(self) -> float:
        """How often each cell is counted."""
        if self.work.tile is None:
            return 1
        return 1 + len(self.spaces) * (1 + PASSES * self.adjusts)

    def in_memory(self) -> tuple[list[Matrix], NDArray[np.float64]]:
        """Corrected cells in each space; and their factors in the last.

        Products with cells of the batch serve smoothing, of which anchors are some, and variance adjustment.
        """
        cells, step = self.spaces[0].new[self.batch], self.step
        out = self._room(cells)

        def one(at: slice) -> NDArray[np.float64]:
            products = cells.X[at] @ cells.X.T if step.anchor_rows is not None else None
            of_anchors = None if products is None else products[:, step.anchor_rows]
            parts = smooth(cells[at], step.anchors, step.log_density, self.vectors, self.sigma, of_anchors)
            factors = np.ones(len(parts[0]))
            made = products, None if self.distances is None else self.distances[at]
            for space, moved, part, ref in zip(self.spaces, out, parts, self.refs, strict=True):
                new = space.new[self.batch]
                if self.adjusts:
                    factors = variance_factors(new[at], part, new, ref, self.sigma, space.scale, *made)
                part *= factors.astype(part.dtype)[:, None]
                np.add(new.X[at], part, out=moved[at])
            return factors

        columns = 3 * len(step.anchors)
        if self.adjusts:
            columns = 3 * len(cells) + PAIR_COPIES * len(self.refs[0])
        return out, np.concatenate(self.work.map("grow", len(cells), columns, one, counts=1))

    def on_disk(self) -> tuple[list[Matrix], NDArray[np.float64]]:
        """The same, a tile at a time."""
        cells = self.spaces[0].new[self.batch]
        out = self._room(cells)

        def smoothed(at: slice) -> None:
            parts = smooth(cells[at], self.step.anchors, self.step.log_density, self.vectors, self.sigma)
            for target, part in zip(out, parts, strict=True):
                target[at] = part

        self.work.map("smooth", len(cells), 3 * tile_of(self.step.anchors), smoothed, counts=1)
        factors = np.ones(len(cells))
        for space, corrected, ref in zip(self.spaces, out, self.refs, strict=True):
            new = space.new[self.batch]
            if self.adjusts:
                factors = self.work.factors(new, corrected, ref, self.sigma, space.scale)

            def moved(
                at: slice, new: Points = new, corrected: Matrix = corrected, factors: Floats = factors
            ) -> None:
                corrected[at] = new.X[at] + factors[at].astype(new.squared.dtype)[:, None] * corrected[at]

            self.work.map("grow", len(corrected), corrected.shape[1], moved, counts=1)
        return out, factors

    def _room(self, cells: Points) -> list[Matrix]:
        names = [f"corrected-{s}-{self.batch}" for s in range(len(self.spaces))]
        return [self.work.matrix(name, cells.X.shape) for name in names]
