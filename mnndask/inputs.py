"""Every accepted kind of input becomes :class:`Inputs`: matrices, genes, batches; with all validation of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from mnndask.errors import GenesError, InputError, InputKeyError, InputTypeError
from mnndask.store import lazy_matrix, open_lazily

Matrix = NDArray[Any] | sparse.csr_matrix | da.Array
Rows = NDArray[np.intp]

ACCEPTED = (
    "AnnData, numpy.ndarray, scipy sparse matrix, dask array, zarr array, xarray.DataArray, "
    "or a path of a .zarr or .h5ad"
)


@dataclass(frozen=True)
class Source:
    """One object that came in.

    Parameters
    ----------
    X
        Expression, shape ``(n_cells, n_genes)``: dense, CSR, or a dask array chunked along cells only.
    label
        How messages call it.
    frame
        The AnnData or DataArray it came in, annotations in memory; None for bare matrices.
    """

    X: Matrix
    label: str
    frame: AnnData | xr.DataArray | None = None

    @property
    def lazy(self) -> bool:
        """Whether its values are yet to be read."""
        return isinstance(self.X, da.Array)


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
    """

    kind: str
    sources: list[Source]
    genes: pd.Index | None
    categories: list[Hashable]
    codes: NDArray[np.intp] | None

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
        """Precision to compute in: single unless a batch is double."""
        double = any(source.X.dtype == np.float64 for source in self.sources)
        return np.dtype(np.float64 if double else np.float32)

    @property
    def n_cells(self) -> list[int]:
        """Cells of each batch."""
        if self.codes is not None:
            return [int(n) for n in np.bincount(self.codes, minlength=len(self.categories))]
        return [int(source.X.shape[0]) for source in self.sources]

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
) -> Inputs:
    """Open, check and align all batches; nothing lazy is read but annotations.

    Raises
    ------
    InputTypeError, InputError, InputKeyError, GenesError, InputNotFoundError
        Naming the input and the remedy.
    """
    kind = _common_kind(datas)
    sources = [_open(data, _label(i, data), layer) for i, data in enumerate(datas)]
    for source in sources:
        _check_matrix(source)
    genes = _common_genes(sources, kind, var_index)
    if len(sources) == 1:
        if kind != "anndata":
            return Inputs(kind, sources, genes, ["0"], None)
        categories, codes = _split(sources[0], batch_key, batch_categories)
        return Inputs(kind, sources, genes, categories, codes)
    return Inputs(kind, sources, genes, _name_batches(sources, batch_key, batch_categories), None)


def _kind(data: Any) -> str:
    match data:
        case AnnData():
            return "anndata"
        case str() | os.PathLike():
            return "path"
        case np.ndarray():
            return "array"
        case da.Array():
            return "dask"
        case zarr.Array():
            return "zarr"
        case xr.DataArray():
            return "dataarray"
    if sparse.issparse(data):
        return "sparse"
    what = f"A batch is {_article(type(data))}, which mnndask cannot read."
    remedy = f"Pass each batch as its own argument, as one of: {ACCEPTED}."
    if isinstance(data, list | tuple):
        remedy = "Pass each batch as its own argument: unpack the list, mnn_correct(*batches)."
    raise InputTypeError(what, remedy)


def _article(kind: type) -> str:
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return f"an object of type {name}"


def _common_kind(datas: Sequence[Any]) -> str:
    """What goes out, after checking that all came in as the same kind."""
    if not datas:
        what = "No data was given."
        raise InputTypeError(what, "Pass two or more batches, or one AnnData whose obs has the batch_key.")
    kinds = [_kind(data) for data in datas]
    if len(set(kinds)) > 1:
        what = f"Batches are of mixed kinds: {', '.join(kinds)}."
        raise InputTypeError(what, "Convert them to one kind, e.g. all AnnData or all paths.")
    return {"anndata": "anndata", "path": "anndata", "dataarray": "dataarray"}.get(kinds[0], "array")


def _label(i: int, data: Any) -> str:
    return f"batch {i} ({os.fspath(data)})" if isinstance(data, str | os.PathLike) else f"batch {i}"


def _open(data: Any, label: str, layer: str | None) -> Source:
    if layer is not None and not isinstance(data, AnnData | str | os.PathLike):
        what = f"layer={layer!r} was asked for, but {label} is a matrix."
        raise InputTypeError(what, "Leave layer out, or pass AnnData.")
    match data:
        case str() | os.PathLike():
            return _from_anndata(open_lazily(Path(data), layer, label), label, layer)
        case AnnData():
            return _from_anndata(data, label, layer)
        case xr.DataArray():
            return Source(_matrix(data.data, label), label, data)
    return Source(_matrix(data, label), label)


def _from_anndata(adata: AnnData, label: str, layer: str | None) -> Source:
    if layer is not None and layer not in adata.layers:
        what = f"{label} has no layer {layer!r}."
        raise InputKeyError(what, f"Its layers are: {', '.join(adata.layers) or 'none'}.")
    if layer is not None:
        X = adata.layers[layer]
    elif adata.isbacked:
        X = _backed_matrix(adata)
    else:
        X = adata.X
    if X is None:
        what = f"{label} has no X."
        raise InputError(what, "Name the layer that holds the expression: layer=...")
    return Source(_matrix(X, label), label, adata)


def _backed_matrix(adata: AnnData) -> da.Array:
    """``X`` of an AnnData backed by a file, left in it, also where the AnnData is a view."""
    X = lazy_matrix(adata.file["X"])
    if not adata.is_view:
        return X
    # anndata has no public way to ask a view for its rows, and reads all of a backed view at once.
    base, rows, columns = adata._adata_ref, adata._oidx, adata._vidx
    return X[np.arange(base.n_obs)[rows]][:, np.arange(base.n_vars)[columns]]


def _matrix(X: Any, label: str) -> Matrix:
    if isinstance(X, zarr.Array):
        X = da.from_zarr(X)
    if getattr(X, "ndim", 2) != 2:
        what = f"{label} has {X.ndim} dimension(s)."
        raise InputError(what, "A batch is a matrix of cells by genes.")
    if isinstance(X, da.Array):
        if np.isnan(X.shape[0]):
            what = f"{label} is a dask array of unknown chunk sizes."
            raise InputError(what, "Call its compute_chunk_sizes() first.")
        return _whole_rows(X)
    return X.tocsr() if sparse.issparse(X) else np.asarray(X)


def _whole_rows(X: da.Array) -> da.Array:
    """Join chunks along genes, so that each chunk holds whole cells."""
    if X.numblocks[1] <= 1:
        return X
    return da.blockwise(
        _join_columns, "ik", X, "ij", new_axes={"k": X.shape[1]}, concatenate=False, dtype=X.dtype, meta=X._meta
    )


def _join_columns(blocks: list[Any]) -> Any:
    if sparse.issparse(blocks[0]):
        return sparse.hstack(blocks, format="csr")
    return np.concatenate(blocks, axis=1)


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


def _common_genes(
    sources: list[Source], kind: str, var_index: Sequence[Hashable] | None
) -> pd.Index | None:
    """Names of the genes, the same in every batch; `var_index` speaks for matrices only, as in scanpy."""
    first, n_genes = sources[0], sources[0].X.shape[1]
    for source in sources[1:]:
        if source.X.shape[1] != n_genes:
            what = f"{source.label} has {source.X.shape[1]} genes, {first.label} has {n_genes}."
            raise GenesError(what, "Select the genes that all batches share, in one order, before correcting.")
    named = [_gene_names(source) for source in sources]
    if kind != "anndata" and var_index is not None:
        given = pd.Index(list(var_index))
        if len(given) != n_genes:
            what = f"var_index has {len(given)} names, the batches have {n_genes} genes."
            raise GenesError(what, "Give one name per column.")
        _check_unique(given, "var_index")
        return given
    reference = named[0]
    if reference is None:
        return None
    for source, names in zip(sources, named, strict=True):
        if names is None:
            continue
        _check_unique(names, source.label)
        if names.equals(reference):
            continue
        if set(names) == set(reference):
            what = f"{source.label} has the genes of {first.label} in another order."
            raise GenesError(what, "Align it first: batch = batch[:, reference.var_names].")
        odd = [str(g) for g in names if g not in set(reference)][:3]
        what = f"{source.label} has other genes than {first.label}, e.g. {', '.join(odd)}."
        raise GenesError(what, "Select the genes that all batches share, in one order, before correcting.")
    return reference


def _gene_names(source: Source) -> pd.Index | None:
    match source.frame:
        case AnnData() as adata:
            return adata.var_names
        case xr.DataArray() as array if array.dims[1] in array.coords:
            return array.indexes[array.dims[1]]
    return None


def _check_unique(names: pd.Index, label: str) -> None:
    if not names.is_unique:
        double = [str(g) for g in names[names.duplicated()].unique()[:3]]
        what = f"{label} has duplicate gene names, e.g. {', '.join(double)}."
        raise GenesError(what, "Make them unique first: adata.var_names_make_unique().")


def resolve_subset(inputs: Inputs, var_subset: Sequence[Hashable] | None) -> Rows | None:
    """Columns of the genes used for distances, ascending; None for all."""
    if var_subset is None:
        return None
    if isinstance(var_subset, str) or np.asarray(var_subset).dtype == bool:
        what = f"var_subset is {'one string' if isinstance(var_subset, str) else 'a boolean mask'}."
        raise InputTypeError(what, "Give the names: adata.var_names[mask], or a list of them.")
    if inputs.genes is None:
        what = "var_subset was given for matrices whose genes have no names."
        raise InputError(what, "Name the columns: var_index=...")
    wanted = pd.Index(list(var_subset))
    if len(wanted) == 0:
        what = "var_subset is empty."
        raise InputError(what, "Name the genes to use for distances, or leave it out to use all.")
    if not wanted.is_unique:
        double = [str(g) for g in wanted[wanted.duplicated()].unique()[:3]]
        what = f"var_subset names genes twice, e.g. {', '.join(double)}."
        raise InputError(what, "Name each once: pandas.unique(var_subset).")
    columns = inputs.genes.get_indexer(wanted)
    if (columns < 0).any():
        missing = wanted[columns < 0]
        what = f"var_subset names {len(missing)} unknown gene(s): {', '.join(str(g) for g in missing[:3])}."
        raise InputKeyError(what, "Use names from the batches' genes (var_names, or var_index).")
    return None if len(columns) == inputs.n_genes else np.sort(columns).astype(np.intp)


def in_memory(table: Any) -> Any:
    """Table of a lazy AnnData as pandas; anything else as it is."""
    return table.to_memory() if hasattr(table, "to_memory") else table


def _batch_column(source: Source, batch_key: str) -> pd.Series | None:
    if not isinstance(source.frame, AnnData) or batch_key not in source.frame.obs:
        return None
    column = in_memory(source.frame.obs)[batch_key]
    if column.isna().any():
        what = f"{source.label} has {int(column.isna().sum())} missing value(s) in obs[{batch_key!r}]."
        raise InputError(what, "Fill them, or drop these cells.")
    return column


def _name_batches(
    sources: list[Source], batch_key: str, batch_categories: Sequence[Hashable] | None
) -> list[Hashable]:
    """Categories of the batches: those of a constant, distinct `batch_key` column, else as given, else counted."""
    columns = [_batch_column(source, batch_key) for source in sources]
    own = []
    for source, column in zip(sources, columns, strict=True):
        if column is None:
            continue
        values = column.unique()
        if len(values) > 1:
            what = f"{source.label} has {len(values)} values in obs[{batch_key!r}], so it is not one batch."
            raise InputError(what, "Pass the AnnData that holds all batches alone, or name another batch_key.")
        own.append(values[0])
    given = _given_categories(batch_categories, len(sources))
    if len(own) == len(sources) and len(set(own)) == len(own):
        if given is not None and [str(c) for c in given] != [str(c) for c in own]:
            what = f"batch_categories {given} disagree with obs[{batch_key!r}], which says {own}."
            raise InputError(what, "Leave batch_categories out, or name another batch_key.")
        return own
    if own:
        message = (
            f"obs[{batch_key!r}] does not tell the batches apart and is replaced.\n"
            "Name another batch_key to keep it."
        )
        warnings.warn(message, UserWarning, stacklevel=2)
    return given if given is not None else [str(i) for i in range(len(sources))]


def _given_categories(categories: Sequence[Hashable] | None, n: int) -> list[Hashable] | None:
    if categories is None:
        return None
    given = list(categories)
    if len(given) != n:
        what = f"batch_categories has {len(given)} name(s) for {n} batches."
        raise InputError(what, "Give one per batch, in input order.")
    if len(set(map(str, given))) != n:
        what = f"batch_categories names a batch twice: {given}."
        raise InputError(what, "Give each batch its own name.")
    return given


def _split(
    source: Source, batch_key: str, batch_categories: Sequence[Hashable] | None
) -> tuple[list[Hashable], NDArray[np.intp]]:
    """Batches of one AnnData, in order of appearance or of `batch_categories`."""
    column = _batch_column(source, batch_key)
    if column is None:
        assert isinstance(source.frame, AnnData)
        what = f"The only data set given has no obs[{batch_key!r}] to split it by."
        raise InputKeyError(what, f"Name the column: batch_key=... (one of {', '.join(source.frame.obs)}).")
    values = list(pd.unique(np.asarray(column)))
    given = _given_categories(batch_categories, len(values))
    if given is not None:
        if {str(v) for v in given} != {str(v) for v in values}:
            what = f"batch_categories {given} disagree with obs[{batch_key!r}], which says {values}."
            raise InputError(what, "Name its values, in the order in which the batches are to count.")
        by_name = {str(v): v for v in values}
        values = [by_name[str(v)] for v in given]
    return values, pd.Index(values).get_indexer(np.asarray(column)).astype(np.intp)
