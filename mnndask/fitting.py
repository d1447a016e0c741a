"""From aligned inputs to a fitted model: what is asked for, which cells to use, and what to report."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from mnndask.align import resolve_subset
from mnndask.apply import angles_of_inputs
from mnndask.budget import Budget
from mnndask.diagnostics import Diagnostics
from mnndask.errors import InputError
from mnndask.fit import REFERENCE_CELLS, Fit, FitOptions
from mnndask.inputs import Inputs
from mnndask.kernels.neighbors import Rows
from mnndask.kernels.subspace import SolverError, SvdSolver
from mnndask.location import scratch_location
from mnndask.memory import return_freed
from mnndask.model import CorrectionModel
from mnndask.parallel import single_threaded_blas
from mnndask.parameters import merge_order
from mnndask.plan import Plan
from mnndask.progress import stage
from mnndask.reference import Sketch
from mnndask.results import pair_tables, summary
from mnndask.runstore import RunStore
from mnndask.sketch import Choice, choose_cells, draw_cells, read_sketches
from mnndask.spaces import GeneSpaces
from mnndask.workspace import Workspace

logger = logging.getLogger(__name__)

OF_THE_RUN = {"n_jobs", "memory_limit", "scratch", "storage_options", "show_progress"}
NOT_RECORDED = OF_THE_RUN | {"restrict", "var_index", "do_concatenate", "save_raw", "index_unique"}


@dataclass(frozen=True)
class Fitted:
    """What a fit leaves: the model, and what callers get to see of it.

    Parameters
    ----------
    model
        The fitted correction.
    mnns, angles
        As :func:`mnndask.mnn_correct` returns them.
    sketch
        Rows of each batch that it was fitted on.
    recorded
        What was asked for and what was done; see :func:`mnndask.results.summary`.
    diagnostics
        How it went.
    """

    model: CorrectionModel
    mnns: list[pd.DataFrame]
    angles: list[Any] | None
    sketch: list[Rows]
    recorded: dict[str, Any]
    diagnostics: Diagnostics

    @cached_property
    def uns(self) -> dict[str, Any]:
        """What ``uns["mnn"]`` records. Measures that take seconds are made when first asked for."""
        start = time.perf_counter()
        with single_threaded_blas():
            columns = self.diagnostics.columns().set_axis(self.recorded["steps"].index)
            out = self.recorded | {"steps": self.recorded["steps"].join(columns)} | self.diagnostics.tables()
        logger.info("measured the correction in %.1f s", time.perf_counter() - start)
        return out


def fit_inputs(inputs: Inputs, given: Mapping[str, Any]) -> Fitted:
    """Fit a correction to aligned inputs; of lazy ones, reads the cells it uses.

    Parameters
    ----------
    inputs
        Two batches or more.
    given
        The parameters of :class:`mnndask.MNNCorrector`, checked.
    """
    order = merge_order(given["mnn_order"], inputs.names)
    if len(order) < 2:
        what = "Only one batch was given."
        raise InputError(what, "Fit two or more, or one AnnData whose obs[batch_key] has several values.")
    spaces = GeneSpaces(
        inputs.n_genes,
        resolve_subset(inputs.genes, given["var_subset"]),
        bool(given["cos_norm_in"]),
        bool(given["cos_norm_out"]),
        inputs.dtype,
    )
    chosen = choose_cells(inputs, spaces, order, given)
    n_used = chosen.n_used
    asked = given["n_components"]
    if asked is not None and asked < min(sum(n_used), spaces.n_near):  # all of them would only turn the axes
        spaces = replace(spaces, n_components=int(asked))
    _warn_of_approximation(chosen, inputs, order, automatic=given["sketch_size"] == "auto")
    budget = Budget.of(given["memory_limit"], given["n_jobs"])
    plan = Plan.of(inputs, n_used, order, spaces, budget, bounded=chosen.bounded)
    options = FitOptions(
        k=int(given["k"]),
        sigma=float(given["sigma"]),
        svd_dim=given["svd_dim"],
        var_adj=bool(given["var_adj"]),
        compute_angle=bool(given["compute_angle"]),
        solver=SvdSolver(given["svd_mode"], given["random_state"], given["svd_options"]),
        bounded_reference=chosen.bounded,
        rest_bytes=budget.resident // 2,
    )
    _warn_of_small(options.k, inputs.names, n_used)
    scratch = scratch_location(given)
    store = None if plan.in_memory else RunStore(scratch, plan.tile)
    try:
        arenas = plan.arenas(store)
        work = Workspace(arenas[0], spaces.dtype, budget.block_bytes, given["n_jobs"], budget.distance_bytes)
        large = inputs if chosen.size is None else inputs.in_large_blocks(budget, chosen.size)
        rows = draw_cells(large, spaces, chosen, given, budget)
        read = inputs if plan.tiled else large  # what goes to disk is made dense on its way
        sketches = read_sketches(read, rows, spaces, store if plan.tiled else None, work.n_jobs)
        fit = Fit(sketches, inputs.names, order, spaces, options, work, arenas[1])
        model = fit.run()
        angles = None
        if options.compute_angle:
            with stage("computing angles", sum(n_used[b] for b in order[1:])):
                angles = angles_of_inputs(model, inputs, sketches, work.n_jobs, scratch)
        with single_threaded_blas():
            diagnostics = Diagnostics.of(fit, inputs.names, _result_rows(inputs, sketches))
    except BaseException as error:
        if store is not None:
            store.remove()
        if isinstance(error, SolverError):
            options_given = ", ".join(given["svd_options"] or {}) or "its default options"
            what = f"svds refused {options_given}: {error}"
            raise InputError(what, "See scipy.sparse.linalg.svds for what irlb takes.") from error
        raise
    if given["memory_limit"] is not None:
        return_freed()
    for message in diagnostics.warnings():
        warnings.warn(message, UserWarning, stacklevel=5)
    recorded = {key: value for key, value in given.items() if key not in NOT_RECORDED}
    return Fitted(
        model,
        pair_tables(fit.records, sketches, order),
        angles,
        [sketch.rows for sketch in sketches],
        summary(recorded, inputs, fit.records, sketches, order, sketch_size=chosen.size),
        diagnostics,
    )


def _result_rows(inputs: Inputs, sketches: Sequence[Sketch]) -> list[Rows]:
    """Rows of the result, batches stacked or in the order they came in, that are sketched cells."""
    starts = np.cumsum([0] + [sketch.n_cells for sketch in sketches])
    out = []
    for b, (start, sketch) in enumerate(zip(starts[:-1], sketches, strict=True)):
        _, own = inputs.rows(b)
        out.append(sketch.rows + start if own is None else own[sketch.rows])
    return out


def _warn_of_approximation(chosen: Choice, inputs: Inputs, order: list[int], *, automatic: bool) -> None:
    """Say so where fewer cells than there are were chosen for the user."""
    if chosen.size is not None and automatic:
        message = (
            f"The correction is fitted on {sum(chosen.n_used):,} of {sum(inputs.n_cells):,} cells, at most "
            f"{chosen.size:,} of each batch, and applied to all.\n"
            "Give sketch_size=None to fit on all cells, or a number of cells per batch."
        )
        warnings.warn(message, UserWarning, stacklevel=6)
    longest = sum(chosen.n_used[b] for b in order[:-1])
    if chosen.bounded and longest > REFERENCE_CELLS:
        message = (
            f"Batches are compared with {REFERENCE_CELLS:,} of up to {longest:,} cells merged before them, "
            "drawn at random.\n"
            "Give sketch_size=None to compare them with all."
        )
        warnings.warn(message, UserWarning, stacklevel=6)


def _warn_of_small(k: int, names: list[str], n_used: list[int]) -> None:
    smallest = n_used.index(min(n_used))
    if k > n_used[smallest]:
        message = (
            f"k={k} is more than the {n_used[smallest]} cells used of batch "
            f"{names[smallest]!r}; all of them count as neighbours there.\n"
            "Give a smaller k if that batch should pair with its nearest cells only."
        )
        warnings.warn(message, UserWarning, stacklevel=6)
