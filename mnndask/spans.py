"""Spans of biological variation that are taken out of anchor vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.distances import Floats, Matrix, row_lengths
from mnndask.kernels.neighbors import Rows
from mnndask.kernels.subspace import Span
from mnndask.workspace import Workspace


@dataclass(frozen=True)
class RemovedSpan:
    """A span that was taken out of a step's anchor vectors.

    Parameters
    ----------
    span
        The span, in *out* space.
    along
        How much of it each anchor's vector had, shape ``(n_anchors, n_dims)``.
    ref_rows
        The reference's cells that span it; None if it is the anchors'.
    """

    span: Span
    along: Floats
    ref_rows: Rows | None


def remove_span(work: Workspace, span: Span, vectors: Matrix, rounding: float) -> Floats:
    """Take a span out of vectors, in place; returns how much of it each had.

    What is left counts as nothing where it is shorter than `rounding` times the vector before.
    """

    def one(at: slice) -> Floats:
        own = vectors[at]
        along: Floats = own @ span.basis
        before = row_lengths(own)
        own = own - along @ span.basis.T
        drop_rounding(own, rounding * before)
        vectors[at] = own
        return along

    return np.concatenate(work.map("span", len(vectors), vectors.shape[1], one, counts=1))


def drop_rounding(vectors: Floats, shortest: NDArray[np.float64]) -> None:
    """Make vectors exactly zero that are no longer than rounding: variance adjustment would lengthen them."""
    vectors[row_lengths(vectors) <= shortest] = 0
