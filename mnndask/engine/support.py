"""Support of all cells: of those that the fit used, as it found it; of others, by one more pass over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mnndask._progress import counted, stage
from mnndask._threads import map_blocks, shared_blocks, single_threaded_blas
from mnndask.core.history import MergeHistory
from mnndask.core.support import BatchSupport
from mnndask.engine.batches import Batches
from mnndask.engine.block_tasks import compute_each, over_blocks
from mnndask.engine.chunk_support import ChunkSupport
from mnndask.engine.chunks import dense_or_csr
from mnndask.engine.run_options import RunOptions
from mnndask.engine.shared_model import SharedModel, SharedModelPath

_of_all: ContextVar[bool] = ContextVar("mnndask_support", default=False)


@contextmanager
def reading_all_cells() -> Iterator[None]:
    """Have lazy cells that no fit reads be read for their support, whose values are else missing."""
    token = _of_all.set(True)
    try:
        yield
    finally:
        _of_all.reset(token)


Shared: TypeAlias = SharedModel[list[ChunkSupport]] | SharedModelPath[list[ChunkSupport]]


def support_of_cells(inputs: Batches, history: MergeHistory, run: RunOptions) -> list[NDArray[np.float32]]:
    """Return the support of all cells of each batch; NaN for the first, the reference, and where not known.

    That of cells outside the fit is known if they are in memory, or if all cells are read (see
    :func:`reading_all_cells`); this triggers a compute, and reads each chunk once.
    """
    raw = history.cells.raw
    out = [np.full(cells.n_cells, np.nan, np.float32) for cells in raw]
    incomplete = {
        b: BatchSupport.of(history, b)
        for b, own in enumerate(history.support)
        if own is not None and len(raw[b].rows) < raw[b].n_cells
    }
    if incomplete and (_of_all.get() or not inputs.lazy):
        n_cells = sum(raw[b].n_cells for b in incomplete)
        with stage("finding the support of all cells", n_cells):
            _fill(out, inputs, history, incomplete, run)
    for b, own in enumerate(history.support):
        if own is not None:
            out[b][raw[b].rows] = own
    return out


def _fill(
    out: list[NDArray[np.float32]],
    inputs: Batches,
    history: MergeHistory,
    batches: dict[int, BatchSupport],
    run: RunOptions,
) -> None:
    cells, space = history.cells, history.cells.space_in
    of_space = cells.spaces, space.centre, space.components, run.budget.block_bytes
    sources = range(len(inputs.sources))
    codes = list(sources) if inputs.codes is None else [inputs.codes]
    chunks = []
    for s in sources:
        own = {b: known for b, known in batches.items() if inputs.codes is not None or b == s}
        chunks.append(ChunkSupport(own, cells.names, codes[s], *of_space))
    shared = SharedModel(chunks, run.scratch_location)
    wanted = [s for s in sources if chunks[s].batches]
    values = [_of_source(inputs.sources[s].X, shared, s, run, lazy=inputs.sources[s].lazy) for s in wanted]
    of_source = dict(zip(wanted, values, strict=True))
    for b in batches:
        source, rows = inputs.rows(b)
        out[b][:] = of_source[source] if rows is None else of_source[source][rows]


def _of_source(X: Any, shared: Shared, source: int, run: RunOptions, *, lazy: bool) -> NDArray[np.float32]:
    """Support of the cells of one source."""
    if not lazy:

        def one(at: slice) -> NDArray[np.float32]:
            return shared.get()[source].of_chunk(X[at], at.start)

        with single_threaded_blas():
            blocks = shared_blocks(X.shape[0], run.n_threads, X.shape[0])
            return np.concatenate(map_blocks(counted(one), blocks, run.n_threads))
    call = counted(partial(_of_chunk, shared, source), rows=lambda block, _: block.shape[0])
    starts = np.cumsum((0, *X.chunks[0]))[:-1]
    tasks = over_blocks("support", call, X, {i: (int(first),) for i, first in enumerate(starts)})
    return np.concatenate(compute_each([tasks], run.n_jobs, X.shape[0])[0])


def _of_chunk(shared: Shared, source: int, block: Any, first: int) -> NDArray[np.float32]:
    return shared.get()[source].of_chunk(dense_or_csr(block), first)
