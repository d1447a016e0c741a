"""Support of the cells of a chunk, of batches of which some cells were fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import block_rows, row_blocks
from mnndask._typing import Block, Floats
from mnndask.core.arrays import Points, tile_size
from mnndask.core.components import Components
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.support import BatchSupport
from mnndask.engine.batches import check_finite


@dataclass(frozen=True)
class ChunkSupport:
    """Finds the support of a chunk of rows of one source.

    Parameters
    ----------
    batches
        What is known of each batch with cells outside the fit.
    names
        Names of all batches.
    codes
        Batch of each row of the source, or the one batch of all rows.
    spaces, centre, components
        How raw expression becomes the *in* space.
    block_bytes
        Memory that a block of cells may take.
    """

    batches: dict[int, BatchSupport]
    names: list[str]
    codes: NDArray[np.integer] | int
    spaces: GeneSpaces
    centre: Floats
    components: Components | None
    block_bytes: int

    def of_chunk(self, X: Block, first: int) -> NDArray[np.float32]:
        """Support of the cells of a chunk whose first row is row `first` of the source; NaN if not wanted."""
        out = np.full(X.shape[0], np.nan, np.float32)
        for batch, known in self.batches.items():
            columns = 4 * self.spaces.n_near + 3 * tile_size(known.fitted)
            rows = self._rows_of(batch, X.shape[0], first)
            for block in row_blocks(
                len(rows), block_rows(columns, self.spaces.dtype.itemsize, self.block_bytes)
            ):
                own = rows[block]
                out[own] = known.of_cells(self._points(X[own], batch, own + first))
        return out

    def _rows_of(self, batch: int, n_rows: int, first: int) -> NDArray[np.intp]:
        if isinstance(self.codes, int):
            return np.arange(n_rows if batch == self.codes else 0)
        return np.flatnonzero(self.codes[first : first + n_rows] == batch)

    def _points(self, X: Block, batch: int, rows: NDArray[np.intp]) -> Points:
        check_finite(X, f"batch {self.names[batch]!r}", rows=rows)
        near = self.spaces.dense(X)[:, self.spaces.near]
        lengths = self.spaces.lengths(near, self.names[batch])
        cells = near / lengths if self.spaces.cos_norm_in else near
        return Points.of((cells if self.components is None else self.components.project(cells)) - self.centre)
