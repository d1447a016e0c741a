"""Differences between releases of anndata, and the types that they can write."""

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
    """Names of the layers of an AnnData, without None, the name of X among the layers of anndata 0.13."""
    return [name for name in adata.layers if name is not None]


def to_memory(value: Any) -> Any:
    """Load a lazy table, categorical or nullable array of anndata as pandas; leave other values unchanged."""
    if isinstance(value, xr.backends.BackendArray):
        loaded = xr.Variable("all", xr.core.indexing.LazilyIndexedArray(value)).load().data
        text = isinstance(loaded, np.ndarray) and loaded.dtype.kind in "OT"  # strings with missing values
        return pd.array(loaded.astype(object), dtype="string") if text else loaded
    return value.to_memory() if hasattr(value, "to_memory") else value


def concatenated(parts: Sequence[AnnData], *, join: str = "outer") -> AnnData:
    """Concatenate AnnData along cells; elements of genes are kept if equal in all, others follow `join`."""
    with warnings.catch_warnings():  # pandas warns of calls by anndata, which users cannot change
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        return ad.concat(list(parts), join=join, merge="same")


@contextmanager
def quiet_anndata() -> Iterator[None]:
    """Suppress warnings of anndata that our own replace, and those about which users can do nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique", UserWarning)
        # anndata 0.13 reads this option of pandas 3 whenever it creates an AnnData
        warnings.filterwarnings("ignore", "The 'future.infer_string' option", DeprecationWarning)
        yield


def write_error(value: Any) -> str | None:
    """Try to write a value to both file formats; return why that fails, in one line, or None."""
    try:
        with warnings.catch_warnings(), h5py.File(io.BytesIO(), "w") as file:
            warnings.simplefilter("ignore")
            for group in (zarr.open_group(MemoryStore(), zarr_format=3), file):
                write_elem(group, "value", value)
    except Exception as error:  # of any type, as writers are plugins
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None
