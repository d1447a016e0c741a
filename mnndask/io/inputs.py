"""Users' objects and files as batches: opened, checked and aligned."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from anndata import AnnData
from scipy import sparse

from mnndask._library_state import exclusive
from mnndask._typing import Matrix
from mnndask.engine.batches import precision
from mnndask.engine.chunks import moderate
from mnndask.engine.memory_budget import Budget
from mnndask.errors import InputError, InputKeyError, InputTypeError
from mnndask.io.anndata_compat import layer_names
from mnndask.io.anndata_store import open_lazily
from mnndask.io.batch_names import name_batches, split_batches
from mnndask.io.checked_graphs import check_lazy_tables, guarded
from mnndask.io.designs import check_design, with_design
from mnndask.io.genes import common_genes
from mnndask.io.input_checks import check_sparse
from mnndask.io.input_kinds import common_kind
from mnndask.io.opened_inputs import Input, InputOptions, Inputs
from mnndask.io.prepared import Prepared
from mnndask.stores.fingerprint import Fingerprint
from mnndask.stores.lazy_matrix import check_stored, lazy_matrix
from mnndask.stores.location import Location
from mnndask.stores.read_errors import reading

MATRICES = ("X", "layers", "obsm", "obsp", "raw")  # read by tasks, which check what they read


@exclusive()
def read_inputs(
    datas: Sequence[Any],
    *,
    options: InputOptions,
    batches: Sequence[Hashable] | None = None,
    budget: Budget,
    fits_on: Collection[Hashable] | None = (),
    storage_options: Mapping[str, Any] | None = None,
) -> Inputs:
    """Open, check and align all batches. Of lazy data, only annotations are read.

    With `batches`, each of `datas` is the batch of that name, regardless of its contents. Chunks of lazy data
    are sized by the budget, which must also suffice for a fit on the genes `fits_on` (None: all).

    Raises
    ------
    InputTypeError, InputError, InputKeyError, GenesError, InputNotFoundError
        If an input is unsuitable; the message names the input and the remedy.
    """
    kind = common_kind(datas)
    datas = [_located(i, data, storage_options) for i, data in enumerate(datas)]
    sources: list[Input] = []
    for i, data in enumerate(datas):
        first = sum(source.X.shape[0] for source in sources)
        sources.append(_open(data, _label(i, data), options, budget, first))
        _check_matrix(sources[-1])
        if sources[-1].lazy:
            check_stored(sources[-1].X)
    _check_dimensions(sources)
    genes = common_genes(sources, kind, options.var_index)
    sources = _moderate(sources, budget, _number_of(fits_on, sources[0]))
    return _batches(sources, kind, genes, options, batches)


def _batches(
    sources: list[Input],
    kind: str,
    genes: pd.Index | None,
    options: InputOptions,
    batches: Sequence[Hashable] | None,
) -> Inputs:
    """Determine the batches in the sources."""
    if batches is not None:
        if len(batches) != len(sources):
            what = f"batches names {len(batches)} batch(es) for {len(sources)} data set(s)."
            raise InputError(what, "Give one name per data set.")
        return Inputs(sources, list(batches), None, kind, genes, named=True)
    check_design(options, kind, sources)
    keys, given = options.keys, options.batch_categories
    if len(sources) > 1:
        categories, named = name_batches(sources, keys, given)
        return with_design(Inputs(sources, categories, None, kind, genes, named), options)
    if kind != "anndata":
        return Inputs(sources, ["0"], None, kind, genes, named=False)
    categories, codes = split_batches(sources[0], keys, given)
    return with_design(Inputs(sources, categories, codes, kind, genes, named=True), options)


def _number_of(fits_on: Any, source: Input) -> int:
    """Number of genes to be used for distances, whether or not they exist."""
    return len(fits_on) if isinstance(fits_on, Collection) else int(source.X.shape[1])


def _moderate(sources: list[Input], budget: Budget, n_near: int) -> list[Input]:
    """Adjust the chunk sizes of lazy sources."""
    size = precision(sources).itemsize
    return [replace(s, X=moderate(s.X, s.label, budget, size, n_near)) if s.lazy else s for s in sources]


def _located(i: int, data: Any, options: Mapping[str, Any] | None) -> Any:
    if not isinstance(data, str | os.PathLike | Location):
        return data
    if not os.fspath(data):
        what = f"batch {i} is an empty path."
        raise InputError(what, "Give the path of a .zarr or .h5ad.")
    return Location.of(data, options)


def _label(i: int, data: Any) -> str:
    place = data.location if isinstance(data, Prepared) else data
    return f"batch {i} ({place})" if isinstance(place, Location) else f"batch {i}"


def _open(data: Any, label: str, options: InputOptions, budget: Budget, first: int) -> Input:
    layer, columns = options.layer, options.columns
    if layer is not None and not isinstance(data, AnnData | Location | Prepared):
        what = f"layer={layer!r} was given, but {label} is a matrix."
        raise InputTypeError(what, "Leave layer out, or pass AnnData.")
    match data:
        case Location():
            open_ = partial(open_lazily, data, layer, label, budget.chunk_bytes, columns, first)
            files = Fingerprint.of(data, MATRICES)
            reopen = partial(_unchanged, data, files, label, open_)
            opened = _from_anndata(reopen(), label, layer, columns)
            return replace(opened, reopen=reopen, check=partial(files.check, data, label))
        case Prepared():
            open_ = partial(data.open, budget.chunk_bytes, columns, first)
            files = Fingerprint.of(data.location, MATRICES)
            reopen = partial(_unchanged, data.location, files, label, open_)
            opened = _from_anndata(reopen(), label, None, columns)
            return replace(opened, reopen=reopen, check=partial(files.check, data.location, label))
        case AnnData():
            return _from_anndata(data, label, layer, columns)
        case xr.DataArray():
            return Input(_matrix(data.data, label), label, data)
    return Input(_matrix(data, label), label)


def _unchanged(location: Location, files: Fingerprint, label: str, open_: Callable[[], AnnData]) -> AnnData:
    """Open an input, whose annotations may not have changed until they are read, also when reopened."""
    try:
        out = open_()
    except InputError:  # possibly because it is being replaced
        files.check(location, label)
        raise
    files.check(location, label)
    return out


@exclusive()
def matrix_of(adata: AnnData, layer: str | None, batch_key: str) -> Matrix:
    """Return the expression in an AnnData; lazy if it is backed or lazy.

    Raises
    ------
    InputError, InputTypeError, InputKeyError
        If there is none.
    """
    return _from_anndata(adata, "The AnnData", layer, [batch_key]).X


def _from_anndata(adata: AnnData, label: str, layer: str | None, columns: Sequence[str]) -> Input:
    if layer is not None and layer not in adata.layers:
        what = f"{label} has no layer {layer!r}."
        raise InputKeyError(what, f"Its layers are: {', '.join(layer_names(adata)) or 'none'}.")
    slot = "X" if layer is None else f"layers/{layer}"
    if adata.isbacked:
        _check_backed(adata, label)
    with reading(label, slot):
        if adata.isbacked and slot in adata.file:
            X = backed_matrix(adata, slot, label)
        elif adata.isbacked and layer is None:
            X = None
        else:
            X = adata.X if layer is None else adata.layers[layer]
        check_lazy_tables(adata, X, slot, label, columns)
    if X is None:
        what = f"{label} has no X."
        names = ", ".join(layer_names(adata))
        remedy = f"Name the layer that contains the expression: layer=... (one of: {names})."
        raise InputError(what, remedy if names else "Give it X, or a layer and its name: layer=...")
    return Input(_matrix(X, label), label, adata)


def _check_backed(adata: AnnData, label: str) -> None:
    """Refuse a backed AnnData whose file is closed."""
    if not adata.file.is_open:
        what = f"{label} is backed by {adata.filename}, which is closed."
        raise InputError(what, f"Open it again: anndata.read_h5ad({str(adata.filename)!r}, backed='r').")


def backed_matrix(adata: AnnData, key: str, label: str | None = None) -> da.Array:
    """Return a matrix of a backed AnnData as a lazy array, also if the AnnData is a view."""
    stored = adata.file[key if key in adata.file else key.replace("raw/", "raw.")]  # the latter in old files
    X = lazy_matrix(stored, label and f"{label} ({adata.filename})")
    if not adata.is_view:
        return X
    # anndata has no public access to the rows of a view, and reads a backed view completely.
    base, rows, columns = adata._adata_ref, adata._oidx, adata._vidx
    out: da.Array = X[np.arange(base.n_obs)[rows]]
    return out if key.startswith("raw/") else out[:, np.arange(base.n_vars)[columns]]


def _matrix(X: Any, label: str) -> Matrix:
    if isinstance(X, zarr.Array):
        X = lazy_matrix(X, label)
    if isinstance(X, np.ma.MaskedArray) and np.ma.is_masked(X):
        what = f"{label} is a masked array, and masked values are not supported."
        raise InputTypeError(what, "Replace them, e.g. X.filled(0), or remove these cells or genes.")
    if getattr(X, "ndim", 2) != 2:
        what = f"{label} has {X.ndim} dimension(s)."
        raise InputError(what, "A batch is a matrix of cells by genes.")
    if isinstance(X, da.Array):
        if np.isnan(X.shape).any():
            what = f"{label} is a dask array with unknown chunk sizes."
            raise InputError(what, "Call its compute_chunk_sizes() first.")
        return guarded(X, label)
    if sparse.issparse(X):
        check_sparse(X, label)
        return X.tocsr()
    return np.asarray(X)


def _check_dimensions(sources: list[Input]) -> None:
    named = [(s.label, s.frame.dims) for s in sources if isinstance(s.frame, xr.DataArray)]
    for label, dims in named:
        if dims != named[0][1]:
            what = f"{label} has dimensions {dims}, {named[0][0]} has {named[0][1]}."
            raise InputError(what, "Name them alike: array.rename(...), cells first (array.transpose).")


def _check_matrix(source: Input) -> None:
    n_cells, n_genes = source.X.shape
    if source.X.dtype.kind not in "fiub":
        what = f"{source.label} has dtype {source.X.dtype}."
        raise InputTypeError(what, "Expression must be real numbers: convert it with astype('float32').")
    if n_genes == 0:
        what = f"{source.label} has no genes."
        raise InputError(what, "Check how its genes were selected.")
    if n_cells == 0:
        what = f"{source.label} has no cells."
        raise InputError(what, "Leave it out, or check how its cells were selected.")
