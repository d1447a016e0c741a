"""Support of cells: whether anything is known of their correction from cells like them.

A cell's support is the share of anchors among its nearest fitted cells of its own batch, with the refined
pairs. Where it is low, few cells found a partner, and corrections come from farther away: the type may be
absent from the reference. It is a hint: types that are strongly shifted have little support, too, as have
those of which the reference has far fewer cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask._typing import Rows
from mnndask.core.arrays import Points
from mnndask.core.distances import Tolerances
from mnndask.core.history import MergeHistory
from mnndask.core.neighborhoods import nearest_members

N_NEAREST = 20  # fitted cells, a fitted cell itself among them
CELLS_AT_ONCE = 1000
LITTLE = 0.5  # support below which a cell's type may be absent from the reference


@dataclass(frozen=True)
class BatchSupport:
    """Fitted cells of a batch, by which the support of its other cells is found.

    Parameters
    ----------
    fitted
        The cells, in *in* space.
    is_anchor
        Whether each is in a pair, shape ``(n_cells,)``.
    tolerance
        Squared distances that differ by less are ties.
    """

    fitted: Points
    is_anchor: NDArray[np.bool_]
    tolerance: float

    @classmethod
    def of(cls, history: MergeHistory, batch: int) -> BatchSupport:
        """Those of a batch, with the anchors of its last merge."""
        space, merge = history.cells.space_in, history.last_merge_of(batch)
        assert merge is not None
        fitted = space.points[batch]
        norm = float(np.median(space.tolerance_norms[batch]))
        tolerance = Tolerances.of(history.cells.spaces.dtype).squared_distance * norm**2
        anchors, _ = merge.anchors_of(batch, history.cells.n_fitted)
        return cls(fitted, marked(anchors, len(fitted)), tolerance)

    def of_cells(self, cells: Points) -> NDArray[np.float32]:
        """Support of cells of the batch, in *in* space and in memory, shape ``(n_cells,)``."""
        tolerance = np.full(len(cells), self.tolerance)
        (members,) = nearest_members(cells, self.fitted, [N_NEAREST], tolerance)
        return shares(members, self.is_anchor)


def with_support(history: MergeHistory) -> MergeHistory:
    """The history with the support of all fitted cells."""
    return replace(history, support=tuple(_of_fitted(history, b) for b in range(len(history.cells.names))))


def _of_fitted(history: MergeHistory, batch: int) -> NDArray[np.float32] | None:
    """Support of a batch's fitted cells; None if it never moves."""
    merge = history.last_merge_of(batch)
    if merge is None or merge.support is not None:
        return None if merge is None else merge.support
    own = BatchSupport.of(history, batch)
    parts = [own.of_cells(own.fitted[at]) for at in row_blocks(len(own.fitted), CELLS_AT_ONCE)]
    return np.concatenate(parts)


def marked(rows: Rows, n: int) -> NDArray[np.bool_]:
    """Whether each of `n` cells is among some."""
    out = np.zeros(n, bool)
    out[rows] = True
    return out


def shares(members: NDArray[np.integer], is_anchor: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Share of anchors among the members of each row."""
    return np.asarray(is_anchor[members].mean(axis=1), np.float32)
