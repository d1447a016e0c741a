"""Cells of the reference that merge steps share: each is in memory once, however many steps use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mnndask._typing import Floats, Rows
from mnndask.core.arrays import Points, Selected
from mnndask.core.node import Side
from mnndask.core.reference import ReferenceInMemory, ReferenceInSpace
from mnndask.core.step import MergeStep


def held_once(side: Side, reference: ReferenceInSpace, own: Points) -> Points:
    """A side's cells for its merge step, which shares them with other steps where they are in memory.

    Parameters
    ----------
    side
        The side.
    reference
        The grown reference in the space.
    own
        The side's cells there.
    """
    rows, stored = side.node.rows, reference.stored
    if not isinstance(stored, ReferenceInMemory) or rows is None:
        return own
    if side.used is None and isinstance(rows, slice) and rows.start == 0:
        return own  # a view already
    return Points(Selected(stored.storage.X, side.node.at(side.used).astype(np.int32)), own.squared)


def compacted(steps: Sequence[MergeStep]) -> list[MergeStep]:
    """The steps with cells that they share in a matrix of these alone."""
    shared: dict[int, list[Selected]] = {}
    for step in steps:
        for points in _sides(step):
            if isinstance(points.X, Selected):
                shared.setdefault(id(points.X.of), []).append(points.X)
    matrices: dict[int, tuple[Floats, Rows]] = {}
    for key, selected in shared.items():
        rows = np.unique(np.concatenate([own.rows for own in selected]))
        matrices[key] = selected[0].of[rows], rows

    def moved(points: Points | None) -> Points | None:
        if points is None or not isinstance(points.X, Selected):
            return points
        matrix, rows = matrices[id(points.X.of)]
        return replace(points, X=Selected(matrix, np.searchsorted(rows, points.X.rows).astype(np.int32)))

    def of_step(step: MergeStep) -> MergeStep:
        in_space = None if step.in_space is None else of_step(step.in_space)
        return replace(step, new=moved(step.new), ref=moved(step.ref), in_space=in_space)

    return [of_step(step) for step in steps]


def _sides(step: MergeStep) -> list[Points]:
    """Both sides' cells of a step, in all spaces; none without variance adjustment."""
    own = [points for points in (step.new, step.ref) if points is not None]
    return own if step.in_space is None else own + _sides(step.in_space)
