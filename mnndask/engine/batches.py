"""The inputs as matrices and batches of cells, and the precision to compute in."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask._typing import Matrix, Rows
from mnndask.core.merge_order import Design
from mnndask.engine.memory_budget import Budget
from mnndask.errors import nonfinite
from mnndask.stores.lazy_matrix import in_large_blocks

OfBatches = TypeVar("OfBatches", bound="Batches")


@dataclass(frozen=True)
class Source:
    """One input matrix, of one batch or several.

    Parameters
    ----------
    X
        Expression, shape ``(n_cells, n_genes)``: dense, CSR, or a dask array of either in chunks
        of whole cells.
    label
        Its name in messages.
    """

    X: Matrix
    label: str

    @property
    def lazy(self) -> bool:
        """Whether the matrix is a dask array, yet to be computed."""
        return isinstance(self.X, da.Array)


@dataclass(frozen=True)
class Batches:
    """Batches of cells and the matrices that contain them.

    Parameters
    ----------
    sources
        The matrices, in input order.
    categories
        Label of each batch, of any type.
    codes
        Batch of each row if one matrix contains all batches; None if each matrix is a batch.
    design
        Which batches merge with each other, and which of them first.
    """

    sources: Sequence[Source]
    categories: list[Hashable]
    codes: NDArray[np.integer] | None
    design: Design = field(default_factory=Design, kw_only=True)

    @property
    def lazy(self) -> bool:
        """Whether any source is lazy, and with it the result."""
        return any(source.lazy for source in self.sources)

    @property
    def names(self) -> list[str]:
        """Names of the batches for messages and tables."""
        return [str(c) for c in self.categories]

    @property
    def labels(self) -> list[str]:
        """Names of the sources in messages."""
        return [source.label for source in self.sources]

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return int(self.sources[0].X.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """Precision to compute in."""
        return precision(self.sources)

    @property
    def n_cells(self) -> list[int]:
        """Number of cells of each batch."""
        if self.codes is not None:
            return [int(n) for n in np.bincount(self.codes, minlength=len(self.categories))]
        return [int(source.X.shape[0]) for source in self.sources]

    def source_of(self, batch: int) -> int:
        """Return the source of a batch."""
        return batch if self.codes is None else 0

    def rows(self, batch: int) -> tuple[int, Rows | None]:
        """Return the source of a batch and the rows of that source that belong to it (None for all)."""
        return (batch, None) if self.codes is None else (0, np.flatnonzero(self.codes == batch))

    def in_large_blocks(self: OfBatches, budget: Budget, n_drawn: int) -> OfBatches:
        """Return the batches in larger blocks, for passes that keep at most `n_drawn` cells of each.

        See :func:`mnndask.stores.lazy_matrix.in_large_blocks`. Sources of more than `n_drawn` blocks are left
        unchanged, as cells drawn at random leave some of their blocks unread.
        """
        return replace(
            self,
            sources=[
                replace(s, X=in_large_blocks(s.X, budget.chunk_bytes, budget.n_workers))
                if s.lazy and s.X.numblocks[0] <= n_drawn
                else s
                for s in self.sources
            ],
        )


def precision(sources: Sequence[Source]) -> np.dtype:
    """Return float64 if any source is wider than float32, else float32."""
    double = any(s.X.dtype.kind == "f" and s.X.dtype.itemsize > 4 for s in sources)
    return np.dtype(np.float64 if double else np.float32)


def check_finite(X: Matrix, name: str, first_row: int = 0, rows: NDArray[np.integer] | None = None) -> None:
    """Raise if a block of a batch contains NaN or infinity; name the rows, or the genes bad in all rows."""
    values = X.data if sparse.issparse(X) else X
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    if sparse.issparse(X):
        entries = X.tocoo()
        bad = ~np.isfinite(entries.data)
        bad_rows = np.unique(entries.row[bad])
        bad_in_all = np.bincount(entries.col[bad], minlength=X.shape[1]) == X.shape[0]
    else:
        finite = np.isfinite(values)
        bad_rows, bad_in_all = np.flatnonzero(~finite.all(axis=1)), ~finite.any(axis=0)
    genes = np.flatnonzero(bad_in_all) if X.shape[0] > 1 else ()
    raise nonfinite(name, rows[bad_rows] if rows is not None else bad_rows + first_row, genes)
