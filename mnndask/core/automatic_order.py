"""Orders of merges that the numbers of mutual pairs decide (definition, step 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from scipy.cluster.hierarchy import linkage

from mnndask.core.arrays import Points
from mnndask.core.distances import Tolerances
from mnndask.core.history import MergeHistory
from mnndask.core.node import Node
from mnndask.core.pair_counts import Drawn, PairCounts, count_pairs
from mnndask.core.workspace import Workspace

Group: TypeAlias = tuple[int, ...]
Groups: TypeAlias = tuple[Group, ...]
FEW_PAIRS = 2e8  # pairs of cells, times batches, up to which an automatic order looks at all of them
FEWEST_DRAWN = 50  # cells of a side by which an automatic order counts its pairs


@dataclass
class AutomaticOrder:
    """Merges in an order that the numbers of mutual pairs decide.

    Pairs are those of nearest neighbours, before any refinement. Beyond :data:`FEW_PAIRS`, they are counted
    among some cells of each side, so that counting takes no longer than merging.

    Parameters
    ----------
    kind
        ``"auto"``: next, the two with most pairs; of these, the one that was merged or given later is the
        reference, as in batchelor's ``auto.merge``. ``"share"``: next, the batch with the largest share of
        cells in a pair with the reference, which begins with the largest batch. ``"tree"``: average linkage
        of numbers of pairs over the geometric means of numbers of cells, counted once; the larger side is
        the reference.
    levels
        Groups of batches that merge with each other, those that merge first before others.
    """

    kind: str
    levels: tuple[Groups, ...]
    _drawn: dict[Group, Drawn] = field(default_factory=dict, init=False, repr=False)
    _counts: dict[Groups, int] = field(default_factory=dict, init=False, repr=False)
    _linked: dict[Group, list[tuple[int, int]]] = field(default_factory=dict, init=False, repr=False)
    _references: dict[Group, int] = field(default_factory=dict, init=False, repr=False)

    @property
    def leaves(self) -> tuple[int, ...]:
        """All batches."""
        return tuple(b for group in self.levels[-1] for b in group)

    @property
    def moves_again(self) -> bool:
        """Whether a batch may move more than once."""
        return self.kind != "share" or len(self.levels) > 1

    def following(self, history: MergeHistory, work: Workspace) -> tuple[Node, Node] | None:
        """The reference of the next merge, and what moves; None after the last."""
        choose = {"auto": self._with_most_pairs, "share": self._with_largest_share, "tree": self._next_linked}
        for groups in self.levels:
            for group in groups:
                nodes = [node for node in history.nodes if node.batches[0] in group]
                if len(nodes) > 1:
                    return choose[self.kind](history, group, nodes, work)
        return None

    def _with_most_pairs(
        self, history: MergeHistory, group: Group, nodes: list[Node], work: Workspace
    ) -> tuple[Node, Node]:
        best, chosen = -1, (nodes[1], nodes[0])
        for i, later in enumerate(nodes):
            new = [node for node in nodes[:i] if (later.batches, node.batches) not in self._counts]
            counts = self._count(history, later, new, work)
            for node, n in zip(new, counts.pairs, strict=True):
                self._counts[later.batches, node.batches] = int(n)
            for earlier in nodes[:i]:
                n_pairs = self._counts[later.batches, earlier.batches]
                if n_pairs > best:
                    best, chosen = n_pairs, (later, earlier)
        return chosen

    def _with_largest_share(
        self, history: MergeHistory, group: Group, nodes: list[Node], work: Workspace
    ) -> tuple[Node, Node]:
        if group not in self._references:
            sizes = [sum(history.cells.raw[b].n_cells for b in node.batches) for node in nodes]
            self._references[group] = nodes[int(np.argmax(sizes))].batches[0]
        reference = history.node_of(self._references[group])
        others = [node for node in nodes if node.batches != reference.batches]
        counts = self._count(history, reference, others, work)
        return reference, others[int(np.argmax(counts.others_paired / counts.n_others))]

    def _next_linked(
        self, history: MergeHistory, group: Group, nodes: list[Node], work: Workspace
    ) -> tuple[Node, Node]:
        if group not in self._linked:
            self._linked[group] = self._link(history, nodes, work)
        left, right = self._linked[group].pop(0)
        return history.node_of(left), history.node_of(right)

    def _link(self, history: MergeHistory, nodes: list[Node], work: Workspace) -> list[tuple[int, int]]:
        """The merges of some sides by average linkage."""
        alike: list[float] = []  # of each two, in the order of SciPy's condensed matrices
        for i, node in enumerate(nodes[:-1]):
            counts = self._count(history, node, nodes[i + 1 :], work)
            alike.extend(counts.pairs / np.sqrt(counts.n_one * counts.n_others))
        first, sizes, merges = [node.batches[0] for node in nodes], [node.n_cells for node in nodes], []
        apart = max(alike) - np.array(alike)
        for both in linkage(apart, "average")[:, :2].astype(int).tolist():
            left, right = sorted(both, key=lambda i: (-sizes[i], i))
            merges.append((first[left], first[right]))
            first.append(first[left])
            sizes.append(sizes[left] + sizes[right])
        return merges

    def _count(self, history: MergeHistory, one: Node, others: Sequence[Node], work: Workspace) -> PairCounts:
        drawn = [self._draw(history, node, work) for node in (one, *others)]
        return count_pairs(drawn[0], drawn[1:], history.parameters.k, work.block_bytes)

    def _draw(self, history: MergeHistory, node: Node, work: Workspace) -> Drawn:
        """Cells of a node, in memory, by which its pairs are counted."""
        if node.batches not in self._drawn:
            side = history.side(node, n_drawn(history), work, f"counted-{len(self._drawn)}")
            points: Points = side.points[0][:]
            tolerances = Tolerances.of(work.dtype).squared_distance * side.tolerance_norms[0] ** 2
            self._drawn[node.batches] = Drawn(points, tolerances)
        return self._drawn[node.batches]


def n_drawn(history: MergeHistory) -> int | None:
    """Most cells of a node by which its pairs are counted; None for all."""
    sizes = np.array(history.cells.n_fitted)
    before = np.cumsum(sizes)[:-1]
    if history.max_reference is not None:
        before = np.minimum(before, history.max_reference)
    n_pairs = float(sizes[1:] @ before)  # that a fit looks at, about
    if len(sizes) * n_pairs <= FEW_PAIRS:
        return None
    return max(FEWEST_DRAWN, int(np.sqrt(n_pairs) / len(sizes)))
