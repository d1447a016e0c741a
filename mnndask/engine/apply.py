"""Correct all cells of the inputs with a fitted model: at once in memory, chunk by chunk for lazy inputs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
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
from mnndask.engine.run_options import RunOptions
from mnndask.engine.shared_model import SharedModel, SharedModelPath
from mnndask.errors import ResultTooLargeError
from mnndask.stores.location import Location

ROWS_AT_ONCE = 4096  # most rows of a block in memory


@dataclass(frozen=True)
class Wanted:
    """What is computed of corrected cells.

    Parameters
    ----------
    genes
        Their expression.
    embedding
        Their coordinates in the dimensions in which distances are taken.
    """

    genes: bool = True
    embedding: bool = False


@dataclass(frozen=True)
class Corrected:
    """The corrected cells of a source: expression and coordinates, None where not wanted."""

    genes: Any
    embedding: Any


def correct_inputs(
    model: CorrectionModel,
    inputs: Batches,
    fitted: list[int],
    *,
    wanted: Wanted,
    in_fit: bool,
    run: RunOptions,
) -> list[Corrected]:
    """Correct each source. The results are slices of one array in memory, or lazy arrays.

    Parameters
    ----------
    fitted
        Index of the fitted batch that each batch of the inputs is.
    wanted
        What is computed.
    in_fit
        Whether the inputs are the fitted ones.
    run
        Options of the run.
    """
    sizes = [source.X.shape[0] for source in inputs.sources]
    correctors = [_corrector(model, inputs, s, fitted, in_fit=in_fit) for s in range(len(sizes))]
    shared = SharedModel(correctors, run.scratch_location)
    n = 0 if inputs.lazy else sum(sizes)
    genes = _slices(n, inputs.n_genes if wanted.genes else None, sizes, model)
    embeddings = _slices(n, model.n_dims if wanted.embedding else None, sizes, model)
    results: list[Corrected] = []
    in_memory = sum(n for n, source in zip(sizes, inputs.sources, strict=True) if not source.lazy)
    with stage("correcting all cells" if wanted.genes else "embedding all cells", in_memory):
        for s, source in enumerate(inputs.sources):
            if source.lazy:
                batch = fitted[s] if inputs.codes is None else None
                results.append(correct_lazily(source.X, shared, s, batch, wanted))
                continue
            results.append(Corrected(_of_rows(genes[s], sizes[s]), _of_rows(embeddings[s], sizes[s])))
            _correct_in_memory(source.X, correctors[s], results[-1], run.n_threads)
    return results


def _slices(n: int, width: int | None, sizes: Sequence[int], model: CorrectionModel) -> list[Any]:
    """Consecutive slices of one array of `n` rows, empty for 0; None without a width."""
    if width is None:
        return [None] * len(sizes)
    return np.split(np.empty((n, width), model.spaces.dtype), np.cumsum(sizes)[:-1])


def _of_rows(part: Any, n: int) -> Any:
    """A slice of an array, or an array of its own if that is empty."""
    return part if part is None or len(part) else np.empty((n, part.shape[1]), part.dtype)


def _correct_in_memory(X: Any, corrector: ChunkCorrector, out: Corrected, n_threads: int) -> None:
    def correct_block(block: slice) -> None:
        if out.embedding is None:
            out.genes[block] = corrector.correct(X[block], block.start)
        elif out.genes is None:
            out.embedding[block] = corrector.embed(X[block], block.start)
        else:
            out.genes[block], out.embedding[block] = corrector.correct_and_embed(X[block], block.start)

    map_blocks(counted(correct_block), shared_blocks(X.shape[0], n_threads, ROWS_AT_ONCE), n_threads)


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
    for b in model.order:
        if not model.steps_of(b):
            continue
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
    if inputs.codes is None:
        return ChunkCorrector.of(model, fitted[source], in_fit=in_fit)
    codes = np.asarray(fitted, np.min_scalar_type(len(model.names)))[inputs.codes]
    return ChunkCorrector.of(model, codes, in_fit=in_fit)


def check_result_fits(inputs: Batches, free: FreeMemory, wanted: Wanted, n_components: int | None) -> None:
    """Raise, before any work, if a dense result would not fit in memory."""
    n_cells = sum(inputs.n_cells)
    embedded = min(n_components or 0, inputs.n_genes) * wanted.embedding
    columns = inputs.n_genes * wanted.genes + embedded
    needed = n_cells * columns * inputs.dtype.itemsize
    if needed > free.size:
        of = f"{inputs.n_genes:,} genes" if wanted.genes else f"{embedded:,} components"
        what = (
            f"The corrected matrix of {n_cells:,} cells x {of} takes "
            f"{needed / 1e9:.1f} GB, but only {free.size / 1e9:.1f} GB are left ({free.limited_by})."
        )
        remedy = "Pass lazy data (paths, dask arrays, anndata.experimental.read_lazy) and write the result."
        raise ResultTooLargeError(what, remedy)


Correctors: TypeAlias = SharedModel[list[ChunkCorrector]] | SharedModelPath[list[ChunkCorrector]]

_in_one_pass: ContextVar[bool] = ContextVar("mnndask_in_one_pass", default=False)


@contextmanager
def in_one_pass() -> Iterator[None]:
    """Have lazy results compute genes and embedding in the same tasks, for those who will write both.

    Otherwise each is computed without the other. Computed together, they read their chunks once either way.
    """
    token = _in_one_pass.set(True)
    try:
        yield
    finally:
        _in_one_pass.reset(token)


def correct_lazily(
    X: da.Array, shared: Correctors, source: int, batch: int | None, wanted: Wanted
) -> Corrected:
    """Return the corrected cells of one source, lazily: nothing is read until they are computed.

    Parameters
    ----------
    shared
        Correctors of all sources.
    batch
        Index of the batch, shown in the names of the tasks; None if the source contains several.
    wanted
        What is computed.
    """
    model = shared.get()[source].model
    of_batch = "" if batch is None else f"-batch{batch}"
    dims = model.n_dims if wanted.embedding else None
    if wanted.genes and wanted.embedding and _in_one_pass.get():
        both = _mapped("correct_and_embed", f"mnn-correct{of_batch}", shared, source, X)
        genes, embedding = (
            _item(both, 0, f"mnn-corrected{of_batch}", X.shape[1], model.spaces.dtype),
            _item(both, 1, f"mnn-embedding{of_batch}", model.n_dims, model.spaces.dtype),
        )
        return Corrected(genes, embedding)
    return Corrected(
        _mapped("correct", f"mnn-correct{of_batch}", shared, source, X) if wanted.genes else None,
        _mapped("embed", f"mnn-embedding{of_batch}", shared, source, X, dims) if wanted.embedding else None,
    )


def _mapped(
    method: str, name: str, shared: Correctors, source: int, X: da.Array, columns: int | None = None
) -> da.Array:
    """Call a method of a corrector on each chunk; the result has as many columns, or those of the chunk."""
    dtype = shared.get()[source].model.spaces.dtype
    out: da.Array = da.map_blocks(
        partial(_call_on_chunk, method, shared, source),
        X,
        name=f"{name}-{uuid.uuid4().hex}",
        dtype=dtype,
        meta=np.empty((0, 0), dtype),
        chunks=X.chunks if columns is None else (X.chunks[0], (columns,)),
    )
    return out


def _item(pairs: da.Array, i: int, name: str, columns: int, dtype: np.dtype) -> da.Array:
    """Return one of the two arrays that each block of an array is."""
    out: da.Array = da.map_blocks(
        itemgetter(i),
        pairs,
        name=f"{name}-{uuid.uuid4().hex}",
        dtype=dtype,
        meta=np.empty((0, 0), dtype),
        chunks=(pairs.chunks[0], (columns,)),
    )
    return out


def angles_lazily(X: da.Array, shared: Correctors, source: int) -> da.Array:
    """Return the angles of the corrections of all rows, lazily: nothing is read until they are computed."""
    name = f"mnn-angle-{uuid.uuid4().hex}"
    function = partial(_call_on_chunk, "angles", shared, source)
    out: da.Array = da.map_blocks(function, X, name=name, dtype=np.float64, meta=np.empty(0), drop_axis=1)
    return out


def _call_on_chunk(
    method: str, shared: Correctors, source: int, block: Any, block_info: dict[int, Any]
) -> Any:
    """Call a method of a corrector on a chunk. Not a closure, so that lazy results can be pickled."""
    first = block_info[0]["array-location"][0][0]
    with single_threaded_blas():
        return getattr(shared.get()[source], method)(dense_or_csr(block), first)


def as_lazy(values: NDArray[Any]) -> da.Array:
    """Wrap computed values in a dask array of one chunk."""
    out: da.Array = da.from_array(values, chunks=-1)
    return out
