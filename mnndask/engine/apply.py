"""Correct all cells of the inputs with a fitted model: at once in memory, chunk by chunk for lazy inputs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from mnndask._progress import counted, stage
from mnndask._resources import FreeMemory
from mnndask._threads import map_blocks, shared_blocks, single_threaded_blas
from mnndask.core.fit_cells import FitCells
from mnndask.core.model import CorrectionModel
from mnndask.engine.batches import Batches, check_finite
from mnndask.engine.chunk_corrector import ChunkCorrector
from mnndask.engine.chunks import dense_or_csr
from mnndask.engine.shared_model import SharedModel, SharedModelPath
from mnndask.errors import ResultTooLargeError
from mnndask.stores.location import Location

ROWS_AT_ONCE = 4096  # most rows of a block in memory


def correct_inputs(
    model: CorrectionModel,
    inputs: Batches,
    fitted: list[int],
    *,
    in_fit: bool,
    n_threads: int,
    scratch: Location | None,
) -> list[Any]:
    """Correct each source. The results are slices of one array in memory, or lazy arrays.

    Parameters
    ----------
    fitted
        Index of the fitted batch that each batch of the inputs is.
    in_fit
        Whether the inputs are the fitted ones.
    scratch
        Folder in which other processes find the model; None for the system's.
    """
    sizes = [source.X.shape[0] for source in inputs.sources]
    stacked = np.empty((0 if inputs.lazy else sum(sizes), inputs.n_genes), model.spaces.dtype)
    correctors = [_corrector(model, inputs, s, fitted, in_fit=in_fit) for s in range(len(sizes))]
    shared = SharedModel(correctors, scratch)
    results: list[Any] = []
    in_memory = sum(n for n, source in zip(sizes, inputs.sources, strict=True) if not source.lazy)
    with stage("correcting all cells", in_memory):
        for s, out in enumerate(np.split(stacked, np.cumsum(sizes)[:-1])):
            X = inputs.sources[s].X
            if inputs.sources[s].lazy:
                results.append(correct_lazily(X, shared, s, fitted[s] if inputs.codes is None else None))
                continue
            results.append(out if len(out) else np.empty(X.shape, stacked.dtype))
            _correct_in_memory(X, correctors[s], results[-1], n_threads)
    return results


def _correct_in_memory(X: Any, corrector: ChunkCorrector, out: Any, n_threads: int) -> None:
    def correct_block(block: slice) -> None:
        out[block] = corrector.correct(X[block], block.start)

    map_blocks(counted(correct_block), shared_blocks(len(out), n_threads, ROWS_AT_ONCE), n_threads)


def angles_of_inputs(
    model: CorrectionModel,
    inputs: Batches,
    sketches: Sequence[FitCells],
    n_threads: int,
    scratch: Location | None,
) -> list[Any]:
    """Return the angles of the corrections, one array per batch and None for the reference.

    They are lazy for lazy inputs. Angles of batches that were fitted on all cells are computed here, without
    reading the batch again.
    """
    out: list[Any] = [None] * len(sketches)
    for b in model.order[1:]:
        source, rows = inputs.rows(b)
        X, lazy = inputs.sources[source].X, inputs.sources[source].lazy
        if len(sketches[b].rows) == sketches[b].n_cells:
            angles = _angles_of_sketch(model, b, sketches[b], n_threads)
            out[b] = as_lazy(angles) if lazy else angles
        elif lazy:
            fitted = list(range(len(sketches)))
            corrector = _corrector(model, inputs, source, fitted, in_fit=True)
            angles_of_source = angles_lazily(X, SharedModel([corrector], scratch), 0)
            out[b] = angles_of_source if rows is None else angles_of_source[rows]
        else:
            out[b] = _angles_in_memory(model, b, X if rows is None else X[rows], n_threads)
    return out


def _angles_of_sketch(
    model: CorrectionModel, batch: int, sketch: FitCells, n_threads: int
) -> NDArray[np.float64]:
    def angles_of_block(block: slice) -> NDArray[np.float64]:
        return model.angles_near(batch, sketch.near(model.spaces, block))

    most = min(ROWS_AT_ONCE, model.rows_at_once(batch))
    blocks = shared_blocks(len(sketch.rows), n_threads, most)
    return np.concatenate(map_blocks(counted(angles_of_block), blocks, n_threads))


def _angles_in_memory(model: CorrectionModel, batch: int, X: Any, n_threads: int) -> NDArray[np.float64]:
    def angles_of_block(block: slice) -> NDArray[np.float64]:
        check_finite(X[block], f"batch {model.names[batch]!r}", block.start)
        return model.angles(batch, X[block])

    blocks = shared_blocks(X.shape[0], n_threads, ROWS_AT_ONCE)
    return np.concatenate(map_blocks(counted(angles_of_block), blocks, n_threads))


def _corrector(
    model: CorrectionModel, inputs: Batches, source: int, fitted: list[int], *, in_fit: bool
) -> ChunkCorrector:
    n_rows = inputs.sources[source].X.shape[0]
    if inputs.codes is None:
        return ChunkCorrector(model, fitted[source], np.arange(n_rows) if in_fit else None)
    rows = np.empty(n_rows, np.intp)
    for b in range(len(inputs.categories)):
        in_batch = np.flatnonzero(inputs.codes == b)
        rows[in_batch] = np.arange(len(in_batch))
    return ChunkCorrector(model, np.asarray(fitted)[inputs.codes], rows if in_fit else None)


def check_result_fits(inputs: Batches, free: FreeMemory) -> None:
    """Raise, before any work, if a dense result would not fit in memory."""
    n_cells = sum(inputs.n_cells)
    needed = n_cells * inputs.n_genes * inputs.dtype.itemsize
    if needed > free.size:
        what = (
            f"The corrected matrix of {n_cells:,} cells x {inputs.n_genes:,} genes takes "
            f"{needed / 1e9:.1f} GB, but only {free.size / 1e9:.1f} GB are left ({free.limited_by})."
        )
        remedy = "Pass lazy data (paths, dask arrays, anndata.experimental.read_lazy) and write the result."
        raise ResultTooLargeError(what, remedy)


Correctors: TypeAlias = SharedModel[list[ChunkCorrector]] | SharedModelPath[list[ChunkCorrector]]


def correct_lazily(X: da.Array, shared: Correctors, source: int, batch: int | None) -> da.Array:
    """Return the corrected array of one source, lazily: nothing is read until it is computed.

    Parameters
    ----------
    shared
        Correctors of all sources.
    batch
        Index of the batch, shown in the names of the tasks; None if the source contains several.
    """
    dtype = shared.get()[source].model.spaces.dtype
    name = f"mnn-correct{'' if batch is None else f'-batch{batch}'}-{uuid.uuid4().hex}"
    function = partial(_call_on_chunk, "correct", shared, source)
    out: da.Array = da.map_blocks(function, X, name=name, dtype=dtype, meta=np.empty((0, 0), dtype))
    return out


def angles_lazily(X: da.Array, shared: Correctors, source: int) -> da.Array:
    """Return the angles of the corrections of all rows, lazily: nothing is read until they are computed."""
    name = f"mnn-angle-{uuid.uuid4().hex}"
    function = partial(_call_on_chunk, "angles", shared, source)
    out: da.Array = da.map_blocks(function, X, name=name, dtype=np.float64, meta=np.empty(0), drop_axis=1)
    return out


def _call_on_chunk(
    method: str, shared: Correctors, source: int, block: Any, block_info: dict[int, Any]
) -> NDArray[Any]:
    """Call a method of a corrector on a chunk. Not a closure, so that lazy results can be pickled."""
    first = block_info[0]["array-location"][0][0]
    with single_threaded_blas():
        out: NDArray[Any] = getattr(shared.get()[source], method)(dense_or_csr(block), first)
    return out


def as_lazy(values: NDArray[Any]) -> da.Array:
    """Wrap computed values in a dask array of one chunk."""
    out: da.Array = da.from_array(values, chunks=-1)
    return out
