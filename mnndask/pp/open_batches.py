"""``open_batches``: files of several labs as lazy AnnData, ready for a correction."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from anndata import AnnData

from mnndask.api.progress_bars import showing
from mnndask.engine.run_options import RunOptions
from mnndask.errors import InputError, InputTypeError
from mnndask.io.prepare import Preparation, prepare_files
from mnndask.stores.location import Location


def open_batches(  # noqa: PLR0913
    paths: Sequence[str | os.PathLike[str]],
    *,
    join: str = "inner",
    batch_key: str | None = None,
    layer: str | None = None,
    counts: bool = False,
    target_sum: float = 1e4,
    n_top_genes: int | None = None,
    gene_key: str | None = None,
    n_jobs: int | None = None,
    memory_limit: int | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    show_progress: bool | None = None,
) -> list[AnnData]:
    """Open files whose genes and batches differ as lazy AnnData with the same genes, one for each batch.

    Tables are read. Expression is read when results are computed: each chunk is then aligned and normalised.
    Only `n_top_genes` reads it at once, one time, in bounded memory; `counts` alone looks at the first cells
    of each batch.

    Parameters
    ----------
    paths
        Paths or URLs of AnnData stores: ``.zarr``, or ``.h5ad`` on this machine. Not modified.
    join
        How genes are aligned: ``"inner"`` keeps those that all files have, in the order of the first. A
        warning says how many each file loses. ``"outer"`` is not offered, as genes that a file has not
        measured would count as zeros, and the difference as batch effect.
    batch_key
        Column of ``obs`` with the batch of each cell. A file with several values is several batches. If two
        files have a value in common, names of batches begin with those of the files. Default: ``"batch"`` if
        the files have it, else each file is a batch, and ``obs["batch"]`` its name without the suffix.
    layer
        Layer with the expression. Default: ``X``.
    counts
        Whether the expression consists of counts, whatever the layer is called. Each cell is then scaled to
        `target_sum` over all genes of its file, and ``log(1 + x)`` is taken, as by
        ``sc.pp.normalize_total`` and ``sc.pp.log1p``. Cells without counts stay zero. Counts that were in
        ``X`` are in ``layers["counts"]``.
    target_sum
        With `counts`, the sum to which each cell is scaled.
    n_top_genes
        Number of highly variable genes to mark in ``var["highly_variable"]``, with the other columns of
        ``sc.pp.highly_variable_genes(flavor="seurat", batch_key=...)``, which marks the same genes.
    gene_key
        Column of ``var`` with the names of the genes, such as ``"gene_symbols"``. Default: ``var_names``.
    n_jobs, memory_limit
        For `n_top_genes`, as in :func:`mnndask.mnn_correct`.
    storage_options
        Options that fsspec needs to reach URLs.
    show_progress
        Whether to show a live line on stderr. None shows it in a terminal or a notebook.

    Returns
    -------
    list of AnnData
        One for each batch, in the order of files and of first cells. ``X``, ``layers`` and ``obsm`` are lazy,
        ``obs`` and ``var`` are in memory. With `counts`, ``X`` is float32, or float64 if the counts are. Of a
        file with several batches, ``obsp`` is left out.

    Raises
    ------
    GenesError
        If a file has names of genes twice, or less than a fifth of a file's genes are in all files.
    InputError, InputTypeError, InputKeyError, InputNotFoundError, InputReadError
        If a file cannot be used, or an option. With `counts`, negative values, and values that look
        log-transformed, cannot. Negative values of cells that are read later raise when they are computed.

    Notes
    -----
    Genes are ranked on log-normalised values. Of raw counts without `counts`, the ranking would be one of
    sequencing depth; a warning says so.

    ``counts=True`` is not for values that are normalised already. What looks log-transformed is refused,
    other fractions give a warning only. ``var["highly_variable"]`` chooses genes for distances: the ranks
    test nothing, and do not show markers of types or conditions.

    References
    ----------
    Satija, R., Farrell, J. A., Gennert, D., Schier, A. F. & Regev, A. Spatial reconstruction of single-cell
    gene expression data. Nature Biotechnology 33, 495-502 (2015). Online methods.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> import mnndask
    >>> folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    >>> genes = pd.DataFrame(index=[f"gene{i}" for i in range(50)])
    >>> for lab, var in {"a": genes, "b": genes[::-1]}.items():
    ...     cells = pd.DataFrame(index=[f"{lab}{i}" for i in range(80)])
    ...     file = ad.AnnData(rng.poisson(1.0, (80, 50)).astype("float32"), obs=cells, var=var)
    ...     file.write_h5ad(folder / f"{lab}.h5ad")
    >>> paths = [folder / "a.h5ad", folder / "b.h5ad"]
    >>> batches = mnndask.pp.open_batches(paths, counts=True, n_top_genes=20)
    >>> [batch.shape for batch in batches]
    [(80, 50), (80, 50)]
    >>> variable = batches[0].var_names[batches[0].var["highly_variable"]]
    >>> mnndask.mnn_correct(*batches, var_subset=variable, k=5)[0].shape
    (160, 50)
    """
    run = RunOptions(n_jobs=n_jobs, memory_limit=memory_limit, storage_options=storage_options)
    options = Preparation(join, batch_key, layer, gene_key, counts, target_sum, n_top_genes)
    locations = [_located(path, storage_options) for path in _listed(paths)]
    labels = [f"batch {i} ({location})" for i, location in enumerate(locations)]
    with showing(show_progress):
        return [batch.open() for batch in prepare_files(locations, labels, options, run)]


def _listed(paths: Any) -> list[Any]:
    if isinstance(paths, str | os.PathLike):
        return [paths]
    listed = list(paths)
    if not listed:
        what = "No files were given."
        raise InputError(what, "Give their paths, such as sorted(Path(folder).glob('*.h5ad')).")
    return listed


def _located(path: Any, storage_options: Mapping[str, Any] | None) -> Location:
    if not isinstance(path, str | os.PathLike):
        what = f"A file is given as an object of type {type(path).__name__}, not as a path."
        raise InputTypeError(what, "Give paths of .zarr or .h5ad files.")
    if not os.fspath(path):
        what = "A file is given as an empty path."
        raise InputError(what, "Give the path of a .zarr or .h5ad.")
    return Location.of(path, storage_options)
