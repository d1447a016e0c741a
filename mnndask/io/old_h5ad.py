"""Files written by anndata up to 0.7.8, which have another layout.

Up to 0.7.8, the root has no encoding type. Up to 0.6, ``obs`` and ``var`` are one dataset each, in which
categories are codes, with names in ``uns`` (``kind_categories``), and raw is ``raw.X`` and ``raw.var``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnndask.errors import InputReadError

CATEGORIES = "_categories"  # suffix of the key in `uns` of a column's categories


def is_old(root: Any) -> bool:
    """Whether a file is AnnData, although its root has no encoding type."""
    if not isinstance(root, h5py.File) or "encoding-type" in root.attrs:
        return False
    return all(_is_table(root.get(name)) for name in ("obs", "var"))


def _is_table(stored: Any) -> bool:
    if isinstance(stored, h5py.Dataset):
        return bool(stored.dtype.names)
    return isinstance(stored, h5py.Group) and "_index" in stored.attrs


def as_table(records: NDArray[Any]) -> pd.DataFrame:
    """Convert a dataset to a table, of which the first field contains the row names."""
    table = pd.DataFrame(records)
    return table.set_index(str(table.columns[0]))


def with_categories(table: pd.DataFrame, categories: Mapping[str, Any]) -> pd.DataFrame:
    """Return a table in which columns of codes are categorical if `uns` contains their categories."""
    named = {
        column: _categorical(table[column], np.atleast_1d(categories[f"{column}{CATEGORIES}"]))
        for column in table.columns
        if f"{column}{CATEGORIES}" in categories
    }
    return table.assign(**{column: values for column, values in named.items() if values is not None})


def _categorical(codes: pd.Series, names: NDArray[Any]) -> pd.Categorical | None:
    """Decode a column; None if codes are too large, e.g. in a column of the same name in the other table."""
    if codes.dtype.kind not in "iu" or not (codes < len(names)).all():
        return None
    return pd.Categorical.from_codes(codes.to_numpy(), categories=pd.Index(names))


def without_categories(uns: dict[str, Any], *tables: pd.DataFrame) -> dict[str, Any]:
    """Return `uns` without the categories of columns."""
    used = {f"{column}{CATEGORIES}" for table in tables for column in table.select_dtypes("category").columns}
    return {key: value for key, value in uns.items() if key not in used}


def unreadable_old(label: str, path: str, error: Exception) -> InputReadError:
    """Error for an old file that cannot be read completely."""
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    what = f"{label} was written by an anndata before 0.8, and cannot be read as it is ({cause})."
    code = f"import anndata; anndata.read_h5ad({path!r}).write_h5ad('new.h5ad')"
    return InputReadError(what, f"Convert it, and pass new.h5ad instead: python -c {shlex.quote(code)}")
