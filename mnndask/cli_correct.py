"""``mnndask correct``: options of the command line made into one call."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import pandas as pd

from mnndask.budget import Budget
from mnndask.cli_columns import angle_column, listed_genes, marked_cells, marked_genes, stems_unless_named
from mnndask.cli_look import check_report, tell_steps, write_report
from mnndask.cli_types import CommaList, SketchSize, StoreLocation
from mnndask.cluster import scheduled_by
from mnndask.correct import mnn_correct
from mnndask.errors import InputError
from mnndask.fitting import OF_THE_RUN
from mnndask.kernels.subspace import SVD_MODES
from mnndask.location import Location
from mnndask.memory import return_freed
from mnndask.output import check_output, write_annotations, write_matrix, writing
from mnndask.parameters import SKETCH_METHODS
from mnndask.progress import showing, told
from mnndask.run_record import Run
from mnndask.store import open_lazily
from mnndask.target import target_of

MANY_CELLS = 100_000  # whose annotations are worth a third of a second to free memory


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=StoreLocation(), metavar="INPUT...")
@click.option("-o", "--output", required=True, type=StoreLocation(), help="Store to write (.zarr).")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a page with pictures and measures of the correction, too (.html).",
)
@click.option("--label", metavar="COLUMN", help="Column of obs with the kinds of cells, for the report.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@click.option("--resume", is_flag=True, help="Continue what the same command left of the output.")
@click.option(
    "--batch-key",
    default="batch",
    show_default=True,
    metavar="COLUMN",
    help="Column of obs that tells batches apart.",
)
@click.option(
    "--batch-categories",
    type=CommaList(),
    help="Names of the batches, in input order.  [default: that column, else file names]",
)
@click.option(
    "--mnn-order",
    type=CommaList(),
    help="Names of the batches as they are to merge; the first is the reference.  [default: as given]",
)
@click.option(
    "--hvg-key",
    metavar="COLUMN",
    help="Use for distances the genes that this column of var marks in every input.",
)
@click.option(
    "--var-subset",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Use for distances the genes that this file names, one a line.",
)
@click.option("--layer", metavar="NAME", help="Layer that holds the expression.  [default: X]")
@click.option(
    "--restrict", metavar="COLUMN", help="Fit on the cells that this column of obs marks; correct all."
)
@click.option(
    "--sketch-size",
    type=SketchSize(),
    default="auto",
    show_default=True,
    help="Most cells of each batch to fit on; auto: all, if that takes about a minute at most, else 5,000.",
)
@click.option(
    "--sketch-method",
    type=click.Choice(SKETCH_METHODS),
    default="mixed",
    show_default=True,
    help="How to draw them: at random, evenly over the space that cells occupy, or some of each way.",
)
@click.option(
    "--n-components",
    type=int,
    help="Take distances in so many principal components, such as 50.  [default: in genes]",
)
@click.option("-k", "--k", "k", type=int, default=20, show_default=True, help="Number of neighbours.")
@click.option(
    "--sigma", type=float, default=1.0, show_default=True, help="Divisor of squared distances in smoothing."
)
@click.option(
    "--cos-norm-in/--no-cos-norm-in",
    default=True,
    show_default=True,
    help="Divide cells by their length for distances.",
)
@click.option(
    "--cos-norm-out/--no-cos-norm-out",
    default=True,
    show_default=True,
    help="Divide cells by their length in the result.",
)
@click.option(
    "--var-adj/--no-var-adj",
    default=True,
    show_default=True,
    help="Lengthen corrections so that cells keep their rank.",
)
@click.option(
    "--svd-dim", type=int, help="Dimensions of biology along which cells are not corrected.  [default: none]"
)
@click.option(
    "--svd-mode", type=click.Choice(SVD_MODES), default="rsvd", show_default=True, help="Solver for them."
)
@click.option(
    "--compute-angle",
    is_flag=True,
    help="Write each cell's angle to the reference's biology to obs['mnn_angle'].",
)
@click.option("--ncv", type=int, help="Lanczos vectors (irlb).")
@click.option("--tol", type=float, help="Accuracy of singular values (irlb).")
@click.option("--maxiter", type=int, help="Restarts allowed (irlb).")
@click.option(
    "--index-unique",
    default="-",
    show_default=True,
    metavar="TEXT",
    help="Put between a cell's name and its batch's; empty leaves names as they are.",
)
@click.option("--save-raw", is_flag=True, help="Keep uncorrected values in raw.")
@click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Memory for the work, such as 2GB, on top of what loading mnndask takes.  [default: what is free]",
)
@click.option(
    "--scratch",
    type=StoreLocation(),
    help="Folder (or URL) for what does not fit in memory.  [default: the system's]",
)
@click.option(
    "--random-state",
    type=int,
    default=0,
    show_default=True,
    help="Seed of the sketch and of the iterative solvers.",
)
@click.option("--n-jobs", type=int, help="Threads.  [default: all processors]")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Work on the dask cluster there, such as tcp://host:8786, rather than on threads.",
)
@click.option(
    "-q", "--quiet", is_flag=True, help="Show no progress and no summary; errors and warnings only."
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

    Give one file per batch, or one file that tells its batches apart in --batch-key. All genes are
    corrected, whichever are used for distances. Inputs and the output may be URLs (s3://...).

    \b
    Examples:
      mnndask correct a.h5ad b.h5ad --hvg-key highly_variable -o corrected.zarr
      mnndask correct all.zarr --batch-key sample --mnn-order s2,s1,s3 -o corrected.zarr
    """  # noqa: D301
    start = time.perf_counter()
    if label is not None and report is None:
        what = "--label names a column for the report, and no --report is to be written."
        raise InputError(what, "Give --report FILE, or leave --label out.")
    if report is not None:
        check_report(report, overwrite=options["overwrite"])
    show_progress = False if quiet else None
    with scheduled_by(scheduler), showing(show_progress), nullcontext() if quiet else told():
        steps, shape = _corrected(inputs, output, show_progress=show_progress, **options)
    seconds = time.perf_counter() - start
    if not quiet:
        tell_steps(steps)
        click.echo(
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
    """Genes and cells that columns of the inputs' tables mark, which are read and let go of."""
    used = [column for column in (batch_key, hvg_key, restrict) if column]
    opened = [open_lazily(path, None, label, used=used) for path, label in zip(inputs, labels, strict=True)]
    out: dict[str, Any] = {}
    if hvg_key:
        out["var_subset"] = marked_genes(inputs, opened, hvg_key)
    if restrict:
        out["restrict"] = marked_cells(inputs, opened, restrict, batch_key, categories)
    return out


def _corrected(
    inputs: tuple[Location, ...],
    output: Location,
    *,
    overwrite: bool,
    resume: bool,
    hvg_key: str | None,
    var_subset: Path | None,
    restrict: str | None,
    index_unique: str,
    compute_angle: bool,
    sketch_size: int | str | None,
    n_jobs: int | None,
    show_progress: bool | None,
    **options: Any,
) -> tuple[pd.DataFrame, tuple[int, int]]:
    """Correct and write; returns a row per merge step, and the result's shape."""
    if overwrite and resume:
        what = "Both --overwrite and --resume say what becomes of the output."
        raise InputError(what, "Give one of them.")
    if hvg_key and var_subset:
        what = "Both --hvg-key and --var-subset name the genes for distances."
        raise InputError(what, "Give one of them.")
    var_names = listed_genes(var_subset) if var_subset else None
    of_result = {key: value for key, value in options.items() if key not in OF_THE_RUN}
    run = Run.of(
        inputs,
        of_result
        | {
            "hvg_key": hvg_key,
            "var_subset": var_names,
            "restrict": restrict,
            "index_unique": index_unique,
            "compute_angle": compute_angle,
            "sketch_size": sketch_size,
        },
    )
    target = target_of(output)
    check_output(target, inputs, overwrite=overwrite, resume=run if resume else None)
    chosen = {key: value for key, value in options.items() if value is not None}
    labels = [f"batch {i} ({path})" for i, path in enumerate(inputs)]
    if len(inputs) > 1 and options["batch_categories"] is None:
        chosen["batch_categories"] = stems_unless_named(inputs, labels, options["batch_key"])
    if hvg_key or restrict:
        batches = options["batch_key"], options["batch_categories"]
        chosen |= _marked(inputs, labels, hvg_key, restrict, *batches)
    if var_names is not None:
        chosen["var_subset"] = var_names
    result, _, angles = mnn_correct(
        *inputs,
        index_unique=index_unique or None,
        compute_angle=compute_angle,
        sketch_size=sketch_size,
        n_jobs=n_jobs,
        show_progress=show_progress,
        **chosen,
    )
    if "mnn" not in result.uns:
        what = f"{inputs[0]} holds one batch only, so there is nothing to correct."
        raise InputError(what, "Give one file per batch, or one whose --batch-key column has several values.")
    if angles is not None:
        result.obs["mnn_angle"] = angle_column(result, angles)
    chunk_bytes = Budget.of(options["memory_limit"], n_jobs).chunk_bytes
    steps, X = result.uns["mnn"]["steps"], result.X
    give_back = return_freed if X.shape[0] >= MANY_CELLS else lambda: None
    with writing(target, overwrite=overwrite, run=run, resume=resume) as root:
        give_back()
        write_annotations(result, root, n_jobs, remote=target.remote)
        del result  # the names of a million cells take memory that the rest does not need
        give_back()
        write_matrix(X, root, n_jobs, chunk_bytes, remote=target.remote)
    return steps, X.shape
