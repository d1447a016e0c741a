"""The fitted correction: a short list of merge steps, and how a block of cells is corrected with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mnndask._blocks import block_rows, row_blocks
from mnndask._text import printable
from mnndask._typing import Block, Floats, Rows
from mnndask.core.arrays import Points
from mnndask.core.components import Components
from mnndask.core.correction import moved
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.kernels.buffers import reuse_buffers
from mnndask.core.low_rank import LowRank
from mnndask.core.smoothing import smooth
from mnndask.core.span import angles_to_span
from mnndask.core.step import MergeStep


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
    block_bytes
        Memory that a block of cells may take while it is corrected.
    components_in, components_out
        Principal components of the two spaces, if distances are taken in those.
    steps
        Merge steps in order, one for each merge.

    Notes
    -----
    What :meth:`correct`, :meth:`embed` and :meth:`correct_and_embed` return is for distances between cells,
    not for differential expression. They take cells of a fitted batch, in memory, with the fitted genes in
    their order: names are not checked, and no new batch can be placed. :meth:`angles` and :meth:`angles_near`
    need a fit with ``compute_angle=True`` and a batch that :meth:`steps_of` says is moved.
    :meth:`rows_at_once` is a matter of memory; results do not depend on it. For checked input of any kind,
    use :meth:`mnndask.MNNCorrector.transform`.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask import MNNCorrector
    >>> cells = np.random.default_rng(0).random((40, 9), np.float32)
    >>> a, b = cells[:20], cells[20:] + 1
    >>> model = MNNCorrector(k=5, compute_angle=True).fit([a, b]).model_
    >>> model.order, model.correct(1, b).shape
    ([0, 1], (20, 9))
    >>> genes, embedding = model.correct_and_embed(1, b)
    >>> embedding.shape, np.allclose(embedding, model.embed(1, b))
    ((20, 9), True)
    >>> np.array_equal(model.angles(1, b), model.angles_near(1, b))
    True
    >>> len(model.steps_of(0)), len(model.steps_of(1)), model.rows_at_once(1) > 0
    (0, 1, True)
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

    def steps_of(self, batch: int) -> list[MergeStep]:
        """The steps that move a batch, in order; none for the reference.

        Parameters
        ----------
        batch
            Which batch, as a position in input order.
        """
        return [step for step in self.steps if batch in step.batches]

    @property
    def n_dims(self) -> int:
        """Number of dimensions of an embedding: those in which distances are taken."""
        components = self.components_in
        return self.spaces.n_near if components is None else int(components.basis.shape[1])

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
        out = np.empty(X.shape, self.spaces.dtype)
        self._fill(batch, X, rows, out, None)
        return out

    def embed(self, batch: int, X: Block, rows: Rows | None = None) -> Floats:
        """Corrected cells of one batch in the dimensions in which distances are taken.

        Parameters
        ----------
        batch, X, rows
            As in :meth:`correct`.

        Returns
        -------
        The cells in *in* space and their correction vectors there, added; shape ``(n_cells, n_dims)``.
        """
        embedding = np.empty((X.shape[0], self.n_dims), self.spaces.dtype)
        self._fill(batch, X, rows, None, embedding)
        return embedding

    def correct_and_embed(self, batch: int, X: Block, rows: Rows | None = None) -> tuple[Floats, Floats]:
        """What :meth:`correct` and :meth:`embed` return, in less time than both take.

        Parameters
        ----------
        batch, X, rows
            As in :meth:`correct`.
        """
        out = np.empty(X.shape, self.spaces.dtype)
        embedding = np.empty((X.shape[0], self.n_dims), self.spaces.dtype)
        self._fill(batch, X, rows, out, embedding)
        return out, embedding

    def _fill(
        self, batch: int, X: Block, rows: Rows | None, out: Floats | None, embedding: Floats | None
    ) -> None:
        if out is not None:
            self.spaces.check_genes()
        steps = [step.gathered() for step in self.steps_of(batch)]
        with reuse_buffers():
            for block in row_blocks(X.shape[0], self.rows_at_once(batch)):
                own = None if rows is None else rows[block]
                of_block = None if embedding is None else embedding[block]
                if out is None:
                    assert of_block is not None
                    self._embed_block(batch, steps, X[block], of_block, own)
                else:
                    self._correct_block(batch, steps, X[block], out[block], own, of_block)

    def _correct_block(
        self,
        batch: int,
        steps: list[MergeStep],
        X: Block,
        out: Floats,
        rows: Rows | None,
        embedding: Floats | None,
    ) -> None:
        self.spaces.dense(X, out)
        near = out[
            :, self.spaces.near
        ]  # a view if all genes are used for distances: read before `out` changes
        lengths = self.spaces.lengths(near, self.names[batch])
        cells = None
        if not self.spaces.coincide and (steps or embedding is not None):
            cells = self._in_space(near, lengths, embedding)
        if self.spaces.cos_norm_out:
            out /= lengths
        if cells is None and (steps or embedding is not None):  # normalised already
            cells = _around(out[:, self.spaces.near], self.components_in, self.centre_in, embedding)
        if not steps or cells is None:
            return
        own = cells
        if not self.spaces.coincide and any(step.new is not None for step in steps):
            own = _around(out[:, self.spaces.near], self.components_out, self.centre_out)
        for step in steps:
            near, rest, _ = step.correction(cells, own, self.sigma, step.known(batch, rows))
            self._move(out, step, near, rest)
            last, moves = step is steps[-1], near
            if step.in_space is not None and not (last and embedding is None):
                moves = step.embedded(cells, self.sigma, step.in_space.known(batch, rows))
            if embedding is not None:
                embedding += moves
            if last:
                break
            own = Points.of(moved(own.X, near))
            cells = own if step.in_space is None else Points.of(moved(cells.X, moves))

    def _embed_block(
        self, batch: int, steps: list[MergeStep], X: Block, embedding: Floats, rows: Rows | None
    ) -> None:
        near = self.spaces.dense(X)[:, self.spaces.near]
        cells = self._in_space(near, self.spaces.lengths(near, self.names[batch]), embedding)
        for step in steps:
            moves = step.embedded(cells, self.sigma, (step.in_space or step).known(batch, rows))
            embedding += moves
            if step is not steps[-1]:
                cells = Points.of(moved(cells.X, moves))

    def angles(self, batch: int, X: Block) -> NDArray[np.float64]:
        """Angle of each cell's correction to the reference's biology, in degrees.

        Parameters
        ----------
        batch, X
            As in :meth:`correct`.

        Returns
        -------
        Shape ``(n_cells,)``.
        """
        out = np.empty(X.shape[0])
        for block in row_blocks(X.shape[0], self.rows_at_once(batch)):
            out[block] = self.angles_near(batch, self.spaces.dense(X[block])[:, self.spaces.near])
        return out

    def angles_near(self, batch: int, near: Floats) -> NDArray[np.float64]:
        """The same, from raw expression of the genes used for distances.

        Parameters
        ----------
        batch
            Which batch.
        near
            Raw expression, shape ``(n_cells, n_near)``, dense.
        """
        *before, last = (step.gathered() for step in self.steps_of(batch))
        assert last.angle_vectors is not None
        assert last.angle_basis is not None
        cells = self._in_space(near, self.spaces.lengths(near, self.names[batch]))
        for step in before:
            cells = Points.of(moved(cells.X, step.embedded(cells, self.sigma)))
        (vectors,) = smooth(cells, last.anchors, last.log_density, [last.angle_vectors], self.sigma)
        return angles_to_span(vectors, last.angle_basis)

    def rows_at_once(self, batch: int) -> int:
        """Cells of a batch that are corrected together.

        Parameters
        ----------
        batch
            Which batch.
        """
        columns = max((step.columns for step in self.steps_of(batch)), default=3 * self.spaces.n_genes)
        return block_rows(columns, self.spaces.dtype.itemsize, self.block_bytes)

    def _in_space(self, near: Floats, lengths: Floats, uncentred: Floats | None = None) -> Points:
        cells = near / lengths if self.spaces.cos_norm_in else near
        return _around(cells, self.components_in, self.centre_in, uncentred)

    def _move(self, out: Floats, step: MergeStep, near: Floats, rest: Floats) -> None:
        """Add correction vectors to normalised cells, of all genes (definition, step 9)."""
        if self.components_out is not None:
            vectors = step.rest_vectors
            moved(out, vectors.expanded(rest) if isinstance(vectors, LowRank) else rest, out=out)
            return
        for genes, vectors in (self.spaces.near, near), (self.spaces.rest, rest):
            if vectors.shape[1]:
                out[:, genes] = moved(out[:, genes], vectors)


def _around(
    cells: Floats, components: Components | None, centre: Floats, uncentred: Floats | None = None
) -> Points:
    """Cells as points of a space; those around its origin go into `uncentred`, if given."""
    coordinates = cells if components is None else components.project(cells)
    if uncentred is not None:
        uncentred[:] = coordinates
    return Points.of(coordinates - centre)
