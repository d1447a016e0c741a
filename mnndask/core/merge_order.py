"""Which batches merge next (definition, step 2): a given order or tree, or one that their pairs decide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from mnndask._choices import AUTOMATIC_ORDERS
from mnndask.core.automatic_order import AutomaticOrder, Groups
from mnndask.core.history import MergeHistory
from mnndask.core.node import Node
from mnndask.core.workspace import Workspace
from mnndask.errors import InputError

Tree: TypeAlias = "int | tuple[Tree, ...]"  # a batch; or a reference, and what merges into it, in turn


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
    merges: tuple[tuple[int, int], ...]

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


def sizes_of_sides(order: GivenOrder | AutomaticOrder, n_used: Sequence[int]) -> list[tuple[int, int]]:
    """Fitted cells that move and those of the reference, in each merge; of an automatic order, about."""
    merges = order.merges if isinstance(order, GivenOrder) else _one_by_one(order.levels[-1])
    sizes, sides = list(n_used), []
    for left, right in merges:
        sides.append((sizes[right], sizes[left]))
        sizes[left] += sizes[right]
    return sides


def _one_by_one(groups: Groups) -> tuple[tuple[int, int], ...]:
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
