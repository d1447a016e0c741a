"""The two spaces that raw expression becomes: *in*, of distances, and *out*, of corrected values (step 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask._typing import Block, Floats, Rows
from mnndask.core.cosine import cosine_lengths
from mnndask.errors import InputError, too_long

SQUARES_MARGIN = 2**10  # for corrected cells, which may be longer, and sums of a million squares


@dataclass(frozen=True)
class GeneSpaces:
    """How raw expression becomes the *in* space (distances) and the *out* space (what is corrected).

    Parameters
    ----------
    n_genes
        Number of genes of the data.
    subset
        Columns used for distances, or None for all.
    cos_norm_in, cos_norm_out
        Whether each space is divided by the cells' lengths.
    dtype
        Precision of all that is computed.
    n_components
        Number of principal components to take distances in, or None for the genes themselves.
    embeds_only
        Whether cells are only embedded, in the dimensions in which distances are taken.
    """

    n_genes: int
    subset: Rows | None
    cos_norm_in: bool
    cos_norm_out: bool
    dtype: np.dtype
    n_components: int | None = None
    embeds_only: bool = False

    @property
    def coincide(self) -> bool:
        """Whether both spaces are the same on the genes used for distances."""
        return self.cos_norm_in == self.cos_norm_out

    @property
    def near(self) -> Rows | slice:
        """Columns used for distances."""
        return slice(None) if self.subset is None else self.subset

    @property
    def n_near(self) -> int:
        """Number of genes used for distances."""
        return self.n_genes if self.subset is None else len(self.subset)

    @property
    def rest(self) -> Rows:
        """Columns that are corrected but are no dimensions of the *in* space."""
        if self.embeds_only:
            return np.arange(0)
        if self.n_components is not None:
            return np.arange(self.n_genes)
        return np.setdiff1d(np.arange(self.n_genes), np.arange(self.n_genes)[self.near])

    def dense(self, X: Block, out: Floats | None = None) -> Floats:
        """Dense matrix of a block in the model's precision, in `out` if given."""
        if sparse.issparse(X):
            full: Floats = X.astype(self.dtype, copy=False).toarray(out=out)
            return full
        if out is None:
            return np.ascontiguousarray(X, dtype=self.dtype)
        np.copyto(out, X, casting="same_kind")
        return out

    def check_genes(self) -> None:
        """Raise if genes cannot be corrected.

        Raises
        ------
        InputError
            If they have no correction vectors.
        """
        if self.embeds_only:
            what = "The correction was fitted with genes='none', without vectors of genes."
            raise InputError(what, "Fit it again with genes='all', or set genes='none' to embed cells.")

    def lengths(self, near: Floats, name: str) -> Floats:
        """Cosine lengths of a batch's cells as a column, from raw expression of the genes used for distances.

        Raises
        ------
        InputError
            If a cell is too long to compute with.
        """
        lengths = cosine_lengths(near)
        self.check_lengths(lengths, name)
        return lengths.astype(self.dtype)[:, None]

    def check_lengths(self, lengths: NDArray[np.float64], name: str) -> None:
        """Raise if a cell of a batch is so long that its length, or a sum of squares, would overflow."""
        normalised = self.cos_norm_in and self.cos_norm_out
        largest = float(np.finfo(self.dtype).max)
        longest = largest if normalised else np.sqrt(largest) / SQUARES_MARGIN
        if lengths.max(initial=0) > longest:
            raise too_long(name, lengths, longest, self.dtype)
