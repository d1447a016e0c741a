"""What a fit leaves beside its model: the merges in order, and the reference that has grown by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Rows
from mnndask.core.arrays import Points
from mnndask.core.held_once import compacted
from mnndask.core.model import CorrectionModel
from mnndask.core.node import Node, Side
from mnndask.core.normalisation import NormalisedCells
from mnndask.core.pairs import Pairs
from mnndask.core.parameters import Parameters
from mnndask.core.reference import ReferenceInSpace
from mnndask.core.shrinkage import AveragedPairs
from mnndask.core.span import RemovedSpan
from mnndask.core.step import MergeStep
from mnndask.core.workspace import Workspace


@dataclass(frozen=True)
class Merge:
    """One merge of a batch, or of several that are merged with each other, into a reference.

    Parameters
    ----------
    left, right
        The reference of the merge, and what moves.
    first_row
        Row of the grown reference at which the cells that moved begin.
    pairs
        Pairs, of rows of the two sides' cells.
    step
        What correcting the cells that move needs.
    removed
        Spans that were removed from the vectors in *out* space.
    averaged
        Pairs of neighbourhoods whose means the vectors join; None if they join cells.
    shrink_factors
        Factor of each anchor's vector, from 0 (no more than noise) to 1, shape ``(n_anchors,)``; None unless
        refined.
    support
        Support of each cell that moved (see :mod:`mnndask.core.support`), shape ``(n_cells,)``; None unless
        refined, or if several batches moved.
    """

    left: Node
    right: Node
    first_row: int
    pairs: Pairs
    step: MergeStep
    removed: list[RemovedSpan]
    averaged: AveragedPairs | None = None
    shrink_factors: NDArray[np.float64] | None = None
    support: NDArray[np.float32] | None = None

    def anchors_of(self, batch: int, n_fitted: Sequence[int]) -> tuple[Rows, NDArray[np.bool_]]:
        """Fitted cells of a batch that are anchors, ascending; and which of all anchors they are."""
        start, anchors = start_of(batch, self.right.batches, n_fitted), self.pairs.anchors
        own = (anchors >= start) & (anchors < start + n_fitted[batch])
        return anchors[own] - start, own

    def pairs_of(self, batch: int, n_fitted: Sequence[int]) -> tuple[Rows, Rows]:
        """Pairs of a batch's cells: rows of its fitted cells, and of the cells of the reference."""
        start = start_of(batch, self.right.batches, n_fitted)
        own = slice(*np.searchsorted(self.pairs.new_rows, [start, start + n_fitted[batch]]))
        return self.pairs.new_rows[own] - start, self.pairs.ref_rows[own]

    def effect(self, batch: int, n_fitted: Sequence[int]) -> float:
        """Mean shrink factor of a batch's anchors: near 0 if the sides do not differ beyond noise.

        NaN unless refined.
        """
        if self.shrink_factors is None:
            return np.nan
        own = self.shrink_factors[self.anchors_of(batch, n_fitted)[1]]
        return float(own.mean()) if len(own) else np.nan


def start_of(batch: int, batches: Sequence[int], n_fitted: Sequence[int]) -> int:
    """Row at which a batch's cells begin, among those of several batches."""
    return sum(n_fitted[b] for b in batches[: list(batches).index(batch)])


@dataclass(frozen=True)
class MergeHistory:
    """Merges in order, and the reference that has grown by them. Immutable: :meth:`merged` gives a new one.

    Parameters
    ----------
    cells
        Fitted cells of all batches, also of those that are yet to be merged.
    parameters
        What the method was asked to do.
    nodes
        Batches that are merged with each other, and those that are yet to be merged.
    keys
        Random key of each fitted cell of each batch; empty if merges use all cells.
    references
        The grown reference in each distinct space: cells of batches that others were merged into, and after
        each merge the cells that moved, as they stand then.
    entered
        Batches that are in the grown reference as they came, and the row at which each begins.
    merges
        Merges, in order.
    max_reference
        Maximum number of a side's cells that a merge uses, drawn at random; None for no limit.
    support
        Support of each batch's fitted cells; None for a batch that never moves. Empty unless refined.
    """

    cells: NormalisedCells
    parameters: Parameters
    nodes: tuple[Node, ...]
    keys: tuple[NDArray[np.float64], ...] = ()
    references: tuple[ReferenceInSpace, ...] = ()
    entered: tuple[tuple[int, int], ...] = ()
    merges: tuple[Merge, ...] = ()
    max_reference: int | None = None
    support: tuple[NDArray[np.float32] | None, ...] = ()

    @property
    def order(self) -> list[int]:
        """Batches in merge order, group by group: one that never moves, then those merged into it."""
        return [b for node in sorted(self.nodes, key=lambda node: min(node.batches)) for b in node.batches]

    @property
    def n_reference(self) -> int:
        """Cells of the grown reference."""
        return len(self.references[0].tolerance_norms) if self.references else 0

    def node_of(self, batch: int) -> Node:
        """The batches that a batch is merged with."""
        return next(node for node in self.nodes if batch in node.batches)

    def merges_of(self, batch: int) -> list[Merge]:
        """The merges that move a batch, in order."""
        return [merge for merge in self.merges if batch in merge.right.batches]

    def last_merge_of(self, batch: int) -> Merge | None:
        """The last of the merges that move a batch; None if none does."""
        return next((merge for merge in reversed(self.merges) if batch in merge.right.batches), None)

    def rows_of(self, batch: int) -> slice:
        """Rows of the grown reference that are a batch's cells as they stand at the end."""
        sizes, last = self.cells.n_fitted, self.last_merge_of(batch)
        if last is None:
            first = dict(self.entered)[batch]
        else:
            first = last.first_row + start_of(batch, last.right.batches, sizes)
        return slice(first, first + sizes[batch])

    def cells_that_move(self, merge: Merge) -> Callable[[Rows], Points]:
        """Gives some of the cells that a merge moves, before it does, in *in* space."""
        right = merge.right
        if right.rows is None:
            return self.cells.space_in.points[right.batches[0]].__getitem__
        points = self.references[0].points
        return lambda rows: points[right.at(rows)]

    def side(self, node: Node, most: int | None, work: Workspace, name: str) -> Side:
        """The cells of a node that a merge uses: at most so many, those with the smallest keys."""
        used = None if most is None or node.n_cells <= most else self._with_least_keys(node, most)
        points, norms = [], []
        for s, space in enumerate(self.cells.distinct):
            if node.rows is None:
                (batch,) = node.batches
                own, sizes = space.points[batch], space.tolerance_norms[batch]
            else:
                own, sizes = self.references[s].points, self.references[s].tolerance_norms
            rows = used if node.rows is None else node.at(used)
            if rows is not None and not np.array_equal(rows, np.arange(len(own))):
                if isinstance(node.rows, slice) and used is None and own.whole:
                    own = own[node.rows]  # a view
                else:
                    own = work.gather(f"{name}-{s}", own, rows)
                sizes = sizes[rows]
            points.append(own)
            norms.append(sizes)
        return Side(node, used, tuple(points), tuple(norms))

    def _with_least_keys(self, node: Node, n: int) -> Rows:
        """A node's cells with the smallest random keys: samples of a growing node change little."""
        keys = np.concatenate([self.keys[b] for b in node.batches])
        return np.sort(np.argpartition(keys, n - 1)[:n])

    def with_reference(self, node: Node, work: Workspace) -> tuple[MergeHistory, Node]:
        """The history with a batch's cells in the grown reference, as they came, and the batch's node."""
        if node.rows is not None:
            return self, node
        (batch,), first = node.batches, self.n_reference
        references = []
        for s, space in enumerate(self.cells.distinct):
            points, norms = space.points[batch], space.tolerance_norms[batch]
            if self.references:
                before = self.references[s]
                stored = before.stored.extended(points)
                norms = np.concatenate([before.tolerance_norms, norms])
            else:
                stored = work.reference(points, sum(self.cells.n_fitted))
            references.append(ReferenceInSpace(stored, norms))
        entered = replace(node, rows=slice(first, first + node.n_cells))
        nodes = tuple(entered if other.batches == node.batches else other for other in self.nodes)
        history = replace(
            self, nodes=nodes, references=tuple(references), entered=(*self.entered, (batch, first))
        )
        return history, entered

    def merged(self, merge: Merge, references: tuple[ReferenceInSpace, ...]) -> MergeHistory:
        """The history with one merge more."""
        both = merge.left.batches, merge.right.batches
        others = [node for node in self.nodes if node.batches not in both]
        nodes = (*others, merge.left.joined(merge.right, merge.first_row))
        return replace(self, nodes=nodes, merges=(*self.merges, merge), references=references)

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
            compacted([merge.step for merge in self.merges]),
        )
