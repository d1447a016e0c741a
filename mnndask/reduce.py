"""Stages of a fit over stored matrices, as dask tasks: maps over blocks, and tree-shaped reductions."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import dask
import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from mnndask.kernels.distances import Matrix, Points, pieces
from mnndask.kernels.quantiles import QuantileSearch, Tally, add_tallies
from mnndask.kernels.variance import Lines, Share, add_shares
from mnndask.parallel import effective_n_jobs, row_blocks, single_threaded_blas
from mnndask.progress import counted, watched

T = TypeVar("T")

PASSES = 4  # over the cells, usually: a partial one, two to bracket the quantile, the final one
TILES_PER_TASK = 4  # of the other side: the cells on whose lines they are seen are loaded once for them
FAN_IN = 8  # partials that one task adds up


def threads(n_jobs: int | None) -> dict[str, int]:
    """What `n_jobs` means to dask; nothing, if None: its own configuration holds."""
    return {} if n_jobs is None else {"num_workers": effective_n_jobs(n_jobs)}


def map_stage(
    stage: str,
    function: Callable[[slice], T],
    blocks: Sequence[slice],
    n_jobs: int | None,
    counts: float = 0,
) -> list[T]:
    """Call a function on every block as a task of its own; results in order. Triggers one compute.

    On a cluster they advance the progress that is shown by `counts` in all.
    """
    named = tasks_of(stage)
    return compute([named(function, block) for block in blocks], n_jobs, counts)


def tasks_of(stage: str) -> Callable[..., Delayed]:
    """Makes tasks whose names tell their stage.

    A function, with all that it holds, is one value in the graph for all of its tasks.
    """
    token = uuid.uuid4().hex
    held: dict[int, tuple[Any, Delayed]] = {}  # by identity, with what keeps that from being reused

    def task(function: Callable[..., Any], *args: Any) -> Delayed:
        if id(function) not in held:
            name = f"mnn-held-{token}-{uuid.uuid4().hex}"
            held[id(function)] = function, dask.delayed(function, name=name, traverse=False)
        key = f"mnn-{stage}-{token}-{uuid.uuid4().hex}"
        on_one_thread = dask.delayed(_on_one_thread, pure=False)
        made: Delayed = on_one_thread(held[id(function)][1], *args, dask_key_name=key)
        return made

    return task


def _on_one_thread(function: Callable[..., T], *args: Any) -> T:
    with single_threaded_blas():
        return function(*args)


def compute(tasks: list[Delayed], n_jobs: int | None, counts: float) -> list[Any]:
    """Compute tasks; on a cluster they advance the progress that is shown by `counts` in all."""
    with watched(tasks, counts):
        return list(dask.compute(*tasks, **threads(n_jobs)))


def compute_lists(lists: Sequence[list[Delayed]], n_jobs: int | None, counts: float) -> list[list[Any]]:
    """Compute lists of tasks, all together; likewise."""
    with watched([task for tasks in lists for task in tasks], counts):
        return list(dask.compute(*lists, **threads(n_jobs)))


def _tree(parts: list[Delayed], add: Callable[..., Any], stage: str) -> Delayed:
    """Add up partials, a few at a time."""
    named = tasks_of(stage)
    while len(parts) > 1:
        parts = [named(add, parts[i : i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
    return parts[0]


@dataclass(frozen=True)
class VarianceReduction:
    """Variance factors of cells that are chunked, against two sides that are chunked.

    Each task sees a block of cells and some tiles of one side; partials are small and add up in a tree. Their
    size depends on the block alone, not on the number of cells of either side.

    Parameters
    ----------
    cells
        The cells of the new batch; also its own side.
    vectors
        Their correction vectors.
    ref
        The reference's side.
    sigma, scale
        As in :func:`mnndask.kernels.variance.variance_factors`.
    """

    cells: Points
    vectors: Matrix
    ref: Points
    sigma: float
    scale: float

    def factors(self, tile: int, n_jobs: int | None) -> NDArray[np.float64]:
        """Make the factors, shape ``(n_cells,)``. Triggers a compute for each round of the search."""
        blocks = row_blocks(len(self.cells), tile)
        searches = self._begin(blocks, n_jobs)
        while todo := [i for i, search in enumerate(searches) if not search.done]:
            rounds = self._round([(blocks[i], searches[i]) for i in todo], n_jobs)
            for i, search in zip(todo, rounds, strict=True):
                searches[i] = search
        reach = dict(zip([b.start for b in blocks], [s.found for s in searches], strict=True))
        found = map_stage(
            "variance-finalise",
            counted(lambda at: self._lines(at).factors(reach[at.start])),
            blocks,
            n_jobs,
            len(self.cells),
        )
        return np.concatenate(found)

    def _lines(self, at: slice) -> Lines:
        return Lines.of(self.cells[at], self.vectors[at], self.sigma, self.scale)

    def _begin(self, blocks: list[slice], n_jobs: int | None) -> list[QuantileSearch]:
        partial, begin = tasks_of("variance-partial"), tasks_of("variance-bracket")
        share, search, tasks = self._share, counted(self._search), []
        for block in blocks:
            parts = [partial(share, block, run) for run in _runs(self.cells)]
            tasks.append(begin(search, block, _tree(parts, self._add_shares, "variance-combine")))
        return compute(tasks, n_jobs, len(self.cells))

    def _round(
        self, searches: list[tuple[slice, QuantileSearch]], n_jobs: int | None
    ) -> list[QuantileSearch]:
        partial, after = tasks_of("variance-partial"), tasks_of("variance-bracket")
        tally, tasks, n_cells = self._tally, [], 0
        for block, search in searches:
            parts = [partial(tally, block, search, run) for run in _runs(self.ref)]
            own = block.stop - block.start
            n_cells += own
            bracketed = counted(search.after, rows=lambda _, own=own: own)
            tasks.append(after(bracketed, _tree(parts, self._add_tallies, "variance-combine")))
        return compute(tasks, n_jobs, n_cells)

    def _share(self, block: slice, run: list[slice]) -> Share:
        lines = self._lines(block)
        return self._add_shares(lines.share_of(self.cells[at]) for at in run)

    def _tally(self, block: slice, search: QuantileSearch, run: list[slice]) -> Tally:
        lines = self._lines(block)
        return self._add_tallies(lines.tally(search, self.ref[at]) for at in run)

    def _search(self, block: slice, share: Share) -> QuantileSearch:
        return self._lines(block).search(share, self.ref)

    def _add_shares(self, shares: Iterable[Share]) -> Share:
        return add_shares(shares, self.sigma)

    def _add_tallies(self, tallies: Iterable[Tally]) -> Tally:
        return add_tallies(tallies, self.sigma)


def _runs(points: Points) -> list[list[slice]]:
    tiles = list(pieces(len(points), points.tile))
    return [tiles[i : i + TILES_PER_TASK] for i in range(0, len(tiles), TILES_PER_TASK)]
