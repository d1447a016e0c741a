"""What a fit leaves beside its model: the merges in order, and the reference that has grown by them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mnndask.core.model import CorrectionModel
from mnndask.core.normalisation import NormalisedCells
from mnndask.core.pairs import Pairs
from mnndask.core.parameters import Parameters
from mnndask.core.reference import ReferenceInSpace
from mnndask.core.shrinkage import AveragedPairs
from mnndask.core.span import RemovedSpan
from mnndask.core.step import MergeStep


@dataclass(frozen=True)
class Merge:
    """One merge of a batch into the reference.

    Parameters
    ----------
    batch
        The new batch.
    pairs
        Its pairs.
    step
        What correcting its cells needs.
    removed
        Spans that were removed from the vectors in *out* space.
    averaged
        Pairs of neighbourhoods whose means the vectors join; None if they join cells.
    shrink_factors
        Factor of each anchor's vector, from 0 (no more than noise) to 1, shape ``(n_anchors,)``; None unless
        refined.
    support
        Support of each fitted cell of the batch (see :mod:`mnndask.core.support`), shape ``(n_cells,)``; None
        unless refined.
    """

    batch: int
    pairs: Pairs
    step: MergeStep
    removed: list[RemovedSpan]
    averaged: AveragedPairs | None = None
    shrink_factors: NDArray[np.float64] | None = None
    support: NDArray[np.float32] | None = None

    @property
    def effect(self) -> float:
        """Mean shrink factor, near 0 if the two sides do not differ beyond noise; NaN unless refined."""
        return np.nan if self.shrink_factors is None else float(self.shrink_factors.mean())


@dataclass(frozen=True)
class MergeHistory:
    """Merges in order, and the reference that has grown by them. Immutable: :meth:`merged` gives a new one.

    Parameters
    ----------
    cells
        Fitted cells of all batches, also of those that are yet to be merged.
    parameters
        What the method was asked to do.
    first
        The batch with which the reference begins.
    references
        The reference in each distinct space.
    merges
        One of each batch that was merged into it.
    max_reference
        Maximum number of reference cells that a merge uses, drawn at random; None for no limit.
    """

    cells: NormalisedCells
    parameters: Parameters
    first: int
    references: tuple[ReferenceInSpace, ...]
    merges: tuple[Merge, ...] = ()
    max_reference: int | None = None

    @property
    def order(self) -> list[int]:
        """Batches in the order in which they were merged."""
        return [self.first, *(merge.batch for merge in self.merges)]

    @property
    def n_reference(self) -> int:
        """Cells of the reference."""
        return len(self.references[0].tolerance_norms)

    def merged(self, merge: Merge, references: tuple[ReferenceInSpace, ...]) -> MergeHistory:
        """The history with one merge more."""
        return replace(self, merges=(*self.merges, merge), references=references)

    def with_steps(self, steps: list[MergeStep]) -> MergeHistory:
        """The same merges with other steps."""
        merges = [replace(merge, step=step) for merge, step in zip(self.merges, steps, strict=True)]
        return replace(self, merges=tuple(merges))

    def model(self, block_bytes: int) -> CorrectionModel:
        """The model that corrects with these merges; `block_bytes` is memory for a block of cells."""
        space_in, space_out = self.cells.space_in, self.cells.space_out
        return CorrectionModel(
            self.cells.spaces,
            self.parameters.sigma,
            self.cells.names,
            self.order,
            space_in.centre,
            space_out.centre,
            block_bytes,
            space_in.components,
            space_out.components,
            [merge.step for merge in self.merges],
        )
