"""The fitted correction: a short list of merge steps, and how a block of cells is corrected with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import block_rows, row_blocks
from mnndask._text import printable
from mnndask._typing import Block, Floats, Matrix, Rows
from mnndask.core.arrays import Points, tile_size
from mnndask.core.components import Components
from mnndask.core.correction import lengthen, moved
from mnndask.core.doubt import factors_in_double
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.kernels.buffers import buffer, products, reuse_buffers
from mnndask.core.kernels.few_dims import has_few_dims
from mnndask.core.low_rank import LowRank
from mnndask.core.smoothing import smooth
from mnndask.core.span import angles_to_span
from mnndask.core.variance import PAIR_COPIES, Lines, variance_factors


@dataclass
class MergeStep:
    """What correcting the cells of a merged batch needs.

    Parameters
    ----------
    batches
        Batches that the step moves.
    anchors
        Cells of the batch that are in a pair, in *in* space.
    log_density
        Logarithm of the anchors' density at each of them.
    near_vectors, rest_vectors
        Vectors of the anchors in *out* space, on the genes used for distances and on the others; or, if
        distances are taken on components, on these and on all genes. Shapes ``(n_anchors, n_genes)``. If they
        are low-rank factors, both have the same left one.
    new, ref
        Fitted cells of the batch, and of the reference before it, in *out* space; None without variance
        adjustment.
    scale
        Largest norm of a fitted cell, to which tolerances are relative.
    factors
        Variance factor of each cell of the batch; NaN for those that were not fitted.
    angle_vectors, angle_basis
        The anchors' correction vectors in *in* space before any span was removed, and the reference's two
        leading directions; None unless angles were asked for.
    anchor_rows
        Rows of `new` that the anchors are, so that the same inner products serve smoothing and variance
        adjustment; None where these take other spaces.
    """

    batches: list[int]
    anchors: Points
    log_density: NDArray[np.float64]
    near_vectors: Matrix
    rest_vectors: Matrix
    new: Points | None
    ref: Points | None
    scale: float
    factors: NDArray[np.float64]
    angle_vectors: Matrix | None = None
    angle_basis: Floats | None = None
    anchor_rows: Rows | None = None

    @property
    def columns(self) -> int:
        """Values in memory for each cell: its pairs with other cells, and copies of its genes."""
        sides = [3 * tile_size(self.anchors)]
        sides += [
            PAIR_COPIES * tile_size(points)
            for points in (self.new, self.ref)
            if points is not None and not (points.whole and has_few_dims(points.X))
        ]
        rest: int = self.rest_vectors.shape[1]
        near: int = self.near_vectors.shape[1]
        return max(sides) + 4 * near + 3 * rest

    @property
    def shares_inner_products(self) -> bool:
        """Whether smoothing and variance adjustment use the same inner products (one space, one tile)."""
        return self.anchor_rows is not None and self.new is not None and self.new.whole

    def correction(
        self,
        cells: Points,
        own: Points,
        sigma: float,
        known: NDArray[np.float64] | None = None,
        distances: Floats | None = None,
    ) -> tuple[Floats, Floats, NDArray[np.float64]]:
        """Correction vectors of a block of cells: smoothed (definition, step 5) and lengthened (step 8).

        Parameters
        ----------
        cells, own
            The cells in *in* space and in *out* space.
        sigma
            Bandwidth: Gaussian weights are ``exp(-squared distance / sigma)``.
        known
            Variance factors of the cells that are known already, NaN for the others; None computes all.
        distances
            Precomputed squared distances of the cells to `ref`, if no factor is known; overwritten.

        Returns
        -------
        Vectors in *out* space, on the genes used for distances and on the others, and the factors by which
        they were lengthened. If `rest_vectors` are low-rank factors, the vectors on the others are yet to be
        multiplied by the right one.
        """
        factors = np.full(len(cells), np.nan) if known is None else known.copy()
        unknown = np.isnan(factors)
        inner = of_anchors = None
        if self.shares_inner_products and 2 * unknown.sum() > len(cells) and not has_few_dims(cells.X):
            inner, of_anchors = self._inner_products(cells)
        near, rest = self._smoothed(cells, sigma, of_anchors)
        if self.new is not None and self.ref is not None:
            if unknown.any():
                rows = slice(None) if inner is not None or unknown.all() else np.flatnonzero(unknown)
                lines = Lines.of(own[rows], near[rows], sigma, self.scale)
                found, doubtful = variance_factors(lines, self.new, self.ref, inner, distances)
                if (again := np.arange(len(cells))[rows][doubtful & unknown[rows]]).size:
                    found[doubtful & unknown[rows]] = factors_in_double(cells[again], own[again], self, sigma)
                factors[rows] = np.where(unknown[rows], found, factors[rows])
            for vectors in (near, rest):
                lengthen(vectors, factors)
        return near, rest, factors

    def _inner_products(self, cells: Points) -> tuple[Floats, Floats]:
        """Inner products of cells with all fitted cells of the batch, and with its anchors."""
        assert self.new is not None
        assert self.anchor_rows is not None
        # The buffers are those of variance adjustment and smoothing, which overwrite the products in place.
        inner = products("weights", cells.X, self.new.X)
        of_anchors = buffer("smoothing", (len(cells), len(self.anchors)), inner.dtype)
        np.take(
            inner, self.anchor_rows, axis=1, out=of_anchors, mode="clip"
        )  # without it, NumPy would buffer
        return inner, of_anchors

    def _smoothed(self, cells: Points, sigma: float, inner: Floats | None) -> tuple[Floats, Floats]:
        """Both vectors, smoothed; of low-rank factors, the second without the right one."""
        of_anchors = cells, self.anchors, self.log_density
        near, rest = self.near_vectors, self.rest_vectors
        if isinstance(near, LowRank) and isinstance(rest, LowRank):
            (left,) = smooth(*of_anchors, [rest.left], sigma, inner)
            return left @ near.right, left
        means = smooth(*of_anchors, [near, rest], sigma, inner)
        return means[0], means[1]


@dataclass
class CorrectionModel:
    """A fitted correction.

    Parameters
    ----------
    spaces
        How raw expression becomes the two spaces.
    sigma
        Bandwidth: Gaussian weights are ``exp(-squared distance / sigma)``.
    names
        Name of each batch, in input order.
    order
        Batches in the order in which they were merged; the first is the reference.
    centre_in, centre_out
        Points that are subtracted from all cells in the two spaces.
    components_in, components_out
        Their principal components, if distances are taken in those.
    block_bytes
        Memory that a block of cells may take while it is corrected.
    steps
        Merge steps in order, one for each batch but the reference.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask import MNNCorrector
    >>> cells = np.random.default_rng(0).random((40, 9), np.float32)
    >>> model = MNNCorrector(k=5).fit([cells[:20], cells[20:] + 1]).model_
    >>> model.order, model.correct(1, cells[20:] + 1).shape
    ([0, 1], (20, 9))
    """

    spaces: GeneSpaces
    sigma: float
    names: list[str]
    order: list[int]
    centre_in: Floats
    centre_out: Floats
    block_bytes: int
    components_in: Components | None = None
    components_out: Components | None = None
    steps: list[MergeStep] = field(default_factory=list)

    def __repr__(self) -> str:
        order = printable(" <- ".join(self.names[b] for b in self.order))
        n_anchors = sum(len(step.anchors) for step in self.steps)
        return f"<CorrectionModel: {order}; {self.spaces.n_genes:,} genes, {n_anchors:,} anchors>"

    def step_of(self, batch: int) -> MergeStep | None:
        """The step that moves a batch; None for the reference."""
        return next((step for step in self.steps if batch in step.batches), None)

    def correct(self, batch: int, X: Block, rows: Rows | None = None) -> Floats:
        """Correct cells of one batch.

        Parameters
        ----------
        batch
            Which batch.
        X
            Raw expression, shape ``(n_cells, n_genes)``, dense or CSR.
        rows
            Their row numbers in the fitted batch; None for cells that were not in it.

        Returns
        -------
        Corrected expression of all genes, dense, same shape.
        """
        step = self.step_of(batch)
        out = np.empty(X.shape, self.spaces.dtype)
        with reuse_buffers():
            for block in row_blocks(X.shape[0], self.rows_at_once(batch)):
                known = None if rows is None or not step else step.factors[rows[block]]
                self._correct_block(batch, step, X[block], out[block], known)
        return out

    def _correct_block(
        self, batch: int, step: MergeStep | None, X: Block, out: Floats, known: NDArray[np.float64] | None
    ) -> None:
        self.spaces.dense(X, out)
        near = out[
            :, self.spaces.near
        ]  # a view if all genes are used for distances: read before `out` changes
        lengths = self.spaces.lengths(near, self.names[batch])
        cells = self._points_in(near, lengths) if step and not self.spaces.coincide else None
        if self.spaces.cos_norm_out:
            out /= lengths
        if step:
            if cells is None:  # normalised already
                cells = _around(out[:, self.spaces.near], self.components_in, self.centre_in)
            self._add_correction(step, out, cells, known)

    def angles(self, batch: int, X: Block) -> NDArray[np.float64]:
        """Angle of each cell's correction to the reference's biology, in degrees."""
        out = np.empty(X.shape[0])
        for block in row_blocks(X.shape[0], self.rows_at_once(batch)):
            out[block] = self.angles_near(batch, self.spaces.dense(X[block])[:, self.spaces.near])
        return out

    def angles_near(self, batch: int, near: Floats) -> NDArray[np.float64]:
        """The same, from raw expression of the genes used for distances."""
        step = self.step_of(batch)
        assert step is not None
        assert step.angle_vectors is not None
        assert step.angle_basis is not None
        cells = self._points_in(near, self.spaces.lengths(near, self.names[batch]))
        (vectors,) = smooth(cells, step.anchors, step.log_density, [step.angle_vectors], self.sigma)
        return angles_to_span(vectors, step.angle_basis)

    def rows_at_once(self, batch: int) -> int:
        """Cells of a batch that are corrected together."""
        step = self.step_of(batch)
        columns = step.columns if step else 3 * self.spaces.n_genes
        return block_rows(columns, self.spaces.dtype.itemsize, self.block_bytes)

    def _points_in(self, near: Floats, lengths: Floats) -> Points:
        cells = near / lengths if self.spaces.cos_norm_in else near
        return _around(cells, self.components_in, self.centre_in)

    def _add_correction(
        self, step: MergeStep, out: Floats, cells: Points, known: NDArray[np.float64] | None
    ) -> None:
        """Move normalised cells, of all genes, by their correction vectors (definition, step 9)."""
        own = cells
        if step.new is not None and not self.spaces.coincide:
            own = _around(out[:, self.spaces.near], self.components_out, self.centre_out)
        near, rest, _ = step.correction(cells, own, self.sigma, known)
        if self.components_out is not None:
            vectors = step.rest_vectors
            moved(out, vectors.expanded(rest) if isinstance(vectors, LowRank) else rest, out=out)
            return
        for genes, vectors in (self.spaces.near, near), (self.spaces.rest, rest):
            if vectors.shape[1]:
                out[:, genes] = moved(out[:, genes], vectors)


def _around(cells: Floats, components: Components | None, centre: Floats) -> Points:
    return Points.of((cells if components is None else components.project(cells)) - centre)
