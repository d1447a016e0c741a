"""Every accepted kind of input becomes :class:`Inputs`: matrices, genes and batches, checked."""

from __future__ import annotations

import os
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from mnndask.align import common_genes, name_batches, split_batches
from mnndask.budget import Budget
from mnndask.chunks import moderate
from mnndask.errors import InputError, InputKeyError, InputTypeError
from mnndask.guard import check_lazy_tables, guarded
from mnndask.io.anndata_compat import layer_names
from mnndask.kernels.neighbors import Rows
from mnndask.kinds import common_kind
from mnndask.location import Location
from mnndask.reading import in_large_blocks, lazy_matrix
from mnndask.sources import Matrix, Source
from mnndask.store import open_lazily


@dataclass(frozen=True)
class Inputs:
    """All that came in.

    Parameters
    ----------
    kind
        ``"anndata"``, ``"dataarray"`` or ``"array"``: what goes out.
    sources
        The objects, in input order.
    genes
        Names of the genes; None for matrices that came without.
    categories
        Value that names each batch.
    codes
        Batch of each row, if the only source is one AnnData that holds them all; else each source is a batch.
    named
        Whether the data or the caller named the batches, rather than their position.
    """

    kind: str
    sources: list[Source]
    genes: pd.Index | None
    categories: list[Hashable]
    codes: NDArray[np.intp] | None
    named: bool

    @property
    def lazy(self) -> bool:
        """Whether the result is to be lazy."""
        return any(source.lazy for source in self.sources)

    @property
    def names(self) -> list[str]:
        """Names of the batches for messages and tables."""
        return [str(c) for c in self.categories]

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return int(self.sources[0].X.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """Precision to compute in."""
        return _precision(self.sources)

    @property
    def n_cells(self) -> list[int]:
        """Cells of each batch."""
        if self.codes is not None:
            return [int(n) for n in np.bincount(self.codes, minlength=len(self.categories))]
        return [int(source.X.shape[0]) for source in self.sources]

    def in_large_blocks(self, budget: Budget, n_drawn: int) -> Inputs:
        """The same for passes that end in so many cells of a batch; see :func:`reading.in_large_blocks`.

        Sources that have more blocks than that stay as they are: cells drawn at random leave some unread.
        """
        return replace(
            self,
            sources=[
                replace(s, X=in_large_blocks(s.X, budget.chunk_bytes, budget.n_workers))
                if s.lazy and s.X.numblocks[0] <= n_drawn
                else s
                for s in self.sources
            ],
        )

    @property
    def labels(self) -> list[str]:
        """How messages call each source."""
        return [source.label for source in self.sources]

    def without_tables(self) -> Inputs:
        """The same, in which what can be opened again is: names of a million cells take memory in a fit."""
        return replace(
            self, sources=[s if s.reopen is None else replace(s, frame=None) for s in self.sources]
        )

    def rows(self, batch: int) -> tuple[int, Rows | None]:
        """Source of a batch, and the rows that are its own (None for all)."""
        return (batch, None) if self.codes is None else (0, np.flatnonzero(self.codes == batch))


def read_inputs(
    datas: Sequence[Any],
    *,
    batch_key: str,
    batch_categories: Sequence[Hashable] | None = None,
    layer: str | None = None,
    var_index: Sequence[Hashable] | None = None,
    batches: Sequence[Hashable] | None = None,
    budget: Budget,
    fits_on: Collection[Hashable] | None = (),
    storage_options: Mapping[str, Any] | None = None,
) -> Inputs:
    """Open, check and align all batches; nothing lazy is read but annotations.

    With `batches`, each of `datas` is the batch so named, whatever it holds. Chunks of lazy data are sized by
    the budget, which has to do for a fit on the genes `fits_on` (None: all), too.

    Raises
    ------
    InputTypeError, InputError, InputKeyError, GenesError, InputNotFoundError
        Naming the input and the remedy.
    """
    kind = common_kind(datas)
    datas = [_located(i, data, storage_options) for i, data in enumerate(datas)]
    sources: list[Source] = []
    for i, data in enumerate(datas):
        first = sum(source.X.shape[0] for source in sources)
        sources.append(_open(data, _label(i, data), layer, budget, batch_key, first))
        _check_matrix(sources[-1])
    _check_dimensions(sources)
    genes = common_genes(sources, kind, var_index)
    sources = _moderate(sources, budget, _number_of(fits_on, sources[0]))
    return _batches(sources, kind, genes, batch_key, batch_categories, batches)


def _batches(
    sources: list[Source],
    kind: str,
    genes: pd.Index | None,
    batch_key: str,
    batch_categories: Sequence[Hashable] | None,
    batches: Sequence[Hashable] | None,
) -> Inputs:
    """Which batches the sources hold."""
    if batches is not None:
        if len(batches) != len(sources):
            what = f"batches names {len(batches)} batch(es) for {len(sources)} data set(s)."
            raise InputError(what, "Give one name per data set.")
        return Inputs(kind, sources, genes, list(batches), None, named=True)
    if len(sources) > 1:
        categories, named = name_batches(sources, batch_key, batch_categories)
        return Inputs(kind, sources, genes, categories, None, named)
    if kind != "anndata":
        return Inputs(kind, sources, genes, ["0"], None, named=False)
    categories, codes = split_batches(sources[0], batch_key, batch_categories)
    return Inputs(kind, sources, genes, categories, codes, named=True)


def _number_of(fits_on: Any, source: Source) -> int:
    """How many genes are to be used for distances, whether or not they are there."""
    return len(fits_on) if isinstance(fits_on, Collection) else int(source.X.shape[1])


def _precision(sources: list[Source]) -> np.dtype:
    """Single unless a batch is double."""
    double = any(s.X.dtype.kind == "f" and s.X.dtype.itemsize > 4 for s in sources)
    return np.dtype(np.float64 if double else np.float32)


def _moderate(sources: list[Source], budget: Budget, n_near: int) -> list[Source]:
    """Size the chunks of lazy sources."""
    size = _precision(sources).itemsize
    return [replace(s, X=moderate(s.X, s.label, budget, size, n_near)) if s.lazy else s for s in sources]


def _located(i: int, data: Any, options: Mapping[str, Any] | None) -> Any:
    if not isinstance(data, str | os.PathLike | Location):
        return data
    if not os.fspath(data):
        what = f"batch {i} is an empty path."
        raise InputError(what, "Give the path of a .zarr or .h5ad.")
    return Location.of(data, options)


def _label(i: int, data: Any) -> str:
    return f"batch {i} ({data})" if isinstance(data, Location) else f"batch {i}"


def _open(data: Any, label: str, layer: str | None, budget: Budget, batch_key: str, first: int) -> Source:
    if layer is not None and not isinstance(data, AnnData | Location):
        what = f"layer={layer!r} was asked for, but {label} is a matrix."
        raise InputTypeError(what, "Leave layer out, or pass AnnData.")
    match data:
        case Location():
            reopen = partial(open_lazily, data, layer, label, budget.chunk_bytes, [batch_key], first)
            return replace(_from_anndata(reopen(), label, layer, batch_key), reopen=reopen)
        case AnnData():
            return _from_anndata(data, label, layer, batch_key)
        case xr.DataArray():
            return Source(_matrix(data.data, label), label, data)
    return Source(_matrix(data, label), label)


def _from_anndata(adata: AnnData, label: str, layer: str | None, batch_key: str) -> Source:
    if layer is not None and layer not in adata.layers:
        what = f"{label} has no layer {layer!r}."
        raise InputKeyError(what, f"Its layers are: {', '.join(layer_names(adata)) or 'none'}.")
    slot = "X" if layer is None else f"layers/{layer}"
    if adata.isbacked:
        _check_backed(adata, label)
    if adata.isbacked and slot in adata.file:
        X = backed_matrix(adata, slot, label)
    elif adata.isbacked and layer is None:
        X = None
    else:
        X = adata.X if layer is None else adata.layers[layer]
    check_lazy_tables(adata, X, slot, label, [batch_key])
    if X is None:
        what = f"{label} has no X."
        names = ", ".join(layer_names(adata))
        remedy = f"Name the layer that holds the expression: layer=... (one of: {names})."
        raise InputError(what, remedy if names else "Give it X, or a layer and its name: layer=...")
    return Source(_matrix(X, label), label, adata)


def _check_backed(adata: AnnData, label: str) -> None:
    """Refuse an AnnData whose file was closed."""
    if not adata.file.is_open:
        what = f"{label} is backed by {adata.filename}, which is closed."
        raise InputError(what, f"Open it again: anndata.read_h5ad({str(adata.filename)!r}, backed='r').")


def backed_matrix(adata: AnnData, key: str, label: str | None = None) -> da.Array:
    """Matrix of an AnnData backed by a file, left in it, also where the AnnData is a view."""
    stored = adata.file[key if key in adata.file else key.replace("raw/", "raw.")]  # the latter in old files
    X = lazy_matrix(stored, label and f"{label} ({adata.filename})")
    if not adata.is_view:
        return X
    # anndata has no public way to ask a view for its rows, and reads all of a backed view at once.
    base, rows, columns = adata._adata_ref, adata._oidx, adata._vidx
    out: da.Array = X[np.arange(base.n_obs)[rows]]
    return out if key.startswith("raw/") else out[:, np.arange(base.n_vars)[columns]]


def _matrix(X: Any, label: str) -> Matrix:
    if isinstance(X, zarr.Array):
        X = lazy_matrix(X, label)
    if isinstance(X, np.ma.MaskedArray) and np.ma.is_masked(X):
        what = f"{label} is a masked array, and masked values have no meaning here."
        raise InputTypeError(what, "Say what they are: X.filled(0), or remove these cells or genes.")
    if getattr(X, "ndim", 2) != 2:
        what = f"{label} has {X.ndim} dimension(s)."
        raise InputError(what, "A batch is a matrix of cells by genes.")
    if isinstance(X, da.Array):
        if np.isnan(X.shape).any():
            what = f"{label} is a dask array of unknown chunk sizes."
            raise InputError(what, "Call its compute_chunk_sizes() first.")
        return guarded(X, label)
    return X.tocsr() if sparse.issparse(X) else np.asarray(X)


def _check_dimensions(sources: list[Source]) -> None:
    named = [(s.label, s.frame.dims) for s in sources if isinstance(s.frame, xr.DataArray)]
    for label, dims in named:
        if dims != named[0][1]:
            what = f"{label} has dimensions {dims}, {named[0][0]} has {named[0][1]}."
            raise InputError(what, "Name them alike: array.rename(...), cells first (array.transpose).")


def _check_matrix(source: Source) -> None:
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
