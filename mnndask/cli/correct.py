"""``mnndask correct``: turn command-line options into one call, and write its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from anndata import AnnData

from mnndask.api.correct import mnn_correct
from mnndask.api.progress_bars import log_stages, showing
from mnndask.cli.columns import (
    angle_column,
    check_label,
    listed_genes,
    marked_genes,
    stems_unless_named,
)
from mnndask.cli.look import check_report, lines_of_steps, lines_of_verdicts, write_report
from mnndask.cli.prepare import PreparationOptions, prepared_files
from mnndask.cli.terminal import say
from mnndask.diagnostics.label_differences import labelled_by
from mnndask.engine.apply import in_one_pass
from mnndask.engine.cluster import address_in_file, scheduled_by
from mnndask.engine.malloc import limit_heaps, return_freed
from mnndask.engine.memory_budget import Budget
from mnndask.engine.run_options import RUN_OPTIONS, RunOptions
from mnndask.engine.space_checks import Output, written_to
from mnndask.engine.support import reading_all_cells
from mnndask.engine.waiting import patient_for
from mnndask.engine.workers import check_output_folder
from mnndask.errors import COMPLETE, InputError, first_line, warn
from mnndask.io.anndata_store import open_lazily
from mnndask.io.anndata_writer import write_annotations, write_matrices
from mnndask.io.begun_matrix import Grid
from mnndask.io.h5ad_writer import write_h5ad, writing_file
from mnndask.io.opened_inputs import joined_key
from mnndask.io.output import check_output, is_complete, writing
from mnndask.io.prepared import Prepared
from mnndask.io.record import EMBEDDING_KEY
from mnndask.io.resume import ResumeRecord
from mnndask.stores.file_target import FileTarget
from mnndask.stores.location import Location
from mnndask.stores.output_target import store_or_file

NONE_MEANS_ALL = {"sketch_size", "n_jobs"}
MANY_CELLS = 100_000  # from which freeing the memory of annotations is worth a third of a second
NOT_IN_RECORD = RUN_OPTIONS - {"diagnostics"}  # options on which no part of the output depends


@dataclass(frozen=True)
class Files:
    """What the command reads and writes, as given by its options."""

    inputs: tuple[Location, ...]
    output: Location
    report: Path | None
    label: str | None
    overwrite: bool
    resume: bool

    @property
    def others(self) -> list[Location]:
        """Everything that is read or written but the report."""
        return [*self.inputs, self.output]

    @property
    def labels(self) -> list[str]:
        """Names of the inputs in messages."""
        return [f"batch {i} ({path})" for i, path in enumerate(self.inputs)]


def correct_files(*, quiet: bool, **options: Any) -> None:
    """Correct batches and write one store, and a report if one is wanted."""
    start = time.perf_counter()
    files = Files(**{field.name: options.pop(field.name) for field in fields(Files)})
    cluster = {name: options.pop(name) for name in ("scheduler", "scheduler_file", "worker_timeout")}
    preparing = PreparationOptions(
        **{field.name: options.pop(field.name) for field in fields(PreparationOptions)}
    )
    preparing.check(names_genes=bool(options["hvg_key"] or options["var_subset"]))
    address = _checked(files, options, preparing, **cluster)
    show_progress = False if quiet else None
    with (
        patient_for(cluster["worker_timeout"]),
        scheduled_by(address),
        showing(show_progress),
        nullcontext() if quiet else log_stages(),
    ):
        done = _corrected(files, preparing, show_progress, options)
    seconds = time.perf_counter() - start
    if not quiet:
        for line in [f"{files.output} is complete: nothing to do"] if done is None else done.lines():
            say(line)
        if done is not None:
            say(f"corrected {done.size} in {seconds:.1f} s: {files.output}")
    if files.report is not None and not (done is None and files.report.exists()):
        took = None if done is None else {"reading, fitting and writing": seconds}
        _reported(files.output, files.report, files.label, took)


@dataclass(frozen=True)
class _Done:
    """What was done: the record of the correction, and the shape of genes, or of components if `embedded`."""

    uns: Mapping[str, Any]
    shape: tuple[int, int]
    embedded: bool

    @property
    def size(self) -> str:
        n_batches = len(self.uns["steps"])
        if self.embedded:
            return f"{self.shape[0]:,} cells x {self.shape[1]:,} components in {n_batches} batches"
        return f"{self.shape[0]:,} cells x {self.shape[1]:,} genes in {n_batches} batches"

    def lines(self) -> list[str]:
        return [*lines_of_steps(self.uns["steps"]), *lines_of_verdicts(self.uns)]


def _checked(
    files: Files,
    options: dict[str, Any],
    preparing: PreparationOptions,
    *,
    scheduler: str | None,
    scheduler_file: Path | None,
    worker_timeout: str | None,
) -> str | None:
    """Refuse options that do not go together, before anything is read. Return the address of a cluster."""
    _check_exclusive(files.overwrite and files.resume, "Both --overwrite and --resume were given.")
    _check_exclusive(
        options["hvg_key"] and options["var_subset"],
        "Both --hvg-key and --var-subset name the genes used for distances.",
    )
    _check_exclusive(scheduler and scheduler_file, "Both --scheduler and --scheduler-file name a cluster.")
    chosen = options["hvg_key"] or options["var_subset"] or preparing.n_top_genes
    if options["genes"] == "subset" and not chosen:
        what = "--genes subset was given, but no option that chooses genes."
        raise InputError(what, "Give --hvg-key COLUMN, --var-subset FILE or --n-top-genes NUMBER.")
    Grid(0, chunk_genes=options["chunk_genes"])  # checks itself
    if files.report is None and files.label is not None:
        what = "--label names a column for the report, but there is no --report."
        raise InputError(what, "Give --report FILE, or leave out --label.")
    if files.report is not None and not options["diagnostics"]:
        what = "--report was given, but with --no-diagnostics there is nothing to report."
        raise InputError(what, "Leave one of them out.")
    if files.report is not None:
        check_report(files.report, files.others, overwrite=files.overwrite or files.resume)
    _check_file(files, on_cluster=bool(scheduler or scheduler_file))
    if worker_timeout is not None and not (scheduler or scheduler_file):
        what = "--worker-timeout was given, but there is no --scheduler."
        raise InputError(what, "Give --scheduler ADDRESS, or leave out --worker-timeout.")
    return scheduler if scheduler_file is None else address_in_file(scheduler_file)


def _check_file(files: Files, *, on_cluster: bool) -> None:
    """Refuse an output in one file where only a store of many will do."""
    output = files.output
    if output.pure.suffix != ".h5ad":
        return
    zarr = "Write a zarr store: give a path that ends in .zarr."
    if output.is_url:
        what = f"The output {output} is an HDF5 file at a URL, which cannot be written in parts."
        raise InputError(what, zarr)
    if files.resume:
        what = f"--resume was given, but {output} is one HDF5 file, which cannot be continued."
        raise InputError(what, zarr)
    if on_cluster:
        what = f"A cluster was named, but {output} is one HDF5 file, which only one process can write."
        raise InputError(what, zarr)


def _corrected(
    files: Files, preparing: PreparationOptions, show_progress: bool | None, options: dict[str, Any]
) -> _Done | None:
    """Correct and write. Return what was done; None if there was nothing to do."""
    run = RunOptions(n_jobs=options["n_jobs"], memory_limit=options["memory_limit"])
    budget, n_jobs = Budget.of(run.memory_limit, run.n_threads), run.n_jobs
    limit_heaps(budget.limit)
    hvg_key, var_subset, restrict = (options.pop(key) for key in ("hvg_key", "var_subset", "restrict"))
    var_names = listed_genes(var_subset) if var_subset else None
    of_result = {key: value for key, value in options.items() if key not in NOT_IN_RECORD}
    genes_and_cells = {"hvg_key": hvg_key, "var_subset": var_names, "restrict": restrict}
    chunk_genes = options.pop("chunk_genes")
    prepared_by = asdict(preparing) if preparing.wanted else {}
    record = ResumeRecord.of(files.inputs, of_result | genes_and_cells | prepared_by)
    target = store_or_file(files.output)
    if files.resume and is_complete(files.output, target, record):
        return None
    if files.report is not None and files.resume:  # the report of a complete output may exist
        check_report(files.report, files.others, overwrite=False)
    check_output(target, files.inputs, overwrite=files.overwrite, resume=record if files.resume else None)
    check_output_folder(files.output)
    if files.label is not None:
        check_label(files.inputs, files.labels, files.label, joined_key(options["batch_key"]))
    datas, given = _arguments(files, preparing, options, genes_and_cells, run)
    space = target.space(*(record.matrices if files.resume else ()))
    place = Output(space, files.overwrite and target.exists(), compressed=not isinstance(target, FileTarget))
    with written_to(place), reading_all_cells(), in_one_pass(), labelled_by(files.label):
        result, _, angles = mnn_correct(*datas, show_progress=show_progress, **given)
    if "mnn" not in result.uns:
        what = f"{files.inputs[0]} contains only one batch, so there is nothing to correct."
        raise InputError(what, "Give one file per batch, or one whose --batch-key column has several values.")
    if angles is not None:
        result.obs["mnn_angle"] = angle_column(result, angles)
    layer = options["layer_added"]
    matrices = _corrected_matrices(result, record.matrices[0], layer)
    done = _Done(result.uns["mnn"], matrices[record.matrices[0]].shape, options["genes"] == "none")
    free_memory: Callable[[], None] = return_freed if result.n_obs >= MANY_CELLS else lambda: None
    grid = Grid(budget.chunk_bytes, target.remote, chunk_genes)
    if isinstance(target, FileTarget):
        with writing_file(target, overwrite=files.overwrite) as file:
            write_h5ad(result, matrices, file, n_jobs, grid, with_X=layer is not None)
            record.check_inputs()
        return done
    with writing(target, overwrite=files.overwrite, run=record, resume=files.resume) as root:
        free_memory()
        write_annotations(result, root, n_jobs, remote=target.remote, with_X=layer is not None)
        del result  # names of a million cells take memory that the matrix needs
        free_memory()
        write_matrices(matrices, root, n_jobs, grid)
    return done


def _arguments(
    files: Files,
    preparing: PreparationOptions,
    options: Mapping[str, Any],
    genes_and_cells: Mapping[str, Any],
    run: RunOptions,
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return what is corrected, and the options of :func:`mnn_correct`. Prepares files, if they are to be."""
    given = {key: value for key, value in options.items() if value is not None or key in NONE_MEANS_ALL}
    given["index_unique"] = options["index_unique"] or None
    datas: Sequence[Any] = files.inputs
    one_column = isinstance(options["batch_key"], str)
    if preparing.wanted:
        datas = prepared_files(files.inputs, files.labels, preparing, given, run)
    elif len(files.inputs) > 1 and options["batch_categories"] is None and one_column:
        given["batch_categories"] = stems_unless_named(files.inputs, files.labels, options["batch_key"])
    if genes_and_cells["hvg_key"]:
        given["var_subset"] = _marked(files, datas, genes_and_cells["hvg_key"])
    if genes_and_cells["restrict"]:
        given["restrict"] = genes_and_cells["restrict"]
    if genes_and_cells["var_subset"] is not None:
        given["var_subset"] = genes_and_cells["var_subset"]
    return datas, given


def _corrected_matrices(result: AnnData, name: str, layer: str | None) -> dict[str, Any]:
    """Return what is written chunk by chunk, by path: the matrix of that `name`, and one that goes with it.

    Layers and embeddings among them are taken out of the result.
    """
    embedding = result.obsm.pop(EMBEDDING_KEY, None)
    genes = result.X if layer is None else result.layers.pop(layer)
    out = {} if genes is None else {name: genes}
    return out if embedding is None else out | {f"obsm/{EMBEDDING_KEY}": embedding}


def _marked(files: Files, datas: Sequence[Any], hvg_key: str) -> list[str]:
    """Return the genes that a column of var marks in every input. Reads the column."""
    if isinstance(datas[0], Prepared):
        return marked_genes(
            [one.location for one in datas], [one.open(used=[hvg_key]) for one in datas], hvg_key
        )
    named = zip(files.inputs, files.labels, strict=True)
    opened = [open_lazily(path, None, label, used=[hvg_key]) for path, label in named]
    return marked_genes(files.inputs, opened, hvg_key)


def _reported(output: Location, report: Path, label: str | None, took: dict[str, float] | None) -> None:
    """Write the report of a complete output, which no failure of the report makes worse."""
    try:
        write_report(output, report, label, took)
    except KeyboardInterrupt as error:
        error.add_note(f"{COMPLETE} {output}. The report was not written")
        raise
    except Exception as error:
        again = f"mnndask report {output} -o {report}" + (f" --label {label}" if label else "")
        what = f"The output is complete, but its report could not be written: {first_line(error)}."
        warn(what, f"Write the report with: {again}")


def _check_exclusive(both: Any, what: str) -> None:
    if both:
        raise InputError(what, "Give only one of them.")
