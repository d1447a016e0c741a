"""Results for users who gave matrices: arrays, or DataArrays with the coordinates of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from mnndask._library_state import exclusive


@exclusive()
def pack_matrices(
    parts: Sequence[Any], frames: Sequence[xr.DataArray | None], *, concatenate: bool, embedded: bool = False
) -> Any:
    """Return corrected matrices, or DataArrays with the coordinates of the inputs.

    If cells are `embedded`, the second dimension is ``"component"`` and has no coordinates.
    """
    if frames[0] is None:
        if not concatenate:
            return list(parts)
        return da.concatenate(parts) if isinstance(parts[0], da.Array) else stacked(parts)
    around = _embedded if embedded else xr.DataArray.copy
    arrays = [
        around(frame, data=part) for frame, part in zip(frames, parts, strict=True) if frame is not None
    ]
    if not concatenate:
        return arrays
    shared = set.intersection(*(set(array.coords) for array in arrays))
    arrays = [array.drop_vars(set(array.coords) - shared) for array in arrays]
    return xr.concat(
        arrays,
        dim=arrays[0].dims[0],
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="override",
    )


def _embedded(frame: xr.DataArray, data: Any) -> xr.DataArray:
    """Return an embedding with the coordinates of the cells."""
    cells, genes = frame.dims
    kept = {name: values.variable for name, values in frame.coords.items() if genes not in values.dims}
    component = "component" if cells != "component" else "component_"
    out = xr.DataArray(data, dims=(cells, component), coords=kept, attrs=frame.attrs)
    return out.rename(frame.name)  # without a name, it would have that of a dask array


def stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Stack matrices, without a copy if they are consecutive rows of one matrix."""
    base = parts[0].base
    if base is not None and all(p.base is base for p in parts) and sum(map(len, parts)) == len(base):
        return base
    return np.concatenate(parts)
