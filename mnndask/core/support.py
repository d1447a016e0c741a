"""Support of cells: whether anything is known of their correction from cells like them.

A cell's support is the share of anchors among its nearest fitted cells of its own batch, with the refined
pairs. Where it is low, few cells found a partner, and corrections come from farther away: the type may be
absent from the reference. It is a hint: types that are strongly shifted have little support, too, as have
those of which the reference has far fewer cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Rows
from mnndask.core.arrays import Points
from mnndask.core.distances import Tolerances
from mnndask.core.history import Merge, MergeHistory
from mnndask.core.neighborhoods import nearest_members

N_NEAREST = 20  # fitted cells, a fitted cell itself among them
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
    def of(cls, history: MergeHistory, merge: Merge) -> BatchSupport:
        """Those of the batch of a merge."""
        space = history.cells.space_in
        fitted = space.points[merge.batch]
        norm = float(np.median(space.tolerance_norms[merge.batch]))
        tolerance = Tolerances.of(history.cells.spaces.dtype).squared_distance * norm**2
        return cls(fitted, marked(merge.pairs.anchors, len(fitted)), tolerance)

    def of_cells(self, cells: Points) -> NDArray[np.float32]:
        """Support of cells of the batch, in *in* space and in memory, shape ``(n_cells,)``."""
        tolerance = np.full(len(cells), self.tolerance)
        (members,) = nearest_members(cells, self.fitted, [N_NEAREST], tolerance)
        return shares(members, self.is_anchor)


def marked(rows: Rows, n: int) -> NDArray[np.bool_]:
    """Whether each of `n` cells is among some."""
    out = np.zeros(n, bool)
    out[rows] = True
    return out


def shares(members: NDArray[np.integer], is_anchor: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Share of anchors among the members of each row."""
    return np.asarray(is_anchor[members].mean(axis=1), np.float32)
