"""Prepare files of several labs for one correction: batches, shared genes, and genes that vary most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd

from mnndask._library_state import exclusive
from mnndask.core.parameters import as_float, check_bits, check_flag, is_whole
from mnndask.engine.expression_checks import CELLS, LARGE_COUNT, LARGEST_LOG
from mnndask.engine.run_options import RunOptions
from mnndask.engine.variable_genes import Moments, MomentsOfRows, moments_of, variable_genes
from mnndask.errors import InputError, warn
from mnndask.io.aligned_genes import check_join, read_gene_names, share_genes
from mnndask.io.anndata_store import read_column
from mnndask.io.opened_inputs import SEPARATOR, check_text
from mnndask.io.prepared import Prepared
from mnndask.stores.location import Location

FEW_CELLS = CELLS  # that show what kind of values a file has


@dataclass(frozen=True)
class Preparation:
    """Options of :func:`mnndask.pp.open_batches`."""

    join: str = "inner"
    batch_key: str | None = None
    layer: str | None = None
    gene_key: str | None = None
    counts: bool = False
    target_sum: float = 1e4
    n_top_genes: int | None = None

    def __post_init__(self) -> None:
        check_join(self.join)
        for name in ("batch_key", "layer", "gene_key"):
            check_text(name, getattr(self, name), optional=True)
        check_flag("counts", self.counts)
        target_sum = self.target_sum
        if not isinstance(target_sum, Real) or not 0 < as_float(target_sum) < np.inf:
            what = f"target_sum is {target_sum!r}."
            raise InputError(what, "Give a positive number, such as 1e4.")
        check_bits("n_top_genes", self.n_top_genes)
        if self.n_top_genes is not None and (not is_whole(self.n_top_genes) or self.n_top_genes < 1):
            what = f"n_top_genes is {self.n_top_genes!r}."
            raise InputError(what, "Give a positive number of genes, such as 2000, or None.")

    @property
    def key(self) -> str:
        """Column of obs that names the batches."""
        return "batch" if self.batch_key is None else self.batch_key


def prepare_files(
    locations: Sequence[Location], labels: Sequence[str], options: Preparation, run: RunOptions
) -> list[Prepared]:
    """Find the batches in files and the genes that these share, and rank genes if wanted.

    Ranking genes reads the expression once. Otherwise only annotations are read, and of counts the first
    cells of each batch.

    Raises
    ------
    InputError, InputKeyError, GenesError, InputNotFoundError, InputReadError
        If files cannot be prepared so; the message names the file.
    """
    prepared = _aligned(locations, labels, options)
    if options.n_top_genes is None and not options.counts:
        return prepared
    batches = [_with_moments(one) for one in prepared]
    if options.n_top_genes is None:
        for one, (X, moments_of_rows) in zip(prepared, batches, strict=True):
            _check_values(one, moments_of_rows(X[:FEW_CELLS].compute(scheduler="synchronous"), 0))
        return prepared
    moments = moments_of(batches, run)
    for one, own in zip(prepared, moments, strict=True):
        _check_values(one, own)
    with exclusive():
        table = variable_genes(moments, prepared[0].genes, int(options.n_top_genes))
    return [replace(one, table=table) for one in prepared]


@exclusive()
def _aligned(locations: Sequence[Location], labels: Sequence[str], options: Preparation) -> list[Prepared]:
    """Return the batches in files, with the genes that these share."""
    files = list(zip(locations, labels, strict=True))
    batches = _batches(files, options)
    genes = share_genes([read_gene_names(*file, options.gene_key) for file in files], labels, options.join)
    target_sum = float(options.target_sum) if options.counts else None
    return [
        Prepared(
            *files[i], options.layer, genes.names, genes.columns[i], target_sum, options.key, name, value
        )
        for i, name, value in batches
    ]


def _with_moments(prepared: Prepared) -> tuple[da.Array, MomentsOfRows]:
    """Return the expression as it is stored, and what computes moments of its rows."""
    adata = prepared.opened()
    base = None if prepared.target_sum is not None else dict(adata.uns.get("log1p") or {}).get("base")
    rows = MomentsOfRows(prepared.rows, None if base is None else float(base))
    return prepared.expression(adata), rows


def _check_values(prepared: Prepared, moments: Moments) -> None:
    """Refuse log-transformed values where counts should be, and values that are no logarithms elsewhere."""
    where, largest = prepared.rows.label, moments.largest
    if prepared.target_sum is None:  # genes are ranked by what the values are the logarithms of
        integers = not moments.n_fractional and largest >= LARGE_COUNT
        if integers or not np.isfinite(moments.squares).all():
            what = f"Genes of {where} cannot be ranked: values up to {largest:,.6g} are no logarithms."
            raise InputError(what, "If they are counts, normalise them while they are read: counts=True.")
        return
    if not moments.n_fractional:
        return
    if largest <= LARGEST_LOG and moments.n_fractional > moments.n_values / 2:
        what = f"{where} looks log-transformed: values up to {largest:,.4g} that are no integers."
        remedy = "Leave counts out if it is normalised, or name the layer with counts: layer=..."
        raise InputError(what, remedy)
    what = f"{where} may not be counts: {moments.n_fractional:,} of its values are no integers."
    warn(what, "Check that it is not normalised. Estimated counts, as of kallisto or CellBender, are fine.")


def _batches(
    files: Sequence[tuple[Location, str]], options: Preparation
) -> list[tuple[int, str, str | None]]:
    """Return the batches: number of the file, name, and value of the column if the file has several."""
    columns = [read_column(*file, options.key) for file in files]
    lacking = [label for (_, label), column in zip(files, columns, strict=True) if column is None]
    if lacking and (len(lacking) < len(files) or options.batch_key is not None):
        what = f"{lacking[0]} has no column {options.key!r} in obs."
        raise InputError(what, "Give all files this column, or name another that all have: batch_key=...")
    stems: list[str] = [path.pure.stem for path, _ in files]
    batches: list[tuple[int, str, str | None]] = []
    for i, ((_, label), column) in enumerate(zip(files, columns, strict=True)):
        values = [stems[i]] if column is None else _values(column, label, options.key)
        batches += [(i, value, value if len(values) > 1 else None) for value in values]
    if not lacking and len({name for _, name, _ in batches}) == len(batches):
        return batches
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        what = f"Two files are both called {twice[0]!r}, so file names cannot serve as batch names."
        remedy = "Rename one, or name a column of obs whose values differ between files: batch_key=..."
        raise InputError(what, remedy)
    return [
        (i, stems[i] if value is None else f"{stems[i]}{SEPARATOR}{value}", value) for i, _, value in batches
    ]


def _values(column: Any, label: str, key: str) -> list[str]:
    """Return the values of a column, each once."""
    values = pd.Series(column)
    if missing := int(values.isna().sum()):
        what = f"obs[{key!r}] of {label} has {missing} missing value(s)."
        raise InputError(what, "Give every cell its batch, or name another column: batch_key=...")
    if not len(values):
        what = f"{label} has no cells."
        raise InputError(what, "Leave it out, or check how its cells were selected.")
    return list(dict.fromkeys(values.astype(str)))
