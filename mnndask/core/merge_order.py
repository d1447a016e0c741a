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
Groups: TypeAlias = tuple[tuple[int, ...], ...]
Merge: TypeAlias = tuple[int, int]  # the first batch of the reference, and the first of what moves
Merges: TypeAlias = tuple[Merge, ...]
FEW_PAIRS = 2e8  # pairs of cells, times batches, up to which an automatic order looks at all of them
FEWEST_DRAWN = 50  # cells of a side by which an automatic order counts its pairs


@dataclass(frozen=True)
class Design:
    """Which batches merge with each other, and which of them first.

    Parameters
    ----------
    nested
        Batches that merge first, then those that merge next, and so on: donors of each study, say.
    groups
        Batches that merge with each other; None for all.
    names
        Names of the groups.
    """

    nested: tuple[Groups, ...] = ()
    groups: Groups | None = None
    names: tuple[str, ...] = ()

    def levels(self, n_batches: int) -> tuple[Groups, ...]:
        """Groups of batches that merge, those that merge first before others."""
        groups = self.groups or (tuple(range(n_batches)),)
        inside = [
            tuple(tuple(b for b in nest if b in group) for group in groups for nest in level)
            for level in self.nested
        ]
        return (*inside, groups)


class MergeOrder(Protocol):
    """Says which batches merge next."""

    @property
    def leaves(self) -> Sequence[int]:
        """All batches."""

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
    levels
        Groups of batches that merge with each other, those that merge first before others.
    """

    kind: str
    levels: tuple[Groups, ...]
    _drawn: dict[tuple[int, ...], Drawn] = field(default_factory=dict, init=False, repr=False)
    _counts: dict[tuple[tuple[int, ...], ...], int] = field(default_factory=dict, init=False, repr=False)
    _linked: dict[tuple[int, ...], list[Merge]] = field(default_factory=dict, init=False, repr=False)
    _references: dict[tuple[int, ...], int] = field(default_factory=dict, init=False, repr=False)

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
        self, history: MergeHistory, group: tuple[int, ...], nodes: list[Node], work: Workspace
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
        self, history: MergeHistory, group: tuple[int, ...], nodes: list[Node], work: Workspace
    ) -> tuple[Node, Node]:
        if group not in self._references:
            sizes = [sum(history.cells.raw[b].n_cells for b in node.batches) for node in nodes]
            self._references[group] = nodes[int(np.argmax(sizes))].batches[0]
        reference = history.node_of(self._references[group])
        others = [node for node in nodes if node.batches != reference.batches]
        counts = self._count(history, reference, others, work)
        return reference, others[int(np.argmax(counts.others_paired / counts.n_others))]

    def _next_linked(
        self, history: MergeHistory, group: tuple[int, ...], nodes: list[Node], work: Workspace
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


def sizes_of_sides(order: GivenOrder | AutomaticOrder, n_used: Sequence[int]) -> list[tuple[int, int]]:
    """Fitted cells that move and those of the reference, in each merge; of an automatic order, about."""
    merges = order.merges if isinstance(order, GivenOrder) else _one_by_one(order.levels[-1])
    sizes, sides = list(n_used), []
    for left, right in merges:
        sides.append((sizes[right], sizes[left]))
        sizes[left] += sizes[right]
    return sides


def _one_by_one(groups: Groups) -> Merges:
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


def merge_order(
    mnn_order: Any, names: list[str], design: Design | None = None
) -> GivenOrder | AutomaticOrder:
    """The order that a user asks for; see :func:`mnndask.mnn_correct`.

    Raises
    ------
    InputError
        If it does not name each batch once, or if the design says which batches merge first.
    """
    design, every = design or Design(), tuple(range(len(names)))
    levels = design.levels(len(names))
    if mnn_order is None:
        return GivenOrder.of([_nested(group, levels[:-1]) for group in levels[-1]])
    if isinstance(mnn_order, str) and mnn_order in AUTOMATIC_ORDERS:
        return AutomaticOrder(mnn_order, levels)
    tree = _as_tree(mnn_order, names)
    if tree is None or sorted(leaves_of(tree)) != list(every):
        what = f"mnn_order {mnn_order!r} is no permutation of the {len(names)} batches."
        remedy = (
            f"Name each once, by position (0 to {len(names) - 1}) or by name: {', '.join(names)}; "
            f"nested for a tree; or give one of {', '.join(AUTOMATIC_ORDERS)}."
        )
        raise InputError(what, remedy)
    if design.nested:
        what = "Both mnn_order and several columns of batch_key say which batches merge first."
        raise InputError(what, f"Leave mnn_order out, or give one of {', '.join(AUTOMATIC_ORDERS)}.")
    trees = [_pruned(tree, group) for group in levels[-1]]
    return GivenOrder.of([tree for tree in trees if tree is not None])


def _nested(group: Sequence[int], nested: Sequence[Groups]) -> Tree:
    """The batches of a group in turn, those of a nest among them first."""
    units: list[tuple[set[int], Tree]] = [({b}, b) for b in group]
    for level in nested:
        inside = [[unit for unit in units if unit[0] <= set(nest)] for nest in level]
        joined = [(set().union(*(b for b, _ in own)), _in_turn([t for _, t in own])) for own in inside if own]
        units = sorted(joined, key=lambda unit: min(unit[0]))
    return _in_turn([tree for _, tree in units])


def _in_turn(trees: list[Tree]) -> Tree:
    return trees[0] if len(trees) == 1 else tuple(trees)


def _pruned(tree: Tree, group: Sequence[int]) -> Tree | None:
    """A tree without the batches outside a group; None if nothing is left."""
    if isinstance(tree, int):
        return tree if tree in group else None
    kept = [part for part in (_pruned(part, group) for part in tree) if part is not None]
    return _in_turn(kept) if kept else None


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
    """The merges of each group as nested lists of names: the reference, and what merged into it, in turn.

    Groups are in the order of their first batches.
    """
    found: dict[int, Any] = dict(enumerate(history.cells.names))  # by the first batch
    for merge in history.merges:
        left, right = found[merge.left.batches[0]], found[merge.right.batches[0]]
        found[merge.left.batches[0]] = [*(left if isinstance(left, list) else [left]), right]
    return [found[node.batches[0]] for node in sorted(history.nodes, key=lambda node: min(node.batches))]
