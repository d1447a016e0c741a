"""``mnndask correct``: turn command-line options into one call."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import pandas as pd

from mnndask.api.correct import mnn_correct
from mnndask.api.progress_bars import log_stages, showing
from mnndask.cli.columns import angle_column, listed_genes, marked_cells, marked_genes, stems_unless_named
from mnndask.cli.look import check_report, lines_of_steps, write_report
from mnndask.cli.terminal import say
from mnndask.cli.types import CommaList, SketchSize, StoreLocation
from mnndask.core.parameters import SKETCH_METHODS
from mnndask.core.svd import SVD_MODES
from mnndask.engine.cluster import scheduled_by
from mnndask.engine.malloc import return_freed
from mnndask.engine.run_options import RUN_OPTIONS, RunOptions
from mnndask.engine.waiting import patient_for
from mnndask.engine.workers import check_output_folder
from mnndask.errors import InputError
from mnndask.io.anndata_store import open_lazily
from mnndask.io.anndata_writer import write_annotations, write_matrix
from mnndask.io.output import check_output, writing
from mnndask.io.resume import ResumeRecord
from mnndask.stores.location import Location
from mnndask.stores.output_target import target_of

NONE_MEANS_ALL = {"sketch_size", "n_jobs"}
MANY_CELLS = 100_000  # from which freeing the memory of annotations is worth a third of a second


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=StoreLocation(), metavar="INPUT...")
@click.option("-o", "--output", required=True, type=StoreLocation(), help="Store to write (.zarr).")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write a report with plots and measures of the correction (.html).",
)
@click.option("--label", metavar="COLUMN", help="Column of obs with cell types, for the report.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option(
    "--resume",
    is_flag=True,
    help="Continue an output that the same command left unfinished, unless names, sizes or times of files of "
    "the inputs have changed, also behind links.",
)
@click.option(
    "--batch-key",
    default="batch",
    show_default=True,
    metavar="COLUMN",
    help="Column of obs with the batch of each cell.",
)
@click.option(
    "--batch-categories",
    type=CommaList(),
    help="Names of the batches, in input order.  [default: values of --batch-key, else file names]",
)
@click.option(
    "--mnn-order",
    type=CommaList(),
    help="Names of the batches in merge order; the first is the reference.  [default: input order]",
)
@click.option(
    "--hvg-key",
    metavar="COLUMN",
    help="Use the genes that this column of var marks in every input for distances.",
)
@click.option(
    "--var-subset",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Use the genes named in this file, one per line, for distances.",
)
@click.option("--layer", metavar="NAME", help="Layer with the expression.  [default: X]")
@click.option(
    "--restrict", metavar="COLUMN", help="Fit on the cells that this column of obs marks; correct all cells."
)
@click.option(
    "--sketch-size",
    type=SketchSize(),
    default="auto",
    show_default=True,
    help="Most cells per batch to fit on; auto: all if that takes up to about a minute, else 5,000.",
)
@click.option(
    "--sketch-method",
    type=click.Choice(SKETCH_METHODS),
    default="mixed",
    show_default=True,
    help="Draw these cells at random, evenly over the space that cells occupy, or half in each way.",
)
@click.option(
    "--n-components",
    type=int,
    help="Compute distances in this many principal components, e.g. 50.  [default: in genes]",
)
@click.option("-k", "--k", "k", type=int, default=20, show_default=True, help="Number of neighbours.")
@click.option(
    "--sigma", type=float, default=1.0, show_default=True, help="Divisor of squared distances in smoothing."
)
@click.option(
    "--cos-norm-in/--no-cos-norm-in",
    default=True,
    show_default=True,
    help="Divide each cell by its length for distances.",
)
@click.option(
    "--cos-norm-out/--no-cos-norm-out",
    default=True,
    show_default=True,
    help="Divide each cell by its length in the result.",
)
@click.option(
    "--var-adj/--no-var-adj",
    default=True,
    show_default=True,
    help="Lengthen corrections so that cells keep their rank.",
)
@click.option(
    "--svd-dim", type=int, help="Biological dimensions along which cells are not corrected.  [default: none]"
)
@click.option(
    "--svd-mode", type=click.Choice(SVD_MODES), default="rsvd", show_default=True, help="Solver for these."
)
@click.option(
    "--compute-angle",
    is_flag=True,
    help="Write the angle between corrections and the reference's biology to obs['mnn_angle'].",
)
@click.option("--ncv", type=int, help="Lanczos vectors (irlb).")
@click.option("--tol", type=float, help="Accuracy of singular values (irlb).")
@click.option("--maxiter", type=int, help="Largest number of restarts (irlb).")
@click.option(
    "--index-unique",
    default="-",
    show_default=True,
    metavar="TEXT",
    help="Text between the names of a cell and its batch; empty leaves cell names unchanged.",
)
@click.option("--save-raw", is_flag=True, help="Keep the uncorrected values in raw.")
@click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Memory for the work, e.g. 2GB, besides that of loading mnndask.  [default: all free memory]",
)
@click.option(
    "--scratch",
    type=StoreLocation(),
    help="Folder or URL for data that does not fit in memory.  [default: the system's folder]",
)
@click.option(
    "--random-state",
    type=int,
    default=0,
    show_default=True,
    help="Seed of the sketch and of the iterative solvers.",
)
@click.option("--n-jobs", type=int, help="Number of threads.  [default: all processors]")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Run on the dask cluster at this address, e.g. tcp://host:8786, instead of local threads.",
)
@click.option(
    "--worker-timeout",
    metavar="TIME",
    help="Stop if that cluster has no workers for so long, e.g. 30min.  [default: wait for them]",
)
@click.option(
    "-q", "--quiet", is_flag=True, help="Print only errors and warnings, no progress and no summary."
)
def correct(
    inputs: tuple[Location, ...],
    output: Location,
    scheduler: str | None,
    quiet: bool,
    report: Path | None,
    label: str | None,
    **options: Any,
) -> None:
    """Correct batches and write one AnnData zarr store.

    Give one file per batch, or one file whose --batch-key column names the batches. All genes are
    corrected, whichever are used for distances. Inputs and the output may be URLs (s3://...).

    \b
    Examples:
      mnndask correct a.h5ad b.h5ad --hvg-key highly_variable -o corrected.zarr
      mnndask correct all.zarr --batch-key sample --mnn-order s2,s1,s3 -o corrected.zarr
    """  # noqa: D301
    start = time.perf_counter()
    if label is not None and report is None:
        what = "--label names a column for the report, but there is no --report."
        raise InputError(what, "Give --report FILE, or leave out --label.")
    if report is not None:
        check_report(report, overwrite=options["overwrite"])
    worker_timeout = options.pop("worker_timeout")
    if worker_timeout is not None and scheduler is None:
        what = "--worker-timeout was given, but there is no --scheduler."
        raise InputError(what, "Give --scheduler ADDRESS, or leave out --worker-timeout.")
    show_progress = False if quiet else None
    with (
        patient_for(worker_timeout),
        scheduled_by(scheduler),
        showing(show_progress),
        nullcontext() if quiet else log_stages(),
    ):
        steps, shape = _corrected(inputs, output, show_progress, options)
    seconds = time.perf_counter() - start
    if not quiet:
        for line in lines_of_steps(steps):
            say(line)
        say(
            f"corrected {shape[0]:,} cells x {shape[1]:,} genes in {len(steps)} batches "
            f"in {seconds:.1f} s: {output}"
        )
    if report is not None:
        write_report(output, report, label, {"reading, fitting and writing": seconds})


def _marked(
    inputs: tuple[Location, ...],
    labels: list[str],
    hvg_key: str | None,
    restrict: str | None,
    batch_key: str,
    categories: list[str] | None,
) -> dict[str, Any]:
    """Return the genes and cells that columns of the inputs mark. Reads these columns."""
    used = [column for column in (batch_key, hvg_key, restrict) if column]
    opened = [open_lazily(path, None, label, used=used) for path, label in zip(inputs, labels, strict=True)]
    out: dict[str, Any] = {}
    if hvg_key:
        out["var_subset"] = marked_genes(inputs, opened, hvg_key)
    if restrict:
        out["restrict"] = marked_cells(inputs, opened, restrict, batch_key, categories)
    return out


def _corrected(
    inputs: tuple[Location, ...], output: Location, show_progress: bool | None, options: dict[str, Any]
) -> tuple[pd.DataFrame, tuple[int, int]]:
    """Correct and write. Return the table of merge steps and the shape of the result."""
    overwrite, resume = options.pop("overwrite"), options.pop("resume")
    hvg_key, var_subset, restrict = (options.pop(key) for key in ("hvg_key", "var_subset", "restrict"))
    _check_exclusive(overwrite and resume, "Both --overwrite and --resume were given.")
    _check_exclusive(
        hvg_key and var_subset, "Both --hvg-key and --var-subset name the genes used for distances."
    )
    var_names = listed_genes(var_subset) if var_subset else None
    of_result = {key: value for key, value in options.items() if key not in RUN_OPTIONS}
    genes_and_cells = {"hvg_key": hvg_key, "var_subset": var_names, "restrict": restrict}
    record = ResumeRecord.of(inputs, of_result | genes_and_cells)
    target = target_of(output)
    check_output(target, inputs, overwrite=overwrite, resume=record if resume else None)
    check_output_folder(output)
    labels = [f"batch {i} ({path})" for i, path in enumerate(inputs)]
    given = {key: value for key, value in options.items() if value is not None or key in NONE_MEANS_ALL}
    given["index_unique"] = options["index_unique"] or None
    if len(inputs) > 1 and options["batch_categories"] is None:
        given["batch_categories"] = stems_unless_named(inputs, labels, options["batch_key"])
    if hvg_key or restrict:
        batches = options["batch_key"], options["batch_categories"]
        given |= _marked(inputs, labels, hvg_key, restrict, *batches)
    if var_names is not None:
        given["var_subset"] = var_names
    n_jobs = options["n_jobs"]
    budget = RunOptions(n_jobs=n_jobs, memory_limit=options["memory_limit"]).budget
    given["memory_limit"] = budget.limit  # one limit for reading, fitting and writing
    result, _, angles = mnn_correct(*inputs, show_progress=show_progress, **given)
    if "mnn" not in result.uns:
        what = f"{inputs[0]} contains only one batch, so there is nothing to correct."
        raise InputError(what, "Give one file per batch, or one whose --batch-key column has several values.")
    if angles is not None:
        result.obs["mnn_angle"] = angle_column(result, angles)
    steps, X = result.uns["mnn"]["steps"], result.X
    free_memory = return_freed if X.shape[0] >= MANY_CELLS else lambda: None
    with writing(target, overwrite=overwrite, run=record, resume=resume) as root:
        free_memory()
        write_annotations(result, root, n_jobs, remote=target.remote)
        del result  # names of a million cells take memory that the matrix needs
        free_memory()
        write_matrix(X, root, n_jobs, budget.chunk_bytes, remote=target.remote)
    return steps, X.shape


def _check_exclusive(both: Any, what: str) -> None:
    if both:
        raise InputError(what, "Give only one of them.")
