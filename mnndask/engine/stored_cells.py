"""Fitted cells that do not fit in memory: their raw expression, stored in one pass over the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask._progress import counted
from mnndask._typing import Floats, Matrix, Rows
from mnndask.core.arrays import Stacked
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.engine.batches import check_finite
from mnndask.engine.block_tasks import BlockTasks, compute_each, over_blocks, rows_of_blocks
from mnndask.engine.chunks import dense_or_csr
from mnndask.stores.scratch import ScratchStore, StoredMatrix

CHUNK_VALUES = 2**18


@dataclass(frozen=True)
class StoredColumns:
    """Expression of some cells in compressed columns, so that a block of genes is contiguous.

    Parameters
    ----------
    data, indices
        As in a CSC matrix, each stored as a matrix of one row.
    indptr
        Position at which each gene's values begin, stored likewise.
    n_cells
        Number of cells.
    """

    data: StoredMatrix
    indices: StoredMatrix
    indptr: StoredMatrix
    n_cells: int

    @classmethod
    def of(cls, X: sparse.csc_matrix, store: ScratchStore, name: str) -> StoredColumns:
        """Store a matrix."""
        parts = []
        for part in ("data", "indices", "indptr"):
            values = getattr(X, part)
            parts.append(store.matrix(f"{name}-{part}", (1, len(values)), values.dtype, CHUNK_VALUES))
            parts[-1][:] = values[None]
        return cls(parts[0], parts[1], parts[2], X.shape[0])

    def columns(self, genes: slice) -> sparse.csc_matrix:
        """Read a block of genes."""
        indptr = self.indptr[:, genes.start : genes.stop + 1][0]
        at = slice(int(indptr[0]), int(indptr[-1]))
        shape = (self.n_cells, genes.stop - genes.start)
        return sparse.csc_matrix(
            (self.data[:, at][0], self.indices[:, at][0], indptr - at.start), shape=shape
        )


@dataclass(frozen=True)
class FitCellsOnDisk:
    """Fitted cells of one batch, with raw expression on disk in one matrix per input chunk.

    Parameters
    ----------
    near_matrices
        Genes used for distances, dense.
    rest_columns
        The other genes, sparse.
    rows, n_cells
        As in :class:`~mnndask.core.fit_cells.FitCells`.
    """

    near_matrices: Stacked
    rest_columns: list[StoredColumns]
    rows: Rows
    n_cells: int

    def near(self, spaces: GeneSpaces, block: slice) -> Floats:
        """Return the raw expression of the genes used for distances, dense."""
        return self.near_matrices[block]

    def rest(self, spaces: GeneSpaces, cells: Rows, genes: slice) -> Floats:
        """Return the raw expression of some of the other genes, dense."""
        out = np.empty((len(cells), genes.stop - genes.start), spaces.dtype)
        start = 0
        for stored in self.rest_columns:
            own = np.flatnonzero((cells >= start) & (cells < start + stored.n_cells))
            if len(own):
                out[own] = stored.columns(genes).tocsr()[cells[own] - start].toarray()
            start += stored.n_cells
        return out

    def express_rest(self, spaces: GeneSpaces, cells: Rows) -> NDArray[np.bool_]:
        """Return whether each cell expresses any of the other genes."""
        genes = slice(0, len(spaces.rest))
        expressed = [np.diff(stored.columns(genes).tocsr().indptr) > 0 for stored in self.rest_columns]
        return np.concatenate(expressed)[cells]


@dataclass(frozen=True)
class Spiller:
    """Reads fitted cells from chunks of lazy arrays and writes them to a run store.

    Parameters
    ----------
    store
        Store to write to.
    spaces
        Genes used for distances.
    """

    store: ScratchStore
    spaces: GeneSpaces

    def sketches(
        self,
        arrays: Sequence[Matrix],
        wanted: Sequence[tuple[int, Rows | None]],
        batch_rows: Sequence[Rows],
        n_cells: Sequence[int],
        names: Sequence[str],
        n_jobs: int | None,
    ) -> list[FitCellsOnDisk]:
        """Read and store each batch's cells, in one pass over all arrays. Triggers one compute.

        Progress counts each cell once.

        Parameters
        ----------
        arrays
            Lazy arrays, chunked along cells only.
        wanted
            Index of each batch's array, and the rows of that array (None for all).
        batch_rows
            The same cells, as rows of the batch.
        n_cells, names
            Sizes and names of the batches.
        """
        tasks = [self._tasks(arrays[a], rows, b, names[b]) for b, (a, rows) in enumerate(wanted)]
        stored = compute_each(tasks, n_jobs, sum(map(len, batch_rows)))
        return [
            FitCellsOnDisk(Stacked(tuple(near for near, _ in chunks)), [r for _, r in chunks if r], rows, n)
            for chunks, rows, n in zip(stored, batch_rows, n_cells, strict=True)
        ]

    def _tasks(self, X: Matrix, rows: Rows | None, b: int, name: str) -> BlockTasks:
        put = counted(self._put, rows=lambda block, own, *_: block.shape[0] if own is None else len(own))
        starts = np.cumsum((0, *X.chunks[0]))
        wanted = {i: (*own, f"{b}-{i}", name, int(starts[i])) for i, own in rows_of_blocks(X, rows).items()}
        return over_blocks("spill", put, X, wanted, b)

    def _put(
        self, block: Any, rows: Rows | None, at: str, batch: str, first: int
    ) -> tuple[StoredMatrix, StoredColumns | None]:
        X = dense_or_csr(block)
        X = X if rows is None else X[rows]
        check_finite(X, f"batch {batch!r}", rows=first + (np.arange(X.shape[0]) if rows is None else rows))
        near = self.store.matrix(f"raw-{at}", (X.shape[0], self.spaces.n_near), self.spaces.dtype)
        near[:] = self.spaces.dense(X[:, self.spaces.near])
        if not len(self.spaces.rest):
            return near, None
        rest = sparse.csc_matrix(X[:, self.spaces.rest]).astype(self.spaces.dtype)
        rest.eliminate_zeros()
        return near, StoredColumns.of(rest, self.store, f"rest-{at}")
