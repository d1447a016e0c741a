"""Coordinates of all cells in few dimensions, for geometric sketches, in two passes of bounded memory.

The first pass reads a pilot sample of each batch and finds the directions along which its cells vary. The
second projects every cell and gathers coordinates only: 80 MB for a million cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask._blocks import BLOCK_BYTES, block_rows, row_blocks
from mnndask._progress import counted, stage
from mnndask._threads import map_blocks, single_threaded_blas
from mnndask._typing import Block, Rows
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.kernels.csr_rows import N_DIMS
from mnndask.core.projection import as_csr, csr_lengths, directions, project
from mnndask.engine.batches import Batches, Source, check_finite
from mnndask.engine.block_tasks import BlockTasks, compute_each, over_blocks
from mnndask.engine.chunks import dense_or_csr
from mnndask.engine.run_options import RunOptions
from mnndask.stores.lazy_matrix import reblocked

PILOT_CELLS = 1_500
CELLS_PER_RUN = 10_000  # of a batch, per run of consecutive cells in its pilot: runs lie in few chunks
FEWEST_RUNS, MOST_RUNS = 4, 20
FEWEST_IN_RUN = 16  # cells per run at which runs are read one by one: each decodes a stored chunk or two


@dataclass(frozen=True)
class RowProjector:
    """Projects rows of one source. The result for a row does not depend on the block it is in.

    Parameters
    ----------
    batches
        Batch of each row of the source, or the one batch of all rows.
    names
        Names of the batches.
    near
        Columns used for distances.
    onto
        Directions onto which each batch is projected; None to return the cells unchanged.
    normalise
        Whether to divide projected cells by their length.
    """

    batches: NDArray[np.integer] | int
    names: list[str]
    near: Rows | slice
    onto: dict[int, NDArray[np.float64]] | None
    normalise: bool

    def read(self, X: Block, rows: Rows) -> Any:
        """Project the cells `X`, which are the given rows of the source."""
        codes = np.full(len(rows), self.batches) if isinstance(self.batches, int) else self.batches[rows]
        present = np.unique(codes)
        for batch in present:
            own = np.flatnonzero(codes == batch)
            check_finite(X if len(present) == 1 else X[own], f"batch {self.names[batch]!r}", rows=rows[own])
        if sparse.issparse(X):
            return self._project(X, codes)
        # Bounded, as CSR takes more memory than a dense block without zeros.
        blocks = row_blocks(len(rows), block_rows(3 * X.shape[1], 8, BLOCK_BYTES))
        parts = [self._project(X[block], codes[block]) for block in blocks]
        return sparse.vstack(parts, format="csr") if self.onto is None else np.concatenate(parts)

    def read_chunk(self, block: Any, start: int, rows: Rows | None) -> Any:
        """Project the given rows of a chunk that begins at row `start`; None for all of its rows."""
        X = dense_or_csr(block)
        return (
            self.read(X, np.arange(start, start + X.shape[0]))
            if rows is None
            else self.read(X[rows - start], rows)
        )

    def _project(self, X: Block, codes: NDArray[np.integer]) -> Any:
        cells = as_csr(X, self.near)
        if self.onto is None:
            return cells
        present = np.unique(codes)
        if len(present) == 1:
            return project(cells, self.onto[int(present[0])], normalise=self.normalise)
        out = np.empty((len(codes), N_DIMS))
        for batch in present:
            own = np.flatnonzero(codes == batch)
            out[own] = project(cells[own], self.onto[int(batch)], normalise=self.normalise)
        return out


def coordinates(
    inputs: Batches, spaces: GeneSpaces, batches: list[int], seeds: list[list[int]], run: RunOptions
) -> list[NDArray[np.float64]]:
    """Project all cells of some batches, each onto the leading directions of its own pilot.

    Triggers two computes for lazy data: of the chunks that contain the pilots, and of all chunks that contain
    cells of these batches. The result does not depend on chunks, the kind of input or threads.

    Parameters
    ----------
    inputs
        All batches.
    spaces
        Genes used for distances, and whether cells are divided by their length.
    batches
        Indices of the batches to project.
    seeds
        Seed of each batch's pilot.
    run
        Options of the run.

    Returns
    -------
    Coordinates of each batch's cells in the *in* space, shape ``(n_cells, N_DIMS)``.

    Raises
    ------
    InputError
        If cells of a pilot are too long for computations in this precision.
    """
    owned = {b: _rows_of(inputs, b) for b in batches}
    rngs = [np.random.default_rng(seed) for seed in seeds]
    pilots = {b: owned[b][_pilot_rows(len(owned[b]), rng)] for b, rng in zip(batches, rngs, strict=True)}
    with stage("reading pilot", sum(map(len, pilots.values()))):
        read = _over_sources(inputs, pilots, spaces, None, run)
    for b, pilot in zip(batches, read, strict=True):
        spaces.check_lengths(csr_lengths(pilot), inputs.names[b])
    with single_threaded_blas():
        onto = {
            b: directions(X, int(rng.integers(2**32)), normalise=spaces.cos_norm_in)
            for b, X, rng in zip(batches, read, rngs, strict=True)
        }
    with stage("drawing sketch", sum(map(len, owned.values()))):
        return _over_sources(inputs, owned, spaces, onto, run)


def _rows_of(inputs: Batches, batch: int) -> Rows:
    rows = inputs.rows(batch)[1]
    return np.arange(inputs.n_cells[batch]) if rows is None else rows


def _pilot_rows(n: int, rng: np.random.Generator) -> Rows:
    """Choose runs of consecutive cells spread over the batch, as cells are often stored by type; or all."""
    if n <= PILOT_CELLS:
        return np.arange(n)
    n_runs = min(max(n // CELLS_PER_RUN, FEWEST_RUNS), MOST_RUNS)
    length = PILOT_CELLS // n_runs
    cuts = np.linspace(0, n, n_runs + 1).astype(np.intp)
    starts = rng.integers(cuts[:-1], cuts[1:] - length, endpoint=True)
    return (starts[:, None] + np.arange(length)).ravel()


def _over_sources(
    inputs: Batches,
    wanted: dict[int, Rows],
    spaces: GeneSpaces,
    onto: dict[int, NDArray[np.float64]] | None,
    run: RunOptions,
) -> list[Any]:
    """Read rows of batches through a :class:`RowProjector`; lazy sources in one compute."""
    by_source: dict[int, list[Rows]] = {}
    for b, rows in wanted.items():
        by_source.setdefault(inputs.source_of(b), []).append(rows)
    needed = {s: np.sort(np.concatenate(parts)) for s, parts in by_source.items()}
    tasks, done = {}, {}
    for s, rows in needed.items():
        batches: NDArray[np.integer] | int = s if inputs.codes is None else inputs.codes
        projector = RowProjector(batches, inputs.names, spaces.near, onto, spaces.cos_norm_in)
        if inputs.sources[s].lazy:
            tasks[s] = _tasks(inputs.sources[s], projector, rows, s if inputs.codes is None else None)
        else:
            done[s] = _read_in_memory(inputs.sources[s], projector, rows, run.n_threads)
    n_read = sum(len(needed[s]) for s in tasks)
    done.update(dict(zip(tasks, compute_each(list(tasks.values()), run.n_jobs, n_read), strict=True)))
    stack: Callable[[Any], Any] = sparse.vstack if onto is None else np.concatenate
    stacked = {s: stack(parts) for s, parts in done.items()}
    out = []
    for b, rows in wanted.items():
        s = inputs.source_of(b)
        out.append(
            stacked[s] if len(needed[s]) == len(rows) else stacked[s][np.searchsorted(needed[s], rows)]
        )
    return out


def _tasks(source: Source, projector: RowProjector, rows: Rows, batch: int | None) -> BlockTasks:
    """Create one task per chunk that contains some of the rows, or per run of rows."""
    X = _in_runs(source.X, rows)
    starts = np.cumsum((0, *X.chunks[0]))
    cuts = np.searchsorted(rows, starts)
    read = counted(projector.read_chunk, rows=_n_read)
    wanted = {
        int(i): (int(starts[i]), None if cuts[i + 1] - cuts[i] == n else rows[cuts[i] : cuts[i + 1]])
        for i, n in enumerate(X.chunks[0])
        if cuts[i + 1] > cuts[i]
    }
    return over_blocks("sketch", read, X, wanted, batch)


def _in_runs(X: da.Array, rows: Rows) -> da.Array:
    """Cut the blocks of a matrix at the ends of runs of rows, if the runs are long and it can be read so."""
    firsts = np.flatnonzero(np.diff(rows, prepend=-2) > 1)
    starts, ends = rows[firsts], rows[np.append(firsts[1:], len(rows)) - 1] + 1
    if len(rows) == X.shape[0] or len(rows) < FEWEST_IN_RUN * len(starts):
        return X
    cuts = np.unique(np.concatenate([[0], starts, ends, np.cumsum(X.chunks[0])]))
    return reblocked(X, tuple(map(int, np.diff(cuts))))


def _read_in_memory(source: Source, projector: RowProjector, rows: Rows, n_threads: int) -> list[Any]:
    """Read rows of a source in memory, in blocks on threads."""
    whole = len(rows) == source.X.shape[0]

    def read_block(block: slice) -> Any:
        return projector.read(source.X[block if whole else rows[block]], rows[block])

    blocks = row_blocks(len(rows), block_rows(4 * source.X.shape[1], 8, BLOCK_BYTES))
    return map_blocks(counted(read_block), blocks, n_threads)


def _n_read(block: Any, start: int, rows: Rows | None) -> int:
    return int(block.shape[0]) if rows is None else len(rows)
