"""Sketched cells that memory cannot hold: their raw expression, put on disk in one pass over the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask.kernels.distances import Floats, Stacked
from mnndask.kernels.neighbors import Rows
from mnndask.lazy import plain
from mnndask.progress import counted
from mnndask.reduce import compute_lists, tasks_of
from mnndask.runstore import RunStore, StoredMatrix
from mnndask.sources import Matrix, check_finite
from mnndask.spaces import GeneSpaces

VALUES_PER_CHUNK = 2**18


@dataclass(frozen=True)
class StoredColumns:
    """Genes of some cells in compressed columns, so that a block of genes is one run of values.

    Parameters
    ----------
    data, indices
        As of a CSC matrix, each stored as one row.
    indptr
        Where each gene's values begin, likewise.
    n_cells
        Number of cells.
    """

    data: StoredMatrix
    indices: StoredMatrix
    indptr: StoredMatrix
    n_cells: int

    @classmethod
    def of(cls, X: sparse.csc_matrix, store: RunStore, name: str) -> StoredColumns:
        """Store a matrix."""
        parts = []
        for part in ("data", "indices", "indptr"):
            values = getattr(X, part)
            parts.append(store.matrix(f"{name}-{part}", (1, len(values)), values.dtype, VALUES_PER_CHUNK))
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
class StoredSketch:
    """A sketch whose raw expression is on disk, a piece for each chunk that it came from.

    Parameters
    ----------
    near
        Genes used for distances, dense.
    others
        The other genes, a piece each.
    rows, n_cells
        As of :class:`~mnndask.reference.Sketch`.
    """

    pieces: Stacked
    others: list[StoredColumns]
    rows: Rows
    n_cells: int

    def near(self, spaces: GeneSpaces, block: slice) -> Floats:
        """Raw expression of the genes used for distances, dense."""
        return self.pieces[block]

    def rest(self, spaces: GeneSpaces, cells: Rows, genes: slice) -> Floats:
        """Raw expression of some of the other genes, dense."""
        out = np.empty((len(cells), genes.stop - genes.start), spaces.dtype)
        start = 0
        for piece in self.others:
            own = np.flatnonzero((cells >= start) & (cells < start + piece.n_cells))
            if len(own):
                out[own] = piece.columns(genes).tocsr()[cells[own] - start].toarray()
            start += piece.n_cells
        return out

    def express_rest(self, spaces: GeneSpaces, cells: Rows) -> NDArray[np.bool_]:
        """Whether some of the other genes are expressed."""
        every = slice(0, len(spaces.rest))
        found = [np.diff(piece.columns(every).tocsr().indptr) > 0 for piece in self.others]
        return np.concatenate(found)[cells]


@dataclass(frozen=True)
class Spiller:
    """Puts sketched cells of the chunks of lazy arrays into a run store.

    Parameters
    ----------
    store
        Where to.
    spaces
        Which genes are used for distances.
    """

    store: RunStore
    spaces: GeneSpaces

    def sketches(
        self,
        arrays: Sequence[Matrix],
        wanted: Sequence[tuple[int, Rows | None]],
        batch_rows: Sequence[Rows],
        n_cells: Sequence[int],
        names: Sequence[str],
        n_jobs: int | None,
    ) -> list[StoredSketch]:
        """Read and store each batch's cells, in one pass over all arrays. Triggers one compute.

        Each cell is counted once.

        Parameters
        ----------
        arrays
            Lazy, chunked along cells only.
        wanted
            Array of each batch, and the rows of it (None for all).
        batch_rows
            The same cells, as rows of the batch.
        n_cells, names
            Of the batches.
        """
        tasks = [self._tasks(arrays[a], rows, b, names[b]) for b, (a, rows) in enumerate(wanted)]
        stored = compute_lists(tasks, n_jobs, sum(map(len, batch_rows)))
        return [
            StoredSketch(Stacked(tuple(near for near, _ in parts)), [o for _, o in parts if o], rows, n)
            for parts, rows, n in zip(stored, batch_rows, n_cells, strict=True)
        ]

    def _tasks(self, X: Matrix, rows: Rows | None, b: int, name: str) -> list[Any]:
        spill, put = tasks_of("spill"), counted(self._put, rows=lambda _, own, *__: len(own))
        rows = np.arange(X.shape[0]) if rows is None else rows
        tasks, start = [], 0
        for i, (block, n) in enumerate(zip(X.to_delayed().ravel(), X.chunks[0], strict=True)):
            own = rows[(rows >= start) & (rows < start + n)] - start
            if len(own):
                tasks.append(spill(put, block, own, f"{b}-{i}", name, start))
            start += n
        return tasks

    def _put(
        self, block: Any, rows: Rows, at: str, batch: str, first: int
    ) -> tuple[StoredMatrix, StoredColumns | None]:
        X = plain(block)
        X = X if len(rows) == X.shape[0] else X[rows]
        check_finite(X, f"batch {batch!r}", rows=rows + first)
        near = self.store.matrix(f"raw-{at}", (len(rows), self.spaces.n_near), self.spaces.dtype)
        near[:] = self.spaces.dense(X[:, self.spaces.near])
        if not len(self.spaces.rest):
            return near, None
        rest = sparse.csc_matrix(X[:, self.spaces.rest]).astype(self.spaces.dtype)
        rest.eliminate_zeros()
        return near, StoredColumns.of(rest, self.store, f"rest-{at}")
