"""Correcting all cells of the inputs with a fitted model: at once in memory, chunk by chunk where lazy."""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from mnndask.chunk_corrector import ChunkCorrector
from mnndask.errors import ResultTooLargeError
from mnndask.inputs import Inputs
from mnndask.lazy import angles_lazily, as_lazy, correct_lazily
from mnndask.location import Location
from mnndask.model import CorrectionModel
from mnndask.parallel import block_rows, map_blocks, shared_blocks
from mnndask.progress import counted, stage
from mnndask.reference import Sketch
from mnndask.shared import Shared
from mnndask.sources import check_finite

ROWS_AT_ONCE = 4096  # handed to one thread


def correct_inputs(
    model: CorrectionModel,
    inputs: Inputs,
    fitted: list[int],
    *,
    in_fit: bool,
    n_jobs: int | None,
    scratch: Location | None,
) -> list[Any]:
    """Corrected matrix of each source: parts of one array in memory, or lazy arrays.

    Parameters
    ----------
    fitted
        Which fitted batch each batch of the inputs is.
    in_fit
        Whether the inputs are the fitted ones.
    scratch
        Where other processes are to find the model.
    """
    sizes = [source.X.shape[0] for source in inputs.sources]
    cuts = np.cumsum(sizes)[:-1]
    whole = np.empty((0 if inputs.lazy else sum(sizes), inputs.n_genes), model.spaces.dtype)
    correctors = [_corrector(model, inputs, s, fitted, in_fit=in_fit) for s in range(len(sizes))]
    shared = Shared(correctors, scratch)
    parts: list[Any] = []
    in_memory = sum(n for n, source in zip(sizes, inputs.sources, strict=True) if not source.lazy)
    with stage("correcting all cells", in_memory):
        for s, out in enumerate(np.split(whole, cuts)):
            X = inputs.sources[s].X
            if inputs.sources[s].lazy:
                parts.append(correct_lazily(X, shared, s, fitted[s] if inputs.codes is None else None))
                continue
            parts.append(out if len(out) else np.empty(X.shape, whole.dtype))
            _correct_in_memory(X, correctors[s], parts[-1], n_jobs)
    return parts


def _correct_in_memory(X: Any, corrector: ChunkCorrector, out: Any, n_jobs: int | None) -> None:
    def one(block: slice) -> None:
        out[block] = corrector.correct(X[block], block.start)

    map_blocks(counted(one), shared_blocks(len(out), n_jobs, ROWS_AT_ONCE), n_jobs)


def angles_of_inputs(
    model: CorrectionModel,
    inputs: Inputs,
    sketches: list[Sketch],
    n_jobs: int | None,
    scratch: Location | None,
) -> list[Any]:
    """Angle of each cell's correction, an array per batch; None for the reference. Lazy for lazy inputs.

    Those of cells that the fit has read are computed here; only a batch that was restricted is left to read.
    """
    out: list[Any] = [None] * len(sketches)
    for b in model.steps:
        source, rows = inputs.rows(b)
        X, lazy = inputs.sources[source].X, inputs.sources[source].lazy
        if len(sketches[b].rows) == sketches[b].n_cells:
            angles = _angles_of_sketch(model, b, sketches[b], n_jobs)
            out[b] = as_lazy(angles) if lazy else angles
        elif lazy:
            fitted = list(range(len(sketches)))
            corrector = _corrector(model, inputs, source, fitted, in_fit=True)
            every = angles_lazily(X, Shared([corrector], scratch), 0)
            out[b] = every if rows is None else every[rows]
        else:
            out[b] = _angles_in_memory(model, b, X if rows is None else X[rows], n_jobs)
    return out


def _angles_of_sketch(
    model: CorrectionModel, batch: int, sketch: Sketch, n_jobs: int | None
) -> NDArray[np.float64]:
    def one(block: slice) -> NDArray[np.float64]:
        return model.angles_near(batch, sketch.near(model.spaces, block))

    most = min(ROWS_AT_ONCE, block_rows(model.steps[batch].columns, 8, model.block_bytes))
    blocks = shared_blocks(len(sketch.rows), n_jobs, most)
    return np.concatenate(map_blocks(counted(one), blocks, n_jobs))


def _angles_in_memory(model: CorrectionModel, batch: int, X: Any, n_jobs: int | None) -> NDArray[np.float64]:
    def one(block: slice) -> NDArray[np.float64]:
        check_finite(X[block], f"batch {model.names[batch]!r}", block.start)
        return model.angles(batch, X[block])

    blocks = shared_blocks(X.shape[0], n_jobs, ROWS_AT_ONCE)
    return np.concatenate(map_blocks(counted(one), blocks, n_jobs))


def _corrector(
    model: CorrectionModel, inputs: Inputs, source: int, fitted: list[int], *, in_fit: bool
) -> ChunkCorrector:
    n_rows = inputs.sources[source].X.shape[0]
    if inputs.codes is None:
        return ChunkCorrector(model, fitted[source], np.arange(n_rows) if in_fit else None)
    rows = np.empty(n_rows, np.intp)
    for b in range(len(inputs.categories)):
        own = np.flatnonzero(inputs.codes == b)
        rows[own] = np.arange(len(own))
    return ChunkCorrector(model, np.asarray(fitted)[inputs.codes], rows if in_fit else None)


def check_result_fits(inputs: Inputs) -> None:
    """Refuse, before any work, a dense result that memory cannot hold."""
    n_cells = sum(inputs.n_cells)
    needed = n_cells * inputs.n_genes * inputs.dtype.itemsize
    available = psutil.virtual_memory().available
    if needed > available:
        what = (
            f"The corrected matrix of {n_cells:,} cells x {inputs.n_genes:,} genes takes "
            f"{needed / 1e9:.1f} GB, and {available / 1e9:.1f} GB are free."
        )
        remedy = "Pass lazy data (paths, dask arrays, anndata.experimental.read_lazy) and write the result."
        raise ResultTooLargeError(what, remedy)
