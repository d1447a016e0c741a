"""Results as ``.h5ad`` files: written in a stream, complete or absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import h5py
from anndata import AnnData

from mnndask.errors import MNNError, OutputError
from mnndask.io.anndata_writer import is_dense, write_blocks, write_elements
from mnndask.io.begun_matrix import ARRAY, Grid
from mnndask.io.output import check_free, explaining_failures
from mnndask.stores.file_target import FileTarget


@contextmanager
def writing_file(target: FileTarget, *, overwrite: bool) -> Iterator[h5py.File]:
    """Yield a new HDF5 file that is renamed to its destination when it is complete, and removed on failure.

    Raises
    ------
    OutputExistsError
        If the output exists, unless `overwrite`, or another run is writing it.
    OutputError
        If it cannot be written, for example on a full disk.
    """
    with explaining_failures(target), target.only_writer():
        check_free(target, overwrite=overwrite, resume=False)
        target.clear()  # what a killed run has left
        try:
            with _naming(target), h5py.File(target.partial, "w", locking=False) as file:
                file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
                yield file
            target.finish(overwrite=overwrite)
        except BaseException:
            target.clear()
            raise


@contextmanager
def _naming(target: FileTarget) -> Iterator[None]:
    """Raise errors of HDF5, which do not say which file could not be written, as ours."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, MNNError) or "errno" not in str(error):
            raise
        what = f"The output {target} could not be written: {error}."
        raise OutputError(what, "Free some space, or write to another path.") from error


def write_h5ad(
    result: AnnData,
    matrices: Mapping[str, Any],
    file: h5py.File,
    n_jobs: int | None,
    grid: Grid,
    *,
    with_X: bool = False,
) -> None:
    """Write a result, and matrices by path in the file. Triggers a compute of lazy ones.

    Each block of cells is computed once and written to all matrices. They are not compressed, as HDF5 does
    that on one thread. With `with_X`, ``X`` of the result is written, too.
    """
    write_elements(result, file, n_jobs, remote=False, with_X=with_X)
    assert all(is_dense(X) for X in matrices.values())
    rows, _ = grid.chunks(next(iter(matrices.values())))
    arrays = []
    for name, X in matrices.items():
        in_chunks = grid.chunk_genes is not None and 0 not in X.shape
        chunks = (rows, grid.genes(X)) if in_chunks else None
        array = file.create_dataset(name, shape=X.shape, dtype=X.dtype, chunks=chunks)
        array.attrs.update(ARRAY)
        arrays.append(array)
    n, width = arrays[0].shape
    if width:
        write_blocks(arrays, list(matrices.values()), rows, [True] * -(-n // rows), n_jobs)
