"""All that a caller could see change in some data."""

import anndata as ad
import dask.array as da
import numpy as np
import xarray as xr
from scipy import sparse


def snapshot(data):
    """All that a caller could see change in some data."""
    match data:
        case np.ndarray():
            return data.dtype, data.shape, data.strides, data.flags.writeable, data.tobytes()
        case da.Array():
            return data.name, data.chunks
        case xr.DataArray():
            return snapshot(data.data), data.dims, repr(data.coords)
        case ad.AnnData():
            tables = (data.obs.copy(), data.var.copy())
            matrices = [data.X, *data.layers.values(), *data.obsm.values()]
            kept = [(t.to_csv(), t.dtypes.to_dict()) for t in tables]
            return kept, list(data.layers), list(data.obsm), list(data.uns), snapshot(matrices)
        case dict():
            return snapshot(list(data.items()))
        case list() | tuple():
            return [snapshot(part) for part in data]
    if sparse.issparse(data):
        parts = [getattr(data, name, None) for name in ("data", "indices", "indptr", "row", "col")]
        return type(data), data.shape, snapshot([part for part in parts if isinstance(part, np.ndarray)])
    return repr(data)
