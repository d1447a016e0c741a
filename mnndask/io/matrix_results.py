"""Results for users who gave matrices: arrays, or DataArrays with the coordinates of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from mnndask._library_state import exclusive


@exclusive()
def pack_matrices(parts: Sequence[Any], frames: Sequence[xr.DataArray | None], *, concatenate: bool) -> Any:
    """Return corrected matrices, or DataArrays with the coordinates of the inputs."""
    if frames[0] is None:
        if not concatenate:
            return list(parts)
        return da.concatenate(parts) if isinstance(parts[0], da.Array) else stacked(parts)
    arrays = [frame.copy(data=part) for frame, part in zip(frames, parts, strict=True) if frame is not None]
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


def stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Stack matrices, without a copy if they are consecutive rows of one matrix."""
    base = parts[0].base
    if base is not None and all(p.base is base for p in parts) and sum(map(len, parts)) == len(base):
        return base
    return np.concatenate(parts)
