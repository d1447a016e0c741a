"""The biological span, and the angle of vectors to it (definition, steps 6 and 7)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Floats, Matrix, Rows
from mnndask.core.arrays import Points, drop_rounding, row_norms, unit_rows
from mnndask.core.node import Side
from mnndask.core.svd import CentredRows, SvdSolver
from mnndask.core.workspace import Workspace


@dataclass(frozen=True)
class Span:
    """Leading directions in gene space along which some cells vary.

    Parameters
    ----------
    basis
        Orthonormal on the genes of the decomposition, shape ``(n_genes, n_dims)``.
    cell_loadings
        ``V / s`` of the decomposition ``Xᵀ = U s Vᵀ`` of the centred cells, shape ``(n_cells, n_dims)``: its
        product with other genes of these cells extends the basis to those genes.
    """

    basis: Floats
    cell_loadings: Floats

    @classmethod
    def of(cls, cells: Points, n_dims: int, solver: SvdSolver, scale: float) -> Span:
        """Span of cells whose norms are up to `scale`."""
        U, s, Wt = CentredRows(cells.X, cells.tile).leading(solver, n_dims, scale)
        return cls(U, Wt.T / s)

    def loadings(self, X_rest: Floats) -> Floats:
        """Loadings of genes outside the decomposition from the same cells, shape ``(n_rest, n_dims)``."""
        out: Floats = (X_rest - X_rest.mean(axis=0)).T @ self.cell_loadings
        return out


def angles_to_span(vectors: Floats, basis: Floats) -> NDArray[np.float64]:
    """Angle of each vector to the span of an orthonormal basis, in degrees; NaN for a vector of no length."""
    directions, lengths = unit_rows(vectors)
    inside = directions @ basis
    outside = np.linalg.norm(directions - inside @ basis.T, axis=1)
    degrees = np.degrees(np.arctan2(outside, np.linalg.norm(inside, axis=1)))
    return np.where(lengths > 0, degrees, np.nan).astype(np.float64)


@dataclass(frozen=True)
class RemovedSpan:
    """A span that was removed from a step's anchor vectors.

    Parameters
    ----------
    span
        The span, in *out* space.
    along
        What each anchor's vector had along it, shape ``(n_anchors, n_dims)``.
    ref_rows
        Cells of the reference that span it; None if the anchors do.
    """

    span: Span
    along: Floats
    ref_rows: Rows | None

    def of_node(self, ref: Side) -> RemovedSpan:
        """The same, with rows of all cells of the reference's node."""
        return self if self.ref_rows is None else replace(self, ref_rows=ref.of_node(self.ref_rows))


def remove_span(
    work: Workspace, span: Span, vectors: Matrix, rounding: float, ref_rows: Rows | None = None
) -> RemovedSpan:
    """Remove a span from vectors, in place.

    What is left counts as nothing where it is shorter than `rounding` times the vector before.
    """

    def one(at: slice) -> Floats:
        own = vectors[at]
        along: Floats = own @ span.basis
        before = row_norms(own)
        own = own - along @ span.basis.T
        drop_rounding(own, rounding * before)
        vectors[at] = own
        return along

    parts = work.map("span", len(vectors), vectors.shape[1], one, counts=1)
    return RemovedSpan(span, np.concatenate(parts), ref_rows)
