"""``write_zarr``: write an AnnData as a zarr store that is complete or not there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from anndata import AnnData

from mnndask._blocks import CHUNK_BYTES
from mnndask.api.progress_bars import showing
from mnndask.core.parameters import check_flag
from mnndask.engine.run_options import RunOptions
from mnndask.engine.workers import check_output_folder
from mnndask.errors import InputTypeError
from mnndask.io.anndata_writer import write_annotations, write_matrix
from mnndask.io.begun_matrix import Grid
from mnndask.io.output import writing
from mnndask.io.raw import storable
from mnndask.stores.location import Location
from mnndask.stores.output_target import target_of


def write_zarr(  # noqa: PLR0913
    adata: AnnData,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    *,
    n_jobs: int | None = None,
    chunk_genes: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    show_progress: bool | None = None,
) -> None:
    """Write an AnnData as a zarr store that is complete or not there.

    A local store is written to ``<path>.partial`` and renamed when complete. At a URL, the root metadata is
    written last, so that nothing opens the store before. ``AnnData.write_zarr`` writes in place: if stopped,
    it leaves a store that opens, in which missing values read as zeros.

    Triggers a compute of everything lazy, a block of cells at a time; sparse data that is backed by a file is
    read whole. Dense values are stored in chunks of whole cells. What a file cannot store as it is gets
    another name or type, or is left out, and a warning names it, as for results of
    :func:`mnndask.mnn_correct`.

    Parameters
    ----------
    adata
        The data: in memory, backed or lazy. Not modified.
    path
        Local path or URL that ends in ``.zarr``.
    overwrite
        Whether to replace an existing output, complete or unfinished. An existing store is kept until the new
        one is complete.
    n_jobs
        Number of threads. Default, and -1: all processors. With an active ``distributed.Client``, its workers
        compute.
    chunk_genes
        Number of genes in a chunk of dense values, so that one gene can be read alone: with 200, that of a
        million cells in about a second. Chunks of the same cells are one file (a shard). Default: all genes.
    storage_options
        Options that fsspec needs to reach a URL.
    show_progress
        Whether to show a live line on stderr. None shows it in a terminal or a notebook.

    Raises
    ------
    InputTypeError
        If `adata` is not an AnnData.
    InputError, InputNotFoundError
        If `path` does not end in ``.zarr``, or its folder does not exist.
    OutputExistsError
        If there is an output, complete or unfinished, and `overwrite` is false; or if another process is
        writing it.
    OutputError
        If the store cannot be written, e.g. because the disk is full. What was written is kept, and does not
        open.

    Notes
    -----
    Not for exact copies: chunks are mnndask's own, and names and types may change, as a warning then says. To
    copy a store, copy its files. Not for appending to a store or for updating a part of it, as the whole is
    written anew. The input must not change before the call returns.

    Examples
    --------
    >>> import tempfile
    >>> import anndata as ad, numpy as np
    >>> import mnndask
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mnndask.write_zarr(ad.AnnData(np.ones((3, 2))), f"{folder}/cells.zarr")
    ...     print(ad.read_zarr(f"{folder}/cells.zarr").shape)
    (3, 2)
    """
    if not isinstance(adata, AnnData):
        what = f"The object to write is of type {type(adata).__name__}, not an AnnData."
        raise InputTypeError(what, "Write one AnnData at a time.")
    check_flag("overwrite", overwrite)
    if not isinstance(path, str | os.PathLike):
        what = f"The path is {path!r}."
        raise InputTypeError(what, "Give a path or URL that ends in .zarr.")
    run = RunOptions(n_jobs=n_jobs, storage_options=storage_options, show_progress=show_progress)
    location = Location.of(path, run.storage_options)
    target = target_of(location)
    grid = Grid(CHUNK_BYTES, target.remote, chunk_genes)
    target.check([])
    check_output_folder(location)
    adata = storable(adata)
    with showing(run.show_progress), writing(target, overwrite=overwrite) as root:
        write_annotations(adata, root, run.n_jobs, remote=target.remote)
        write_matrix(adata.X, root, run.n_jobs, grid)
