"""What correcting the cells of a merged batch needs, and the correction vectors of a block of its cells."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Floats, Matrix, Rows
from mnndask.core.arrays import Points, tile_size
from mnndask.core.correction import lengthen
from mnndask.core.doubt import factors_in_double
from mnndask.core.kernels.buffers import buffer, products
from mnndask.core.kernels.few_dims import has_few_dims
from mnndask.core.known_factors import KnownFactors
from mnndask.core.low_rank import LowRank
from mnndask.core.smoothing import smooth
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
        Variance factors of the fitted cells, by batch; none without variance adjustment.
    angle_vectors, angle_basis
        The anchors' correction vectors in *in* space before any span was removed, and the reference's two
        leading directions; None unless angles were asked for.
    anchor_rows
        Rows of `new` that the anchors are, so that the same inner products serve smoothing and variance
        adjustment; None where these take other spaces.
    in_space
        The same step with vectors of *in* space, which move the embedding; None where this step's do.

    Notes
    -----
    Everything here is in the spaces of the fit: cells normalised and centred, not raw expression.
    :meth:`correction` and :meth:`embedded` take the cells of one block after all steps before this one, and
    do not check that; use :meth:`mnndask.CorrectionModel.correct` for raw cells. :meth:`known` gives factors
    of fitted rows: rows of other cells would give theirs wrong ones. :meth:`gathered` copies cells that steps
    share, so keep its result no longer than needed.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask import MNNCorrector
    >>> cells = np.random.default_rng(0).random((40, 9), np.float32)
    >>> model = MNNCorrector(k=5).fit([cells[:20], cells[20:] + 1]).model_
    >>> step = model.steps[0].gathered()
    >>> step.batches, step.near_vectors.shape == (len(step.anchors), 9)
    ([1], True)
    >>> near, rest, factors = step.correction(step.anchors, step.anchors, model.sigma)
    >>> np.allclose(near, step.embedded(step.anchors, model.sigma)), rest.shape[1]
    (True, 0)
    >>> step.known(1, np.arange(20)).shape
    (20,)
    """

    batches: list[int]
    anchors: Points
    log_density: NDArray[np.float64]
    near_vectors: Matrix
    rest_vectors: Matrix
    new: Points | None
    ref: Points | None
    scale: float
    factors: dict[int, KnownFactors] = field(default_factory=dict)
    angle_vectors: Matrix | None = None
    angle_basis: Floats | None = None
    anchor_rows: Rows | None = None
    in_space: MergeStep | None = None

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
        own = max(sides) + 4 * near + 3 * rest
        return own if self.in_space is None else max(own, self.in_space.columns) + 2 * near

    @property
    def shares_inner_products(self) -> bool:
        """Whether smoothing and variance adjustment use the same inner products (one space, one tile)."""
        return self.anchor_rows is not None and self.new is not None and self.new.whole

    def gathered(self) -> MergeStep:
        """The step with the cells that it shares with other steps in arrays of its own."""
        in_space = None if self.in_space is None else self.in_space.gathered()
        new, ref = (None if points is None else points.gathered() for points in (self.new, self.ref))
        return replace(self, new=new, ref=ref, in_space=in_space)

    def known(self, batch: int, rows: Rows | None) -> NDArray[np.float64] | None:
        """Variance factors of cells in some rows of a batch, NaN where not known; None if none is.

        Parameters
        ----------
        batch
            Which batch.
        rows
            Row numbers in the fitted batch.
        """
        factors = self.factors.get(batch)
        return None if rows is None or factors is None else factors.at(rows)

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

    def embedded(self, cells: Points, sigma: float, known: NDArray[np.float64] | None = None) -> Floats:
        """Correction vectors of a block of cells in *in* space, without those on other genes.

        Parameters
        ----------
        cells
            The cells in *in* space.
        sigma, known
            As in :meth:`correction`.
        """
        step = self.in_space or self
        near = step.near_vectors
        if isinstance(near, LowRank):  # fewer columns to smooth
            near = near.left @ near.right
        none = np.empty((len(self.anchors), 0), cells.X.dtype)
        alone = replace(step, near_vectors=near, rest_vectors=none)
        return alone.correction(cells, cells, sigma, known)[0]

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
