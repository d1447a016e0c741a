"""Variance adjustment as a reduction over tiles (definition, step 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask._progress import counted
from mnndask._typing import Matrix
from mnndask.core.arrays import Points
from mnndask.core.batch_weights import BatchWeights, add_batch_weights
from mnndask.core.quantile_search import QuantileSearch, Tally, add_tallies
from mnndask.core.variance import Lines
from mnndask.engine.block_tasks import map_stage
from mnndask.engine.tasks import compute, named_tasks

PASSES = 4  # usual passes over the cells: the partials, two that bracket the quantile, the final one
TILES_PER_TASK = 4  # tiles of one side for which the cells to correct are loaded once
FAN_IN = 8  # partials that one task adds


def _tree(parts: list[Delayed], add: Callable[..., Any], stage: str) -> Delayed:
    """Add partials in a tree, a few at a time."""
    named = named_tasks(stage)
    while len(parts) > 1:
        parts = [named(add, parts[i : i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
    return parts[0]


@dataclass(frozen=True)
class VarianceReduction:
    """Variance factors of the cells of a new batch, in tasks over tiles of the two sides.

    Each task reads a block of cells and some tiles of one side, and returns a small partial. Its size depends
    on the block, not on the number of cells of either side. Partials are added in a tree.

    Parameters
    ----------
    cells
        Cells of the new batch: the cells to correct, and one of the two sides.
    vectors
        Their correction vectors.
    ref
        Cells of the reference, the other side.
    sigma, scale
        As in :func:`mnndask.core.variance.variance_factors`.
    """

    cells: Points
    vectors: Matrix
    ref: Points
    sigma: float
    scale: float

    def factors(self, tile: int, n_jobs: int | None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the factors, and whether rounding may decide them, shape ``(n_cells,)``.

        Triggers a compute per round of the search, plus two.
        """
        blocks = row_blocks(len(self.cells), tile)
        searches = self._begin(blocks, n_jobs)
        while todo := [i for i, search in enumerate(searches) if not search.done]:
            rounds = self._round([(blocks[i], searches[i]) for i in todo], n_jobs)
            for i, search in zip(todo, rounds, strict=True):
                searches[i] = search
        reach = dict(zip([b.start for b in blocks], [s.found for s in searches], strict=True))
        factors = map_stage(
            "variance-finalise",
            counted(lambda at: self._lines(at).factors(reach[at.start])),
            blocks,
            n_jobs,
            len(self.cells),
        )
        return np.concatenate(factors), np.concatenate([search.doubtful for search in searches])

    def _lines(self, at: slice) -> Lines:
        return Lines.of(self.cells[at], self.vectors[at], self.sigma, self.scale)

    def _begin(self, blocks: list[slice], n_jobs: int | None) -> list[QuantileSearch]:
        partial, begin = named_tasks("variance-partial"), named_tasks("variance-bracket")
        weights, search, tasks = self._weights, counted(self._search), []
        for block in blocks:
            parts = [partial(weights, block, tiles) for tiles in _tile_groups(self.cells)]
            tasks.append(begin(search, block, _tree(parts, self._add_weights, "variance-combine")))
        return compute(tasks, n_jobs, len(self.cells))

    def _round(
        self, searches: list[tuple[slice, QuantileSearch]], n_jobs: int | None
    ) -> list[QuantileSearch]:
        partial, after = named_tasks("variance-partial"), named_tasks("variance-bracket")
        tally, tasks, n_cells = self._tally, [], 0
        for block, search in searches:
            parts = [partial(tally, block, search, tiles) for tiles in _tile_groups(self.ref)]
            n_rows = block.stop - block.start
            n_cells += n_rows
            bracketed = counted(search.after, rows=lambda _, n_rows=n_rows: n_rows)
            tasks.append(after(bracketed, _tree(parts, self._add_tallies, "variance-combine")))
        return compute(tasks, n_jobs, n_cells)

    def _weights(self, block: slice, tiles: list[slice]) -> BatchWeights:
        lines = self._lines(block)
        return self._add_weights(lines.batch_weights(self.cells[at]) for at in tiles)

    def _tally(self, block: slice, search: QuantileSearch, tiles: list[slice]) -> Tally:
        lines = self._lines(block)
        return self._add_tallies(lines.tally(search, self.ref[at]) for at in tiles)

    def _search(self, block: slice, weights: BatchWeights) -> QuantileSearch:
        return self._lines(block).search(weights, self.ref)

    def _add_weights(self, weights: Iterable[BatchWeights]) -> BatchWeights:
        return add_batch_weights(weights, self.sigma)

    def _add_tallies(self, tallies: Iterable[Tally]) -> Tally:
        return add_tallies(tallies, self.sigma)


def _tile_groups(points: Points) -> list[list[slice]]:
    tiles = row_blocks(len(points), points.tile)
    return [tiles[i : i + TILES_PER_TASK] for i in range(0, len(tiles), TILES_PER_TASK)]
