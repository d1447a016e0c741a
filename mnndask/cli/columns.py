"""Columns of the inputs that the command uses: names of batches, genes and cells to use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from mnndask.errors import InputError, InputKeyError, warn
from mnndask.io.anndata_store import read_column
from mnndask.stores.location import Location


def stems_unless_named(inputs: tuple[Location, ...], labels: list[str], batch_key: str) -> list[str] | None:
    """Return the file stems as batch names, or None if a column of obs already names the batches.

    Reads that column.

    Raises
    ------
    InputError
        If only some of the inputs have the column, or two inputs have the same stem.
    """
    columns = [read_column(path, label, batch_key) for path, label in zip(inputs, labels, strict=True)]
    lacking = [label for label, column in zip(labels, columns, strict=True) if column is None]
    if lacking and len(lacking) < len(inputs):
        having = next(label for label, column in zip(labels, columns, strict=True) if column is not None)
        what = f"{lacking[0]} has no column {batch_key!r} in obs, but {having} has one."
        raise InputError(what, "Give all inputs this column, or name another with --batch-key.")
    if lacking and batch_key != "batch":
        what = f"No input has a column {batch_key!r} in obs, so it is made from the names of the files."
        warn(what, "Check --batch-key, or name the batches with --batch-categories.")
    values = [pd.Series(column).iloc[0] for column in columns if column is not None and len(column)]
    if len(values) == len(inputs) and len(set(values)) == len(values):
        return None
    stems = [path.pure.stem for path in inputs]
    duplicates = [stem for stem in stems if stems.count(stem) > 1]
    if duplicates:
        what = f"Two inputs are both called {duplicates[0]!r}, so file names cannot serve as batch names."
        raise InputError(what, "Name the batches: --batch-categories NAME,NAME,...")
    return stems


def check_label(inputs: tuple[Location, ...], labels: list[str], column: str, batch_key: str) -> None:
    """Refuse a column of cell types that no input has. Reads the column.

    Raises
    ------
    InputKeyError
        If there is none.
    """
    named = zip(inputs, labels, strict=True)
    if column != batch_key and all(read_column(path, label, column) is None for path, label in named):
        what = f"No input has a column {column!r} in obs, which --label names."
        raise InputKeyError(what, "Name a column of obs with cell types, or leave out --label.")


def marked_genes(inputs: Sequence[Location], opened: list[AnnData], column: str) -> list[str]:
    """Return the genes that a column of var marks in every input."""
    marked = opened[0].var_names
    for adata, path in zip(opened, inputs, strict=True):
        marked = marked[marked.isin(adata.var_names[_flags(adata.var, column, "var", path)])]
    if len(marked) == 0:
        what = f"No gene is marked by var[{column!r}] in every input."
        raise InputError(
            what, "Select highly variable genes across all batches, or name genes with --var-subset."
        )
    return list(marked)


def listed_genes(path: Path) -> list[str]:
    """Read gene names from a file with one name per line."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        what = f"The gene list {path} cannot be read: {error}."
        raise InputError(what, "Give a text file with one gene name per line.") from error


def _flags(table: Any, column: str, slot: str, path: Location) -> np.ndarray:
    if column not in table:
        what = f"{path} has no column {column!r} in {slot}."
        raise InputKeyError(what, f"Its columns are: {', '.join(table) or 'none'}.")
    if table[column].dtype.kind != "b":
        what = f"{slot}[{column!r}] of {path} has type {table[column].dtype}, not boolean."
        raise InputError(what, "Name a boolean column.")
    if n := int(table[column].isna().sum()):
        what = f"{slot}[{column!r}] of {path} has {n} missing value(s)."
        remedy = f"Fill them in, e.g. adata.{slot}[{column!r}] = adata.{slot}[{column!r}].fillna(False)."
        raise InputError(what, remedy)
    return np.asarray(table[column], bool)


def angle_column(result: Any, angles: list[Any]) -> np.ndarray:
    """Return the angles of all cells of a result, NaN for the reference. Computes lazy angles."""
    out = np.full(result.n_obs, np.nan)
    record = result.uns["mnn"]
    names = result.obs[record["parameters"]["batch_key"]].astype(str)
    codes = pd.Index(record["batches"]).get_indexer(names)
    for batch, values in enumerate(angles):
        if values is not None:
            out[codes == batch] = np.asarray(values)
    return out
