"""Coordinates of all cells in few dimensions, in two passes of bounded memory: what covering them needs.

The first pass reads a pilot of each batch, to find the directions along which its cells vary; the second
projects every cell. What it gathers are coordinates only: 80 MB for a million cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask.budget import BLOCK_BYTES
from mnndask.inputs import Inputs
from mnndask.kernels.neighbors import Rows
from mnndask.kernels.projection import N_DIMS, as_csr, csr_lengths, directions, project
from mnndask.lazy import plain
from mnndask.parallel import block_rows, map_blocks, row_blocks, single_threaded_blas
from mnndask.progress import counted, stage
from mnndask.reading import reblocked
from mnndask.reduce import compute_lists, tasks_of
from mnndask.sources import Source, check_finite
from mnndask.spaces import Block, GeneSpaces

PILOT_CELLS = 1_500
CELLS_PER_RUN = 10_000  # of the batch, for each run of neighbouring cells in the pilot: few chunks are read
FEWEST_RUNS, MOST_RUNS = 4, 20
FEWEST_IN_RUN = 16  # for runs to be read one by one, each of which decodes a stored chunk or two


@dataclass(frozen=True)
class BlockReader:
    """Turns some rows of one source into rows of few numbers; each row on its own, whatever the block.

    Parameters
    ----------
    batches
        Batch of each row of the source, or the one batch of all.
    names
        Names of the batches.
    near
        Columns used for distances.
    onto
        Directions to project each batch on; None to give the cells as they are.
    normalise
        Whether to divide projected cells by their length.
    """

    batches: NDArray[np.intp] | int
    names: list[str]
    near: Rows | slice
    onto: dict[int, NDArray[np.float64]] | None
    normalise: bool

    def read(self, X: Block, rows: Rows) -> Any:
        """Take the cells `X`, which are these rows of the source."""
        codes = np.full(len(rows), self.batches) if isinstance(self.batches, int) else self.batches[rows]
        present = np.unique(codes)
        for batch in present:
            own = np.flatnonzero(codes == batch)
            check_finite(X if len(present) == 1 else X[own], f"batch {self.names[batch]!r}", rows=rows[own])
        if sparse.issparse(X):
            return self._few(X, codes)
        blocks = row_blocks(
            len(rows), block_rows(3 * X.shape[1], 8, BLOCK_BYTES)
        )  # a dense block may have no zeros
        parts = [self._few(X[block], codes[block]) for block in blocks]
        return sparse.vstack(parts, format="csr") if self.onto is None else np.concatenate(parts)

    def read_chunk(self, block: Any, start: int, rows: Rows | None) -> Any:
        """The same from a chunk that begins at row `start`; None for all of its rows."""
        X = plain(block)
        return (
            self.read(X, np.arange(start, start + X.shape[0]))
            if rows is None
            else self.read(X[rows - start], rows)
        )

    def _few(self, X: Block, codes: NDArray[np.intp]) -> Any:
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
    inputs: Inputs, spaces: GeneSpaces, batches: list[int], seeds: list[list[int]], n_jobs: int | None
) -> list[NDArray[np.float64]]:
    """Project all cells of some batches, each on the leading directions of a pilot of its own.

    Triggers two computes where data is lazy: of the chunks that hold the pilot, and of all that hold cells of
    these batches. The result does not depend on chunks, the kind of input or threads.

    Parameters
    ----------
    inputs
        What came in.
    spaces
        Which genes are used for distances, and whether cells are divided by their length.
    batches
        Which batches.
    seeds
        Seed of each batch's pilot.

    Returns
    -------
    Coordinates of each batch's cells in the *in* space, shape ``(n_cells, N_DIMS)``.

    Raises
    ------
    InputError
        If a pilot holds cells that are too long to compute with.
    """
    owned = {b: _rows_of(inputs, b) for b in batches}
    rngs = [np.random.default_rng(seed) for seed in seeds]
    pilots = {b: owned[b][_pilot_rows(len(owned[b]), rng)] for b, rng in zip(batches, rngs, strict=True)}
    with stage("reading pilot", sum(map(len, pilots.values()))):
        read = _over_sources(inputs, pilots, spaces, None, n_jobs)
    for b, pilot in zip(batches, read, strict=True):
        spaces.check_lengths(csr_lengths(pilot), inputs.names[b])
    with single_threaded_blas():
        onto = {
            b: directions(X, int(rng.integers(2**32)), normalise=spaces.cos_norm_in)
            for b, X, rng in zip(batches, read, rngs, strict=True)
        }
    with stage("drawing sketch", sum(map(len, owned.values()))):
        return _over_sources(inputs, owned, spaces, onto, n_jobs)


def _rows_of(inputs: Inputs, batch: int) -> Rows:
    rows = inputs.rows(batch)[1]
    return np.arange(inputs.n_cells[batch]) if rows is None else rows


def _pilot_rows(n: int, rng: np.random.Generator) -> Rows:
    """Runs of cells, one in each part of the batch, as cells are often stored by type; all of a small one."""
    if n <= PILOT_CELLS:
        return np.arange(n)
    n_runs = min(max(n // CELLS_PER_RUN, FEWEST_RUNS), MOST_RUNS)
    length = PILOT_CELLS // n_runs
    cuts = np.linspace(0, n, n_runs + 1).astype(np.intp)
    starts = rng.integers(cuts[:-1], cuts[1:] - length, endpoint=True)
    return (starts[:, None] + np.arange(length)).ravel()


def _over_sources(
    inputs: Inputs,
    wanted: dict[int, Rows],
    spaces: GeneSpaces,
    onto: dict[int, NDArray[np.float64]] | None,
    n_jobs: int | None,
) -> list[Any]:
    """Read rows of batches through a :class:`BlockReader`; lazy sources in one compute."""
    by_source: dict[int, list[Rows]] = {}
    for b, rows in wanted.items():
        by_source.setdefault(inputs.rows(b)[0], []).append(rows)
    needs = {s: np.sort(np.concatenate(parts)) for s, parts in by_source.items()}
    tasks, done = {}, {}
    for s, rows in needs.items():
        batches: NDArray[np.intp] | int = s if inputs.codes is None else inputs.codes
        reader = BlockReader(batches, inputs.names, spaces.near, onto, spaces.cos_norm_in)
        if inputs.sources[s].lazy:
            tasks[s] = _tasks(inputs.sources[s], reader, rows)
        else:
            done[s] = _in_memory(inputs.sources[s], reader, rows, n_jobs)
    n_read = sum(len(needs[s]) for s in tasks)
    done.update(dict(zip(tasks, compute_lists(list(tasks.values()), n_jobs, n_read), strict=True)))
    stack: Callable[[Any], Any] = sparse.vstack if onto is None else np.concatenate
    stacked = {s: stack(parts) for s, parts in done.items()}
    out = []
    for b, rows in wanted.items():
        s = inputs.rows(b)[0]
        out.append(stacked[s] if len(needs[s]) == len(rows) else stacked[s][np.searchsorted(needs[s], rows)])
    return out


def _tasks(source: Source, reader: BlockReader, rows: Rows) -> list[Any]:
    """One task per chunk that holds some of the rows, or per run of them."""
    X = _in_runs(source.X, rows)
    starts = np.cumsum((0, *X.chunks[0]))
    cuts = np.searchsorted(rows, starts)
    sketch, read = tasks_of("sketch"), counted(reader.read_chunk, rows=_n_read)
    tasks = []
    for block, start, n, low, high in zip(
        X.to_delayed().ravel(), starts, X.chunks[0], cuts, cuts[1:], strict=False
    ):
        if high > low:
            tasks.append(sketch(read, block, int(start), None if high - low == n else rows[low:high]))
    return tasks


def _in_runs(X: da.Array, rows: Rows) -> da.Array:
    """Same matrix in blocks that begin and end with runs of rows, where these are long and it can be."""
    firsts = np.flatnonzero(np.diff(rows, prepend=-2) > 1)
    starts, ends = rows[firsts], rows[np.append(firsts[1:], len(rows)) - 1] + 1
    if len(rows) == X.shape[0] or len(rows) < FEWEST_IN_RUN * len(starts):
        return X
    cuts = np.unique(np.concatenate([[0], starts, ends, np.cumsum(X.chunks[0])]))
    return reblocked(X, tuple(map(int, np.diff(cuts))))


def _in_memory(source: Source, reader: BlockReader, rows: Rows, n_jobs: int | None) -> list[Any]:
    """The same by blocks of rows, on threads."""
    whole = len(rows) == source.X.shape[0]

    def one(block: slice) -> Any:
        return reader.read(source.X[block if whole else rows[block]], rows[block])

    blocks = row_blocks(len(rows), block_rows(4 * source.X.shape[1], 8, BLOCK_BYTES))
    return map_blocks(counted(one), blocks, n_jobs)


def _n_read(block: Any, start: int, rows: Rows | None) -> int:
    return int(block.shape[0]) if rows is None else len(rows)
