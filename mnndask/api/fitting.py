"""Fit a correction to the inputs, and keep what users see of the fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnndask._library_state import exclusive
from mnndask._progress import stage
from mnndask._threads import single_threaded_blas
from mnndask._typing import Rows
from mnndask.api.pair_tables import pair_tables
from mnndask.core.history import MergeHistory
from mnndask.core.model import CorrectionModel
from mnndask.core.parameters import Parameters
from mnndask.diagnostics.gene_changes import extremes, gene_changes
from mnndask.diagnostics.label_differences import label_column
from mnndask.diagnostics.measures import Diagnostics
from mnndask.diagnostics.verdict import verdict_lines
from mnndask.engine.fit_batches import fit_batches
from mnndask.engine.run_options import RunOptions
from mnndask.engine.support import support_of_cells
from mnndask.errors import warn
from mnndask.io.genes import resolve_subset
from mnndask.io.opened_inputs import Inputs
from mnndask.io.record import SAMPLED, SUPPORT, Record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """The result of a fit: the model, and what callers see of it.

    Parameters
    ----------
    model
        The fitted correction.
    mnns, angles
        As :func:`mnndask.mnn_correct` returns them.
    fitted_rows
        Rows of each batch that the correction was fitted on.
    record
        The parameters, and what the merge steps did.
    diagnostics
        Measures of the correction, or None if they are not wanted.
    support
        Support of each row of the result; None unless pairs are refined and the result has columns.
    genes
        What became of each gene of the result; None if that was not measured.
    """

    model: CorrectionModel
    mnns: list[pd.DataFrame]
    angles: list[Any] | None
    fitted_rows: list[Rows]
    record: Record
    diagnostics: Diagnostics | None
    support: NDArray[np.float32] | None
    genes: pd.DataFrame | None
    _uns: dict[str, Any] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def uns(self) -> dict[str, Any]:
        """The contents of ``uns["mnn"]``. Slow measures are computed on first access, in seconds."""
        # Not cached_property, whose lock (before Python 3.12) all fits of the process share.
        if self._uns is None:
            object.__setattr__(self, "_uns", self._measured())
        return cast("dict[str, Any]", self._uns)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """Columns of obs that results have: numbers of the cells in the recorded sample, and support."""
        out: dict[str, NDArray[Any]] = {}
        if self.diagnostics is not None:
            out[SAMPLED] = np.full(int(self.record.steps["n_cells"].sum()), -1, np.int32)
            out[SAMPLED][self.diagnostics.rows] = np.arange(len(self.diagnostics.rows))
        if self.support is not None:
            out[SUPPORT] = self.support
        return out

    def _measured(self) -> dict[str, Any]:
        if self.diagnostics is None:
            return self.record.to_uns()
        with stage("measuring", len(self.diagnostics.rows)), single_threaded_blas():
            columns, tables = self.diagnostics.columns(), self.diagnostics.tables()
            record = self.record.measured(columns, self.diagnostics.sample(), *tables)
        for line in verdict_lines(record.steps, record.mixing, record.parameters):
            logger.info("%s", line)
        return record.to_uns()


def fit_inputs(
    inputs: Inputs,
    parameters: Parameters,
    run: RunOptions,
    given: Mapping[str, Any],
    *,
    embeds_only: bool = False,
    with_columns: bool = False,
) -> Fitted:
    """Fit a correction. From lazy inputs, reads the cells used for fitting.

    Parameters
    ----------
    inputs
        Two batches or more.
    parameters, run
        Parameters of the method, and options of the run.
    given
        All parameters as the user gave them, for the record.
    embeds_only
        Whether no genes are corrected.
    with_columns
        Whether the inputs' result is wanted, and has columns of obs.
    """
    with exclusive():
        subset = resolve_subset(inputs.genes, parameters.var_subset)
    fitted = fit_batches(inputs, subset, parameters, run, embeds_only=embeds_only)
    history = fitted.history
    diagnostics = support = None
    if run.diagnostics:
        with single_threaded_blas():
            diagnostics = Diagnostics.of(history, _rows_of_result(inputs, history))
        for what, remedy in diagnostics.warnings():
            warn(what, remedy)
    if with_columns and parameters.refine:
        support = np.empty(sum(inputs.n_cells), np.float32)
        for b, values in enumerate(support_of_cells(inputs, history, run)):
            support[_rows_of_batch(inputs, b)] = values
    genes = None
    if run.diagnostics and with_columns and not embeds_only:
        with single_threaded_blas():
            genes = gene_changes(fitted.model, history, _labels(inputs, history))
    with exclusive():
        record = Record.of(
            given,
            history,
            sketch_size=fitted.sketch_size,
            groups=inputs.design.names,
            confounded=inputs.confounded,
        )
        if genes is not None and inputs.genes is not None:
            record = replace(record, genes=extremes(genes, inputs.genes))
        return Fitted(
            fitted.model,
            pair_tables(history),
            fitted.angles,
            [cells.rows for cells in history.cells.raw],
            record,
            diagnostics,
            support,
            genes,
        )


def _labels(inputs: Inputs, history: MergeHistory) -> list[NDArray[np.object_]] | None:
    """Labels of the fitted cells of each batch, None for cells without; None if none are to be compared."""
    column = label_column()
    if column is None:
        return None
    out: list[NDArray[np.object_]] = []
    frames: list[Any] = [source.annotated() for source in inputs.sources]
    for b, cells in enumerate(history.cells.raw):
        source, rows = inputs.rows(b)
        at, obs = cells.rows if rows is None else rows[cells.rows], frames[source].obs
        own = pd.Series(
            np.asarray(obs[column], object)[at] if column in obs else [None] * len(at), dtype=object
        )
        out.append(own.where(own.notna(), None).to_numpy(object))
    return out


def _rows_of_result(inputs: Inputs, history: MergeHistory) -> list[Rows]:
    """Rows of the fitted cells of each batch in the result."""
    return [_rows_of_batch(inputs, b)[cells.rows] for b, cells in enumerate(history.cells.raw)]


def _rows_of_batch(inputs: Inputs, batch: int) -> Rows:
    """Rows of a batch in the result, whose batches are stacked or in their original order."""
    _, own = inputs.rows(batch)
    n_cells = inputs.n_cells
    return sum(n_cells[:batch]) + np.arange(n_cells[batch]) if own is None else own
