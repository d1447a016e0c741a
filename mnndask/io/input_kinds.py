"""Kinds of objects that are accepted as batches, and the kinds of their results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from anndata import AnnData
from scipy import sparse

from mnndask.errors import InputTypeError
from mnndask.io.prepared import Prepared
from mnndask.stores.location import Location

if TYPE_CHECKING:
    OfAnnData: TypeAlias = AnnData | str | os.PathLike[str]
    InMemory: TypeAlias = np.ndarray | sparse.spmatrix | sparse.sparray
    LazyMatrix: TypeAlias = da.Array | zarr.Array[Any]
    DaskArray: TypeAlias = da.Array

ACCEPTED = (
    "AnnData, numpy.ndarray, scipy sparse matrix, dask array, zarr array, xarray.DataArray, "
    "or a path of a .zarr or .h5ad"
)


def _kind(data: Any) -> str:
    match data:
        case AnnData():
            return "anndata"
        case str() | os.PathLike() | Location() | Prepared():
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


def common_kind(datas: Sequence[Any]) -> str:
    """Return the kind of the result, after checking that all inputs are of the same kind."""
    if not isinstance(datas, list | tuple):
        what = f"The batches are {_article(type(datas))}, not a list."
        raise InputTypeError(what, "Give a list, even for a single batch: [data].")
    if not datas:
        what = "No data was given."
        raise InputTypeError(what, "Pass two or more batches, or one AnnData whose obs has the batch_key.")
    kinds = [_kind(data) for data in datas]
    if len(set(kinds)) > 1:
        other = next(i for i, kind in enumerate(kinds) if kind != kinds[0])
        what = f"Batches are of mixed kinds: batch 0 is {kinds[0]}, batch {other} is {kinds[other]}."
        raise InputTypeError(what, "Convert them to one kind, e.g. all AnnData or all paths.")
    return {"anndata": "anndata", "path": "anndata", "dataarray": "dataarray"}.get(kinds[0], "array")
