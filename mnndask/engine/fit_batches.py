"""Fit the input batches: choose the cells, place their matrices in memory or on disk, run the fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from mnndask._progress import stage
from mnndask._threads import single_threaded_blas
from mnndask._typing import Matrix, Rows
from mnndask.core.fit import REFERENCE_CELLS, fit
from mnndask.core.fit_cells import FitCells
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.history import MergeHistory
from mnndask.core.kernels.ahead import compile_ahead
from mnndask.core.merge_order import merge_order, sizes_of_sides
from mnndask.core.model import CorrectionModel
from mnndask.core.normalisation import normalisation_passes, normalise, warn_of_empty_cells
from mnndask.core.other_genes import NewMatrix, with_other_genes
from mnndask.core.parameters import Parameters
from mnndask.core.svd import SolverError
from mnndask.core.workspace import Workspace, WorkspaceInMemory
from mnndask.engine.apply import angles_of_inputs
from mnndask.engine.batches import Batches
from mnndask.engine.expression_checks import warn_of_values
from mnndask.engine.fit_plan import Copies, Plan
from mnndask.engine.read_cells import read_sketches
from mnndask.engine.run_options import RunOptions
from mnndask.engine.sketch import Choice, choose_cells, draw_cells
from mnndask.engine.space_checks import check_output_space, check_scratch_space
from mnndask.engine.tiled_workspace import TiledWorkspace
from mnndask.engine.workers import check_workers
from mnndask.errors import InputError, warn
from mnndask.stores.scratch import ScratchStore, scratch_folder


@dataclass(frozen=True)
class FittedBatches:
    """Result of fitting batches.

    Parameters
    ----------
    model
        The fitted correction.
    history
        How the batches were merged.
    angles
        Angles of corrections, one array per batch (None for the reference); None unless requested.
    sketch_size
        Largest number of fitted cells of a batch, if that left cells out; else None.
    """

    model: CorrectionModel
    history: MergeHistory
    angles: list[Any] | None
    sketch_size: int | None


def fit_batches(
    batches: Batches,
    subset: Rows | None,
    parameters: Parameters,
    run: RunOptions,
    *,
    embeds_only: bool = False,
) -> FittedBatches:
    """Fit a correction. Of lazy batches, only the fitted cells are read.

    Parameters
    ----------
    batches
        Two or more.
    subset
        Columns of the genes used for distances; None for all.
    parameters, run
        Parameters of the method, and options of the run.
    embeds_only
        Whether no genes are corrected.

    Raises
    ------
    InputError
        If there is only one batch, memory is too small, or the solver rejects its options.
    """
    merges = merge_order(parameters.mnn_order, batches.names, batches.design)
    order = list(merges.leaves)
    if len(order) < 2:
        what = "Only one batch was given."
        raise InputError(what, "Fit two or more, or one AnnData whose obs[batch_key] has several values.")
    cos_norm_in, cos_norm_out = parameters.cos_norm_in, parameters.cos_norm_out
    spaces = GeneSpaces(
        batches.n_genes,
        subset,
        cos_norm_in,
        cos_norm_in if embeds_only else cos_norm_out,
        batches.dtype,
        embeds_only=embeds_only,
    )
    chosen = choose_cells(batches, spaces, order, parameters)
    n_components = parameters.n_components
    if n_components is not None and n_components < min(sum(chosen.n_used), spaces.n_near):
        spaces = replace(spaces, n_components=n_components)  # all of them would only rotate the axes
    compile_ahead(
        spaces.dtype,
        spaces.n_near if spaces.n_components is None else spaces.n_components,
        var_adj=parameters.var_adj,
        sparse=chosen.size is not None and parameters.sketch_method != "random",
        refine=parameters.refine,
    )
    sides = sizes_of_sides(merges, chosen.n_used)
    _warn_of_approximation(chosen, batches, sides, automatic=parameters.sketch_size == "auto")
    copies = Copies(chosen.bounded, parameters.refine, parameters.var_adj)
    plan = Plan.of(batches, chosen.n_used, sides, spaces, run.budget, copies)
    _warn_of_large_k(parameters.k, batches.names, chosen.n_used)
    lazy = [source.X for source in batches.sources if source.lazy]
    if lazy or not plan.in_memory:
        check_workers(lazy, run.scratch_location)
    if plan.tiled:
        n_moved = sum(n_new for n_new, _ in sides)
        check_scratch_space(chosen.n_used, n_moved, spaces, scratch_folder(run.scratch_location), run.budget)
    max_reference = REFERENCE_CELLS if chosen.bounded else None
    with _scratch(plan, run) as store, _solver_errors_named(parameters):
        raw = _read(batches, spaces, chosen, store if plan.tiled else None, parameters, run)
        run.announce()  # here, as unsuitable input is to be one line
        warn_of_values(raw, batches.names, spaces)
        check_output_space(raw, batches.n_cells, spaces, order[0], n_components)
        work = _workspace(spaces, plan, store, run)
        with stage("normalising", sum(chosen.n_used), passes=normalisation_passes(spaces)):
            cells = normalise(raw, batches.names, spaces, parameters.solver, work, pooled=parameters.refine)
        warn_of_empty_cells(cells)
        with single_threaded_blas():  # once: merges of small batches are many short loops
            history = fit(cells, merges, parameters, work, max_reference=max_reference)
            new_matrix = _new_matrix(spaces.dtype, store if plan.stored_rest else None)
            history = with_other_genes(history, work, new_matrix, run.budget.resident // 2)
        model = history.model(run.budget.block_bytes)
        angles = None
        if parameters.compute_angle:
            with stage("computing angles", sum(chosen.n_used[b] for b in order if history.merges_of(b))):
                angles = angles_of_inputs(model, batches, raw, run.n_threads, run.scratch_location)
    return FittedBatches(model, history, angles, chosen.size)


@contextmanager
def _scratch(plan: Plan, run: RunOptions) -> Iterator[ScratchStore | None]:
    """Store of the matrices that are on disk, if there are any; removed on failure."""
    store = None if plan.in_memory else ScratchStore(run.scratch_location, plan.tile)
    try:
        yield store
    except BaseException:
        if store is not None:
            store.remove()
        raise


@contextmanager
def _solver_errors_named(parameters: Parameters) -> Iterator[None]:
    """Say which options the solver of singular vectors rejects."""
    try:
        yield
    except SolverError as error:
        given = ", ".join(parameters.svd_options or {}) or "its default options"
        what = f"svds rejected {given}: {error}"
        raise InputError(what, "See scipy.sparse.linalg.svds for the options of irlb.") from error


def _read(
    batches: Batches,
    spaces: GeneSpaces,
    chosen: Choice,
    store: ScratchStore | None,
    parameters: Parameters,
    run: RunOptions,
) -> list[FitCells]:
    """Draw the cells to fit, and read them; onto disk if given a store."""
    large = batches if chosen.size is None else batches.in_large_blocks(run.budget, chosen.size)
    rows = draw_cells(large, spaces, chosen, parameters, run)
    source = large if store is None else batches  # cells become dense on their way to disk
    return read_sketches(source, rows, spaces, store, run.n_jobs)


def _workspace(spaces: GeneSpaces, plan: Plan, store: ScratchStore | None, run: RunOptions) -> Workspace:
    budget = run.budget
    if store is not None and plan.tiled:
        return TiledWorkspace(store, plan.tile, spaces.dtype, budget.block_bytes, run.n_threads, run.n_jobs)
    return WorkspaceInMemory(spaces.dtype, budget.block_bytes, run.n_threads, budget.distance_bytes)


def _new_matrix(dtype: np.dtype, store: ScratchStore | None) -> NewMatrix:
    """Return the function that allocates matrices for the vectors of the other genes."""
    return partial(_matrix_in_memory, dtype) if store is None else partial(_stored_matrix, dtype, store)


def _matrix_in_memory(dtype: np.dtype, name: str, shape: tuple[int, int], columns: int) -> Matrix:
    return np.empty(shape, dtype)


def _stored_matrix(
    dtype: np.dtype, store: ScratchStore, name: str, shape: tuple[int, int], columns: int
) -> Matrix:
    return store.matrix(name, shape, dtype, columns)  # each block of columns is one chunk, written whole


def _warn_of_approximation(
    chosen: Choice, batches: Batches, sides: Sequence[tuple[int, int]], *, automatic: bool
) -> None:
    """Warn if a sketch was chosen automatically, or if steps use a subset of the reference."""
    if chosen.size is not None and automatic:
        warn(
            f"The correction is fitted on {sum(chosen.n_used):,} of {sum(batches.n_cells):,} cells, at most "
            f"{chosen.size:,} of each batch, and applied to all.",
            "Give sketch_size=None to fit on all cells, or a number of cells per batch.",
        )
    longest = max((n_ref for _, n_ref in sides), default=0)
    if chosen.bounded and longest > REFERENCE_CELLS:
        warn(
            f"Batches are compared with {REFERENCE_CELLS:,} of up to {longest:,} cells merged before them, "
            "drawn at random.",
            "Give sketch_size=None to compare them with all.",
        )


def _warn_of_large_k(k: int, names: Sequence[str], n_used: Sequence[int]) -> None:
    smallest = n_used.index(min(n_used))
    if k > n_used[smallest]:
        warn(
            f"k={k} is more than the {n_used[smallest]} cells used of batch "
            f"{names[smallest]!r}; all of them count as neighbours there.",
            "Give a smaller k if that batch should pair with its nearest cells only.",
        )
