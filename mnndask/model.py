"""The fitted correction: a short list of merge steps, and how a block of cells is corrected with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.components import Components
from mnndask.kernels.distances import Floats, Matrix, Points
from mnndask.kernels.low_rank import LowRank
from mnndask.kernels.neighbors import Rows
from mnndask.kernels.rooms import products, room, rooms
from mnndask.kernels.smoothing import smooth
from mnndask.kernels.subspace import angles_to_span
from mnndask.kernels.thin import is_thin
from mnndask.kernels.variance import variance_factors
from mnndask.parallel import block_rows, row_blocks
from mnndask.spaces import Block, GeneSpaces

PAIR_COPIES = 3  # values that a cell's pair with another takes while factors are made


@dataclass
class MergeStep:
    """What correcting one batch needs.

    Matrices are in memory, or stored where blocks of them are read.

    Parameters
    ----------
    anchors
        Cells of the batch that take part in a pair, in *in* space.
    log_density
        Logarithm of the anchors' density at each of them.
    near_vectors, rest_vectors
        Their correction vectors in *out* space, on the genes used for distances and on the others; or on the
        components of *out* space, and on all genes. Shapes ``(n_anchors, n_genes)``. Where these are products
        of thin matrices, the first is the same for both.
    new, ref
        Sketched cells of the batch and of the reference before it, in the space that `factors` come from;
        None without variance adjustment.
    scale
        Largest norm among sketched cells of all batches, to which tolerances are relative.
    factors
        Variance factor of each cell of the fitted batch, NaN for those outside the sketch.
    angle_vectors, angle_basis
        Correction vectors in *in* space before any span was removed, and the reference's two leading
        directions; None unless angles were asked for.
    anchor_rows
        Rows of `new` that the anchors are, so that products with both are made once; None where these are
        of different spaces, or on disk.
    """

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
        """Values that correcting a cell makes: its pairs with other cells, and copies of its genes."""
        sides = [3 * tile_of(self.anchors)]
        sides += [
            PAIR_COPIES * tile_of(points)
            for points in (self.new, self.ref)
            if points is not None and (points.tile is not None or not is_thin(points.X))
        ]
        rest: int = self.rest_vectors.shape[1]
        near: int = self.near_vectors.shape[1]
        return max(sides) + 4 * near + 3 * rest

    def smoothed(self, cells: Points, sigma: float, made: Floats | None = None) -> tuple[Floats, Floats]:
        """Smooth both; the latter to what is left to be multiplied by the second of two thin matrices."""
        of_anchors = cells, self.anchors, self.log_density
        near, rest = self.near_vectors, self.rest_vectors
        if isinstance(near, LowRank) and isinstance(rest, LowRank):
            (along,) = smooth(*of_anchors, [rest.left], sigma, made)
            return along @ near.right, along
        means = smooth(*of_anchors, [near, rest], sigma, made)
        return means[0], means[1]


def tile_of(points: Points) -> int:
    """Cells that are looked at together."""
    return min(len(points), points.tile or len(points))


@dataclass
class CorrectionModel:
    """A fitted correction.

    Parameters
    ----------
    spaces
        How raw expression becomes the two spaces.
    sigma
        Divisor of squared distances.
    names
        Name of each batch, in input order.
    order
        Batches in the order in which they were merged; the first is the reference.
    centre_in, centre_out
        Origins to which distances in the two spaces are taken.
    components_in, components_out
        Their principal components, if distances are taken in those.
    block_bytes
        Memory that a block of cells may take while it is corrected.
    steps
        Merge step of each batch but the reference.

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
    steps: dict[int, MergeStep] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        from mnndask.reprs import repr_of_model

        return repr_of_model(self)

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
        step = self.steps.get(batch)
        out = np.empty(X.shape, self.spaces.dtype)
        with rooms():
            for block in row_blocks(X.shape[0], self._block_rows(step)):
                known = None if rows is None or not step else step.factors[rows[block]]
                self._correct_block(batch, step, X[block], out[block], known)
        return out

    def _correct_block(
        self, batch: int, step: MergeStep | None, X: Block, out: Floats, known: NDArray[np.float64] | None
    ) -> None:
        self.spaces.dense(X, out)
        near = out[:, self.spaces.near]
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
        for block in row_blocks(X.shape[0], self._block_rows(self.steps[batch])):
            out[block] = self.angles_near(batch, self.spaces.dense(X[block])[:, self.spaces.near])
        return out

    def angles_near(self, batch: int, near: Floats) -> NDArray[np.float64]:
        """The same, from raw expression of the genes used for distances."""
        step = self.steps[batch]
        assert step.angle_vectors is not None
        assert step.angle_basis is not None
        cells = self._points_in(near, self.spaces.lengths(near, self.names[batch]))
        (vectors,) = smooth(cells, step.anchors, step.log_density, [step.angle_vectors], self.sigma)
        return angles_to_span(vectors, step.angle_basis)

    def _block_rows(self, step: MergeStep | None) -> int:
        columns = step.columns if step else 3 * self.spaces.n_genes
        return block_rows(columns, self.spaces.dtype.itemsize, self.block_bytes)

    def _points_in(self, near: Floats, lengths: Floats) -> Points:
        cells = near / lengths if self.spaces.cos_norm_in else near
        return _around(cells, self.components_in, self.centre_in)

    def _add_correction(
        self, step: MergeStep, out: Floats, cells: Points, known: NDArray[np.float64] | None
    ) -> None:
        factors = np.full(len(out), np.nan) if known is None else known.copy()
        todo = np.flatnonzero(np.isnan(factors))
        made = of_anchors = None
        shared = None if is_thin(cells.X) else step.anchor_rows
        if shared is not None and step.new is not None and 2 * len(todo) > len(out):
            todo = np.arange(len(out))
            made = products("weights", cells.X, step.new.X)
            of_anchors = room("smoothing", (len(out), len(step.anchors)), made.dtype)
            np.take(made, shared, axis=1, out=of_anchors, mode="clip")  # else it would be buffered
        near, rest = step.smoothed(cells, self.sigma, of_anchors)
        if step.new is not None and step.ref is not None:
            if len(todo):
                own = cells
                if not self.spaces.coincide:
                    own = _around(out[:, self.spaces.near], self.components_out, self.centre_out)
                sides = step.new, step.ref
                found = variance_factors(own[todo], near[todo], *sides, self.sigma, step.scale, made)
                factors[todo] = np.where(np.isnan(factors[todo]), found, factors[todo])
            for moved in (near, rest):
                moved *= factors.astype(out.dtype)[:, None]
        if self.components_out is not None:
            vectors = step.rest_vectors
            out += products("moved", rest, vectors.right.T) if isinstance(vectors, LowRank) else rest
            return
        out[:, self.spaces.near] += near
        if rest.shape[1]:
            out[:, self.spaces.rest] += rest


def _around(cells: Floats, components: Components | None, centre: Floats) -> Points:
    return Points.of((cells if components is None else components.project(cells)) - centre)
