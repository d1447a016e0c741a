"""What differs between releases of anndata, and what they can write."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from anndata import AnnData
from anndata.io import write_elem
from zarr.storage import MemoryStore


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers of an AnnData; without None, under which anndata 0.13 keeps X among them."""
    return [name for name in adata.layers if name is not None]


def in_memory(value: Any) -> Any:
    """Table, categories or masked values of a lazy AnnData as pandas; anything else as it is."""
    if isinstance(value, xr.backends.BackendArray):
        loaded = xr.Variable("all", xr.core.indexing.LazilyIndexedArray(value)).load().data
        text = isinstance(loaded, np.ndarray) and loaded.dtype.kind in "OT"  # with missing values
        return pd.array(loaded.astype(object), dtype="string") if text else loaded
    return value.to_memory() if hasattr(value, "to_memory") else value


def concatenated(parts: Sequence[AnnData], *, join: str = "outer") -> AnnData:
    """Join AnnData along cells: all columns of obs, or those in all, and of genes what is the same in all."""
    with warnings.catch_warnings():  # of pandas, about how anndata calls it: users can do nothing about that
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        return ad.concat(list(parts), join=join, merge="same")


@contextmanager
def as_we_say_it() -> Iterator[None]:
    """Keep anndata from saying what our own warning says with its remedy, and what users cannot change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique", UserWarning)
        # anndata 0.13 asks pandas 3 for it whenever it makes an AnnData
        warnings.filterwarnings("ignore", "The 'future.infer_string' option", DeprecationWarning)
        yield


def write_error(value: Any) -> str | None:
    """Why anndata cannot write a value into both file formats, in one line; None if it can. Tries it."""
    try:
        with warnings.catch_warnings(), h5py.File(io.BytesIO(), "w") as file:
            warnings.simplefilter("ignore")
            for group in (zarr.open_group(MemoryStore(), zarr_format=3), file):
                write_elem(group, "value", value)
    except Exception as error:  # of whatever kind: writers are plugins
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None
