"""Arguments of calls in place, checked before the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mnndask.core.parameters import check_flag
from mnndask.errors import InputError, InputKeyError, InputTypeError
from mnndask.io.anndata_compat import to_memory
from mnndask.io.keys import storable_keys
from mnndask.io.opened_inputs import check_text

DEFAULT_MASK = "highly_variable"


def check_arguments(adata: Any, *, key_added: str, layer_added: str | None, copy: bool, layer: Any) -> None:
    """Refuse an object, names and flags that cannot be used.

    Raises
    ------
    InputError, InputTypeError
        If they cannot; the message names what is wrong.
    """
    if not isinstance(adata, AnnData):
        what = f"The data is of type {type(adata).__name__}, not an AnnData."
        raise InputTypeError(what, "Join batches first: anndata.concat(batches, label='batch').")
    check_flag("copy", copy)
    check_text("key_added", key_added)
    check_text("layer_added", layer_added, optional=True)
    for name, value in (("key_added", key_added), ("layer_added", layer_added)):
        if value is not None and storable_keys([[value]]) != [[value]]:
            what = f"{name} is {value!r}, a name that stores do not allow."
            raise InputError(what, "Give a name without slashes.")
    if layer_added is not None and layer_added == layer:
        what = f"layer_added is {layer_added!r}, the layer that is corrected."
        raise InputError(what, "Give another name: the input is never changed.")
    if copy and adata.isbacked:
        what = "copy=True was given, but the AnnData is backed by a file."
        raise InputError(what, "Leave copy out, or load the data first: adata.to_memory().")


def labels_of(adata: AnnData, key: Any) -> pd.Series:
    """Return the batch of each cell.

    Raises
    ------
    InputError, InputTypeError, InputKeyError
        If there is no such column, labels are missing, or there is only one batch.
    """
    if not isinstance(key, str):
        what = f"key is {key!r}."
        remedy = "Name one column of obs. Of several, make one: adata.obs[columns].agg('-'.join, axis=1)."
        raise InputTypeError(what, remedy)
    obs = to_memory(adata.obs)
    if key not in obs:
        what = f"There is no column obs[{key!r}], which key names."
        raise InputKeyError(what, f"Columns of obs: {', '.join(map(str, obs.columns)) or 'none'}.")
    labels: Any = obs[key]
    if labels.isna().any():
        what = f"{int(labels.isna().sum())} cell(s) have no batch: obs[{key!r}] is missing there."
        raise InputError(what, f"Fill them in, or leave these cells out: adata[adata.obs[{key!r}].notna()].")
    if labels.nunique() < 2:
        what = f"obs[{key!r}] has one value only, so that there is nothing to correct."
        raise InputError(what, "Name a column that distinguishes two batches or more.")
    out: pd.Series = labels.set_axis(map(str, range(len(labels))))  # names of cells may recur
    return out


def with_design(adata: AnnData, labels: pd.Series, options: Mapping[str, Any]) -> pd.DataFrame:
    """Return the batch of each cell, and the columns of obs that options name."""
    restrict = options.get("restrict")
    named = (
        [restrict] if isinstance(restrict, str) else list(restrict) if isinstance(restrict, Mapping) else []
    )
    obs, asked = to_memory(adata.obs), [options.get("within"), options.get("protect"), *named]
    kept = [name for name in dict.fromkeys(asked) if name in obs and name != labels.name]
    return labels.to_frame().join(obs[kept].set_axis(labels.index))


def masked_genes(adata: AnnData, mask: Any) -> list[Any] | None:
    """Return the names of the genes that a mask selects; None for all.

    Raises
    ------
    InputError, InputTypeError, InputKeyError
        If it is no mask of the genes, or selects none.
    """
    if mask is None:
        return None
    what = "mask_var"
    if isinstance(mask, str):
        var = to_memory(adata.var)
        if mask not in var:
            if mask == DEFAULT_MASK:
                return None
            what = f"There is no column var[{mask!r}], which mask_var names."
            raise InputKeyError(
                what, f"Columns of var: {', '.join(map(str, var.columns)) or 'none'}. None uses all genes."
            )
        mask, what = var[mask], f"var[{mask!r}]"
    values = np.asarray(mask)
    if values.dtype != bool or values.shape != (adata.n_vars,):
        what = f"{what} is not a mask of {adata.n_vars} genes: type {values.dtype}, shape {values.shape}."
        raise InputTypeError(what, "Name a boolean column of var, or give a boolean array, or None for all.")
    if not values.any():
        what = "mask_var selects no genes."
        raise InputError(what, "Select the genes for distances, or give mask_var=None to use all.")
    return None if values.all() else list(adata.var_names[values])
