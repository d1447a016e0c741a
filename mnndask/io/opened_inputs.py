"""Opened inputs: matrices, and the AnnData or DataArray that contain them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import xarray as xr
from anndata import AnnData

from mnndask._choices import GENES
from mnndask._library_state import exclusive
from mnndask._typing import Rows
from mnndask.engine.batches import Batches, Source
from mnndask.errors import InputError, InputTypeError, without_warnings
from mnndask.io.anndata_compat import quiet_anndata

FEW_CELLS = 200_000  # of all inputs, whose tables take some tens of megabytes
SEPARATOR = "_"  # of the columns' names and values, where several distinguish batches


@dataclass(frozen=True)
class Input(Source):
    """One input.

    Parameters
    ----------
    X, label
        See :class:`mnndask.engine.batches.Source`.
    frame
        AnnData or DataArray that contains the matrix, with annotations in memory; None for bare matrices.
    reopen
        Function that opens the AnnData again, for files whose annotations are not kept in memory.
    check
        Raises if the file has changed since it was opened; None for objects in memory.
    """

    frame: AnnData | xr.DataArray | None = None
    reopen: Callable[[], AnnData] | None = None
    check: Callable[[], None] | None = None

    def annotated(self) -> AnnData | xr.DataArray | None:
        """Return ``frame``, read again if necessary, without repeating warnings."""
        if self.reopen is None:
            if self.check is not None:
                self.check()
            return self.frame
        with without_warnings(), quiet_anndata():
            return self.reopen()

    @exclusive()
    def of_genes(self, columns: Rows) -> Input:
        """Return the input with some of its genes."""
        frame: Any = self.frame
        if isinstance(frame, xr.DataArray):
            frame = frame.isel({frame.dims[1]: columns})
        elif frame is not None:
            frame = frame[:, columns]
        reopen = self.reopen and _OfGenes(self.reopen, columns)
        return replace(self, X=self.X[:, columns], frame=frame, reopen=reopen)


@dataclass(frozen=True)
class _OfGenes:
    """Opens an AnnData, of which it returns some genes."""

    reopen: Callable[[], AnnData]
    columns: Rows

    def __call__(self) -> AnnData:
        return self.reopen()[:, self.columns]


@dataclass(frozen=True)
class Inputs(Batches):
    """All inputs of a call.

    Parameters
    ----------
    sources, categories, codes
        See :class:`mnndask.engine.batches.Batches`.
    kind
        Kind of the result: ``"anndata"``, ``"dataarray"`` or ``"array"``.
    genes
        Names of the genes; None for matrices without names.
    named
        Whether the data or the caller named the batches; otherwise they are numbered.
    restrict
        Cells of each batch to fit on, if a column of obs says so.
    confounded
        The protected column, if it is constant in each batch and differs between them.
    """

    sources: list[Input]
    kind: str
    genes: pd.Index | None
    named: bool
    restrict: list[Any] | None = None
    confounded: str | None = None

    def of_genes(self, columns: Rows) -> Inputs:
        """Return the inputs with some of their genes."""
        genes = None if self.genes is None else self.genes[columns]
        return replace(self, sources=[source.of_genes(columns) for source in self.sources], genes=genes)

    def without_tables(self) -> Inputs:
        """Return inputs without tables that can be read again: those of a million cells take much memory.

        Those of few cells stay, as opening a store again takes longer than they are worth.
        """
        if sum(self.n_cells) <= FEW_CELLS:
            return replace(self, sources=[replace(s, reopen=None) for s in self.sources])
        return replace(
            self, sources=[s if s.reopen is None else replace(s, frame=None) for s in self.sources]
        )


@dataclass(frozen=True)
class InputOptions:
    """Options for reading inputs; see :func:`mnndask.mnn_correct`."""

    batch_key: str | Sequence[str] = "batch"
    batch_categories: Sequence[Hashable] | None = None
    within: str | None = None
    protect: str | None = None
    restrict: Any = None
    layer: str | None = None
    var_index: Sequence[Hashable] | None = None
    genes: str = "all"

    def __post_init__(self) -> None:
        if not self.keys or len(set(self.keys)) < len(self.keys):
            what = f"batch_key is {self.batch_key!r}."
            raise InputError(what, "Name a column, or several: from the outermost, ['study', 'donor'].")
        for name in self.keys:
            check_text("batch_key", name)
        check_text("within", self.within, optional=True)
        check_text("protect", self.protect, optional=True)
        if self.genes not in GENES:
            what = f"genes is {self.genes!r}."
            raise InputError(what, f"Give one of: {', '.join(GENES)}.")
        check_text("layer", self.layer, optional=True)

    def of_fitted(self) -> InputOptions:
        """Options to read cells of batches that were fitted, whose design the fit knows."""
        return replace(self, batch_categories=None, within=None, protect=None, restrict=None)

    @property
    def keys(self) -> list[Any]:
        """Columns that distinguish batches, from the outermost."""
        return [self.batch_key] if isinstance(self.batch_key, str) else list(self.batch_key)

    @property
    def key(self) -> str:
        """Column of results that distinguishes batches."""
        return joined_key(self.batch_key)

    @property
    def restricting(self) -> Mapping[str, Any] | None:
        """Column of obs that says which cells to fit on, and its values there; None if none does."""
        if isinstance(self.restrict, str):
            return {self.restrict: True}
        return self.restrict if isinstance(self.restrict, Mapping) else None

    @property
    def columns(self) -> list[str]:
        """Columns of obs that are read."""
        others = [name for name in (self.within, self.protect) if name is not None]
        return list(dict.fromkeys([*self.keys, *others, *(self.restricting or ())]))


def joined_key(batch_key: str | Sequence[str]) -> str:
    """Column of results that distinguishes batches of one column or several."""
    return batch_key if isinstance(batch_key, str) else SEPARATOR.join(map(str, batch_key))


def check_text(name: str, value: object, *, optional: bool = False) -> None:
    """Refuse an option that is not a string."""
    if not isinstance(value, str) and not (optional and value is None):
        what = f"{name} is {value!r}."
        raise InputTypeError(what, f"Give a string{', or None' if optional else ''}.")
