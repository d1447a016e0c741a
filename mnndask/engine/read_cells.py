"""Read the cells that a fit uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np

from mnndask._progress import counted, stage
from mnndask._typing import Block, Rows
from mnndask.core.fit_cells import FitCells, FitCellsInMemory
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.engine.batches import Batches, check_finite
from mnndask.engine.block_tasks import compute_each, over_blocks, rows_of_blocks
from mnndask.engine.chunks import dense_or_csr, in_row_chunks, stack_cells
from mnndask.engine.stored_cells import Spiller
from mnndask.stores.scratch import ScratchStore


def gather(arrays: Sequence[da.Array], rows: Sequence[Rows | None], n_jobs: int | None) -> list[Block]:
    """Read the given rows (None for all) of several arrays, in one pass over the chunks that contain them.

    Triggers one compute. Sparse chunks stay sparse. Progress counts each row once.
    """
    tasks, n_rows = [], 0
    counting = counted(_rows_of_chunk, rows=_n_rows)
    for X, wanted in zip(arrays, rows, strict=True):
        tasks.append(over_blocks("gather", counting, X, rows_of_blocks(X, wanted)))
        n_rows += X.shape[0] if wanted is None else len(wanted)
    return [
        blocks[0] if len(blocks) == 1 else stack_cells(blocks)
        for blocks in compute_each(tasks, n_jobs, n_rows)
    ]


def _rows_of_chunk(block: Any, rows: Rows | None) -> Block:
    X = dense_or_csr(block)
    return X if rows is None else X[rows]


def _n_rows(block: Any, rows: Rows | None) -> int:
    return int(block.shape[0]) if rows is None else len(rows)


def read_sketches(
    batches: Batches,
    chosen: Sequence[Rows | None],
    spaces: GeneSpaces,
    store: ScratchStore | None,
    n_jobs: int | None,
) -> list[FitCells]:
    """Read the chosen cells of each batch: lazy batches in one pass, and onto disk if there is a store."""
    wanted = []
    for b, rows in enumerate(chosen):
        source, own = batches.rows(b)
        wanted.append((source, rows if own is None else own if rows is None else own[rows]))
    batch_rows = [
        np.arange(n) if rows is None else rows for rows, n in zip(chosen, batches.n_cells, strict=True)
    ]
    title = "reading cells" if all(rows is None for rows in chosen) else "reading sketch"
    if store is not None and batches.lazy:
        # Some sources may be in memory beside lazy ones.
        arrays = [s.X if s.lazy else in_row_chunks(s.X, store.tile or 1) for s in batches.sources]
        spiller = Spiller(store, spaces)
        with stage(title, sum(map(len, batch_rows))):
            return list(spiller.sketches(arrays, wanted, batch_rows, batches.n_cells, batches.names, n_jobs))
    sketches: list[FitCells] = []
    lazy = [batches.sources[source].lazy for source, _ in wanted]
    with stage(title, sum(len(rows) for rows, read in zip(batch_rows, lazy, strict=True) if read)):
        matrices = _read_rows(batches, wanted, n_jobs)
    for (_, at), rows, X, n, name in zip(
        wanted, batch_rows, matrices, batches.n_cells, batches.names, strict=True
    ):
        check_finite(X, f"batch {name!r}", rows=at)
        sketches.append(FitCellsInMemory(X, rows, n))
    return sketches


def _read_rows(batches: Batches, wanted: list[tuple[int, Rows | None]], n_jobs: int | None) -> list[Block]:
    """Read the rows of each batch from its source; each chunk of a lazy source once, for all its batches."""
    lazy = [s for s, source in enumerate(batches.sources) if source.lazy]
    needed: dict[int, Rows | None] = {}
    for s in lazy:
        of_batches = [rows for source, rows in wanted if source == s]
        known = [rows for rows in of_batches if rows is not None]
        needed[s] = np.unique(np.concatenate(known)) if len(known) == len(of_batches) else None
    read = gather([batches.sources[s].X for s in lazy], [needed[s] for s in lazy], n_jobs)
    loaded = dict(zip(lazy, read, strict=True))
    matrices = []
    for s, rows in wanted:
        X: Block = loaded.get(s, batches.sources[s].X)
        rows_read = needed.get(s)
        if rows is not None and rows_read is not None:
            rows = None if len(rows_read) == len(rows) else np.searchsorted(rows_read, rows)
        matrices.append(X if rows is None else X[rows])
    return matrices
