"""Differences between releases of anndata, and the types that they can write."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
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

from mnndask._library_state import exclusive, ignoring


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


def is_mapping(value: Any) -> bool:
    """Whether a value is a mapping of elements; a lazy table is a mapping, too, but an element."""
    return isinstance(value, Mapping) and not hasattr(value, "to_memory")


def concatenated(parts: Sequence[AnnData], *, join: str = "outer") -> AnnData:
    """Concatenate AnnData along cells; elements of genes are kept if equal in all, others follow `join`."""
    with ignoring(("", DeprecationWarning), ("", FutureWarning)):  # by pandas, of calls by anndata
        return ad.concat(list(parts), join=join, merge="same")


def quiet_anndata() -> AbstractContextManager[None]:
    """Suppress warnings of anndata that our own replace, and those about which users can do nothing."""
    return ignoring(
        ("Observation names are not unique", UserWarning),
        # anndata 0.13 reads this option of pandas 3 whenever it creates an AnnData
        ("The 'future.infer_string' option", DeprecationWarning),
    )


@contextmanager
def writing_elements() -> Iterator[None]:
    """Let anndata write elements as readers of results expect them. Compute lazy ones elsewhere."""
    unspecified = "The data type .* does not have a Zarr V3 specification"
    # Of record arrays, such as scanpy's uns["rank_genes_groups"], which anndata can read again.
    with ignoring((unspecified, UserWarning), (unspecified, FutureWarning)), exclusive() as changes:
        # An omitted chunk of zeros could not be distinguished from a lost one.
        changes.enter_context(zarr.config.set({"array.write_empty_chunks": True}))
        # anndata 0.13 puts tables and embeddings in shards; 0.12.3 has no such setting.
        known = hasattr(ad.settings, "auto_shard_zarr_v3")
        changes.enter_context(ad.settings.override(**({"auto_shard_zarr_v3": False} if known else {})))
        yield


def write_error(value: Any) -> str | None:
    """Try to write a value to both file formats; return why that fails, in one line, or None."""
    try:
        with ignoring(("", Warning)), h5py.File(io.BytesIO(), "w") as file:
            for group in (zarr.open_group(MemoryStore(), zarr_format=3), file):
                write_elem(group, "value", value)
    except Exception as error:  # of any type, as writers are plugins
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None
