"""Which batches merge next (definition, step 2): a given order or tree, or one that their pairs decide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from scipy.cluster.hierarchy import linkage

from mnndask._choices import AUTOMATIC_ORDERS
from mnndask.core.arrays import Points
from mnndask.core.distances import Tolerances
from mnndask.core.history import MergeHistory
from mnndask.core.node import Node
from mnndask.core.pair_counts import Drawn, PairCounts, count_pairs
from mnndask.core.workspace import Workspace
from mnndask.errors import InputError

Tree: TypeAlias = "int | tuple[Tree, ...]"  # a batch; or a reference, and what merges into it, in turn
Merges: TypeAlias = tuple[tuple[int, int], ...]  # of each merge, the first batch of either side
FEW_PAIRS = 2e8  # pairs of cells, times batches, up to which an automatic order looks at all of them
FEWEST_DRAWN = 50  # cells of a side by which an automatic order counts its pairs


class MergeOrder(Protocol):
    """Says which batches merge next."""

    @property
    def moves_again(self) -> bool:
        """Whether a batch may move more than once."""

    def following(self, history: MergeHistory, work: Workspace) -> tuple[Node, Node] | None:
        """The reference of the next merge, and what moves; None after the last."""


@dataclass(frozen=True)
class GivenOrder:
    """Merges in a given order.

    Parameters
    ----------
    leaves
        All batches, in merge order.
    merges
        Of each merge, the first batch of the reference, and the first of what moves.
    """

    leaves: tuple[int, ...]
    merges: Merges

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> GivenOrder:
        """Merge trees, one for each group of batches that merge with each other."""
        merges: list[tuple[int, int]] = []
        for tree in trees:
            _add_merges(tree, merges)
        return cls(tuple(b for tree in trees for b in leaves_of(tree)), tuple(merges))

    @property
    def moves_again(self) -> bool:
        """Whether a batch may move more than once."""
        references = {left for left, _ in self.merges}
        return any(right in references for _, right in self.merges)

    def following(self, history: MergeHistory, work: Workspace) -> tuple[Node, Node] | None:
        """The reference of the next merge, and what moves; None after the last."""
        done = len(history.merges)
        if done == len(self.merges):
            return None
        left, right = self.merges[done]
        return history.node_of(left), history.node_of(right)


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
    groups
        Batches that merge with each other.
    """

    kind: str
    groups: tuple[tuple[int, ...], ...]
    _drawn: dict[tuple[int, ...], Drawn] = field(default_factory=dict, init=False, repr=False)
    _counts: dict[tuple[tuple[int, ...], ...], int] = field(default_factory=dict, init=False, repr=False)
    _tree: GivenOrder | None = field(default=None, init=False, repr=False)

    @property
    def leaves(self) -> tuple[int, ...]:
        """All batches."""
        return tuple(b for group in self.groups for b in group)

    @property
    def moves_again(self) -> bool:
        """Whether a batch may move more than once."""
        return self.kind != "share"

    def following(self, history: MergeHistory, work: Workspace) -> tuple[Node, Node] | None:
        """The reference of the next merge, and what moves; None after the last."""
        if self.kind == "tree":
            if self._tree is None:
                merges = [self._linked(history, group, work) for group in self.groups]
                self._tree = GivenOrder(
                    self.leaves, tuple(sides for of_group in merges for sides in of_group)
                )
            return self._tree.following(history, work)
        for group in self.groups:
            nodes = [node for node in history.nodes if node.batches[0] in group]
            if len(nodes) > 1:
                choose = self._with_most_pairs if self.kind == "auto" else self._with_largest_share
                return choose(history, nodes, work)
        return None

    def _with_most_pairs(
        self, history: MergeHistory, nodes: list[Node], work: Workspace
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
        self, history: MergeHistory, nodes: list[Node], work: Workspace
    ) -> tuple[Node, Node]:
        sizes = [sum(history.cells.raw[b].n_cells for b in node.batches) for node in nodes]
        merged = [i for i, node in enumerate(nodes) if len(node.batches) > 1]
        reference = merged[0] if merged else int(np.argmax(sizes))
        others = [node for i, node in enumerate(nodes) if i != reference]
        counts = self._count(history, nodes[reference], others, work)
        return nodes[reference], others[int(np.argmax(counts.others_paired / counts.n_others))]

    def _linked(self, history: MergeHistory, group: Sequence[int], work: Workspace) -> list[tuple[int, int]]:
        """The merges of a group by average linkage."""
        nodes = [history.node_of(b) for b in group]
        alike: list[float] = []  # of each two, in the order of SciPy's condensed matrices
        for i, node in enumerate(nodes):
            counts = self._count(history, node, nodes[i + 1 :], work)
            alike.extend(counts.pairs / np.sqrt(counts.n_one * counts.n_others))
        first, sizes, merges = list(group), [node.n_cells for node in nodes], []
        if len(group) > 1:
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


def sizes_of_sides(order: GivenOrder | AutomaticOrder, n_used: Sequence[int]) -> list[tuple[int, int]]:
    """Fitted cells that move and those of the reference, in each merge; of an automatic order, about."""
    merges = order.merges if isinstance(order, GivenOrder) else _in_turn(order.groups)
    sizes, sides = list(n_used), []
    for left, right in merges:
        sides.append((sizes[right], sizes[left]))
        sizes[left] += sizes[right]
    return sides


def _in_turn(groups: Sequence[Sequence[int]]) -> Merges:
    return tuple((group[0], other) for group in groups for other in group[1:])


def leaves_of(tree: Tree) -> list[int]:
    """Batches of a tree, in merge order."""
    return [tree] if isinstance(tree, int) else [b for part in tree for b in leaves_of(part)]


def _add_merges(tree: Tree, merges: list[tuple[int, int]]) -> int:
    """Add the merges of a tree, in order; returns its first batch.

    Those within what moves come before those within the reference, as in batchelor, whose numbers they have.
    """
    if isinstance(tree, int):
        return tree
    *others, first = (_add_merges(part, merges) for part in reversed(tree))
    others.reverse()
    merges.extend((first, other) for other in others)
    return first


def merge_order(mnn_order: Any, names: list[str]) -> GivenOrder | AutomaticOrder:
    """The order that a user asks for; see :func:`mnndask.mnn_correct`.

    Raises
    ------
    InputError
        If it does not name each batch once.
    """
    every = tuple(range(len(names)))
    if mnn_order is None:
        return GivenOrder.of([every])
    if isinstance(mnn_order, str) and mnn_order in AUTOMATIC_ORDERS:
        return AutomaticOrder(mnn_order, (every,))
    tree = _as_tree(mnn_order, names)
    if tree is None or sorted(leaves_of(tree)) != list(every):
        what = f"mnn_order {mnn_order!r} is no permutation of the {len(names)} batches."
        remedy = (
            f"Name each once, by position (0 to {len(names) - 1}) or by name: {', '.join(names)}; "
            f"nested for a tree; or give one of {', '.join(AUTOMATIC_ORDERS)}."
        )
        raise InputError(what, remedy)
    return GivenOrder.of([tree])


def _as_tree(given: Any, names: list[str]) -> Tree | None:
    """Nested sequences of positions and names as a tree; None if something else is among them."""
    if isinstance(given, str):
        if given in names:
            return names.index(given)
        return int(given) if given.isdecimal() and int(given) < len(names) else None
    if isinstance(given, int | np.integer) and not isinstance(given, bool):
        return int(given)
    if not isinstance(given, Iterable):
        return None
    parts = [_as_tree(part, names) for part in given]
    trees = [part for part in parts if part is not None]
    return tuple(trees) if trees and len(trees) == len(parts) else None


def named_trees(history: MergeHistory) -> list[Any]:
    """The merges of each group as nested lists of names: the reference, and what merged into it, in turn."""
    found: dict[int, Any] = dict(enumerate(history.cells.names))  # by the first batch
    for merge in history.merges:
        left, right = found[merge.left.batches[0]], found[merge.right.batches[0]]
        found[merge.left.batches[0]] = [*(left if isinstance(left, list) else [left]), right]
    return [found[node.batches[0]] for node in history.nodes]
