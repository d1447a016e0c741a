"""The ``mnndask`` command."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
from anndata import AnnData

from mnndask.correct import mnn_correct
from mnndask.demo import run_demo
from mnndask.errors import InputError, InputKeyError, MNNError
from mnndask.kernels.subspace import SVD_MODES
from mnndask.store import check_output, open_lazily, write_zarr


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mnndask")
def cli() -> None:
    """Remove batch effects from single-cell data by matching mutual nearest neighbours.

    Works on AnnData files (.zarr, .h5ad), which need not fit in memory.
    """


class CommaList(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas."""

    name = "NAME,NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Split at commas."""
        return value if isinstance(value, list) else [part.strip() for part in value.split(",")]


@cli.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Store to write (.zarr)."
)
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
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
@click.option("--random-state", type=int, default=0, show_default=True, help="Seed of the iterative solvers.")
@click.option("--n-jobs", type=int, help="Threads.  [default: all processors]")
def correct(
    inputs: tuple[Path, ...],
    output: Path,
    overwrite: bool,
    hvg_key: str | None,
    var_subset: Path | None,
    restrict: str | None,
    index_unique: str,
    compute_angle: bool,
    n_jobs: int | None,
    **options: Any,
) -> None:
    """Correct batches and write one AnnData zarr store.

    Give one file per batch, or one file that tells its batches apart in --batch-key. All genes are
    corrected, whichever are used for distances.

    \b
    Examples:
      mnndask correct a.h5ad b.h5ad --hvg-key highly_variable -o corrected.zarr
      mnndask correct all.zarr --batch-key sample --mnn-order s2,s1,s3 -o corrected.zarr
    """  # noqa: D301
    start = time.perf_counter()
    check_output(output, inputs, overwrite=overwrite)
    if hvg_key and var_subset:
        what = "Both --hvg-key and --var-subset name the genes for distances."
        raise InputError(what, "Give one of them.")
    chosen = {key: value for key, value in options.items() if value is not None}
    opened = [open_lazily(path, None, f"batch {i} ({path})") for i, path in enumerate(inputs)]
    if len(inputs) > 1 and options["batch_categories"] is None:
        chosen["batch_categories"] = _stems_unless_named(inputs, opened, options["batch_key"])
    if hvg_key:
        chosen["var_subset"] = _marked_genes(inputs, opened, hvg_key)
    if var_subset:
        chosen["var_subset"] = _listed_genes(var_subset)
    if restrict:
        chosen["restrict"] = _marked_cells(
            inputs, opened, restrict, options["batch_key"], options["batch_categories"]
        )
    result, _, angles = mnn_correct(
        *inputs, index_unique=index_unique or None, compute_angle=compute_angle, n_jobs=n_jobs, **chosen
    )
    if "mnn" not in result.uns:
        what = f"{inputs[0]} holds one batch only, so there is nothing to correct."
        raise InputError(what, "Give one file per batch, or one whose --batch-key column has several values.")
    if angles is not None:
        result.obs["mnn_angle"] = _angle_column(result, angles, options["batch_key"])
    write_zarr(result, output, overwrite=overwrite, n_jobs=n_jobs)
    steps = result.uns["mnn"]["steps"]
    for row in steps.iloc[1:].itertuples():
        click.echo(
            f"{row.batch}: {row.n_pairs:,} pairs, {row.n_paired_cells:,} of {row.n_used:,} cells in one"
        )
    click.echo(
        f"corrected {result.n_obs:,} cells x {result.n_vars:,} genes in {len(steps)} batches "
        f"in {time.perf_counter() - start:.1f} s: {output}"
    )


@cli.command(short_help="Simulate batches, correct them, draw them.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("mnndask-demo"),
    show_default=True,
    help="Folder to write to.",
)
@click.option("--n-cells", type=click.IntRange(min=60), default=1500, show_default=True, help="Cells in all.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The same seed gives the same data.",
)
def demo(output: Path, n_cells: int, seed: int) -> None:
    """Simulate three batches, correct them, print the mixing before and after, and draw it."""
    for line in run_demo(output, n_cells=n_cells, seed=seed):
        click.echo(line)


def _stems_unless_named(inputs: tuple[Path, ...], opened: list[AnnData], batch_key: str) -> list[str] | None:
    """File stems, unless the inputs name their batches themselves."""
    columns = [adata.obs.get(batch_key) for adata in opened]
    values = [column.iloc[0] for column in columns if column is not None and len(column)]
    if len(values) == len(inputs) and len(set(values)) == len(values):
        return None
    stems = [path.stem for path in inputs]
    double = [stem for stem in stems if stems.count(stem) > 1]
    if double:
        what = f"Two inputs are both called {double[0]!r}, so their names cannot tell the batches apart."
        raise InputError(what, "Name the batches: --batch-categories NAME,NAME,...")
    return stems


def _marked_genes(inputs: tuple[Path, ...], opened: list[AnnData], column: str) -> list[str]:
    """Genes that a column of var marks in every input."""
    marked = opened[0].var_names
    for adata, path in zip(opened, inputs, strict=True):
        marked = marked[marked.isin(adata.var_names[_flags(adata.var, column, "var", path)])]
    if len(marked) == 0:
        what = f"No gene is marked by var[{column!r}] in every input."
        raise InputError(
            what, "Select highly variable genes over all batches, or name genes with --var-subset."
        )
    return list(marked)


def _marked_cells(
    inputs: tuple[Path, ...],
    opened: list[AnnData],
    column: str,
    batch_key: str,
    categories: list[str] | None,
) -> list[np.ndarray]:
    """Which cells a column of obs marks in each batch, in the order in which the batches count."""
    flags = [_flags(adata.obs, column, "obs", path) for adata, path in zip(opened, inputs, strict=True)]
    if len(inputs) > 1 or batch_key not in opened[0].obs:
        return flags
    batches = opened[0].obs[batch_key].astype(str)
    return [flags[0][(batches == name).to_numpy()] for name in categories or batches.unique()]


def _listed_genes(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        what = f"The gene list {path} cannot be read: {error}."
        raise InputError(what, "Give a text file with one gene name per line.") from error


def _flags(table: Any, column: str, slot: str, path: Path) -> np.ndarray:
    if column not in table:
        what = f"{path} has no column {column!r} in {slot}."
        raise InputKeyError(what, f"Its columns are: {', '.join(table) or 'none'}.")
    if table[column].dtype.kind != "b":
        what = f"{slot}[{column!r}] of {path} is of type {table[column].dtype}, not true or false."
        raise InputError(what, "Name a boolean column.")
    return np.asarray(table[column])


def _angle_column(result: Any, angles: list[Any], batch_key: str) -> np.ndarray:
    out = np.full(result.n_obs, np.nan)
    codes = result.obs[batch_key].cat.codes.to_numpy()
    for batch, values in enumerate(angles):
        if values is not None:
            out[codes == batch] = np.asarray(values)
    return out


def _say_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"mnndask: warning: {' '.join(str(message).split())}", err=True)


def main(args: list[str] | None = None) -> None:
    """Run the command; errors of use are one line on stderr and exit status 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.filterwarnings("ignore", "Writing zarr v2|zarr v3 autosharding", UserWarning)
        warnings.showwarning = _say_warning
        try:
            sys.exit(cli.main(args, prog_name="mnndask", standalone_mode=False) or 0)
        except (click.exceptions.Abort, KeyboardInterrupt):
            click.echo("mnndask: interrupted; nothing was written", err=True)
            sys.exit(130)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(2)
        except click.ClickException as error:
            click.echo(f"mnndask: {error.format_message()} See: mnndask --help", err=True)
            sys.exit(2)
        except (MNNError, OSError, MemoryError) as error:
            click.echo(f"mnndask: {' '.join(str(error).split())}", err=True)
            sys.exit(2)
