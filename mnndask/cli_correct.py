"""``mnndask correct``: options of the command line made into one call."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from anndata import AnnData

from mnndask.budget import Budget
from mnndask.correct import mnn_correct
from mnndask.errors import InputError, InputKeyError
from mnndask.kernels.subspace import SVD_MODES
from mnndask.memory import return_freed
from mnndask.output import check_output, write_annotations, write_matrix, writing
from mnndask.parameters import SKETCH_METHODS
from mnndask.store import open_lazily


class CommaList(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas."""

    name = "NAME,NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Split at commas."""
        return value if isinstance(value, list) else [part.strip() for part in value.split(",")]


class SketchSize(click.ParamType):  # type: ignore[type-arg]
    """A number of cells, ``auto`` or ``none``."""

    name = "N|auto|none"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str | None:
        """Read the number, if it is one."""
        if value in ("auto", "none"):
            return None if value == "none" else "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number of cells nor auto or none.", param, ctx)


@click.command()
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
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Folder for what does not fit in memory.  [default: the system's]",
)
@click.option(
    "--random-state",
    type=int,
    default=0,
    show_default=True,
    help="Seed of the sketch and of the iterative solvers.",
)
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
    sketch_size: int | str | None,
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
    used = [column for column in (options["batch_key"], hvg_key, restrict) if column]
    opened = [open_lazily(path, None, f"batch {i} ({path})", used=used) for i, path in enumerate(inputs)]
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
    del opened  # a million names of cells, which the call reads for itself
    result, _, angles = mnn_correct(
        *inputs,
        index_unique=index_unique or None,
        compute_angle=compute_angle,
        sketch_size=sketch_size,
        n_jobs=n_jobs,
        **chosen,
    )
    if "mnn" not in result.uns:
        what = f"{inputs[0]} holds one batch only, so there is nothing to correct."
        raise InputError(what, "Give one file per batch, or one whose --batch-key column has several values.")
    if angles is not None:
        result.obs["mnn_angle"] = _angle_column(result, angles, options["batch_key"])
    chunk_bytes = Budget.of(options["memory_limit"], n_jobs).chunk_bytes
    steps, X = result.uns["mnn"]["steps"], result.X
    with writing(output, overwrite=overwrite) as root:
        write_annotations(result, root, n_jobs)
        del result  # the names of a million cells take memory that the rest does not need
        return_freed()
        write_matrix(X, root, n_jobs, chunk_bytes)
    for row in steps.iloc[1:].itertuples():
        click.echo(
            f"{row.batch}: {row.n_pairs:,} pairs, {row.n_paired_cells:,} of {row.n_used:,} cells in one"
        )
    click.echo(
        f"corrected {X.shape[0]:,} cells x {X.shape[1]:,} genes in {len(steps)} batches "
        f"in {time.perf_counter() - start:.1f} s: {output}"
    )


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
    if n := int(table[column].isna().sum()):
        what = f"{slot}[{column!r}] of {path} has {n} missing value(s)."
        raise InputError(what, "Say which they are, true or false.")
    return np.asarray(table[column], bool)


def _angle_column(result: Any, angles: list[Any], batch_key: str) -> np.ndarray:
    out = np.full(result.n_obs, np.nan)
    codes = result.obs[batch_key].cat.codes.to_numpy()
    for batch, values in enumerate(angles):
        if values is not None:
            out[codes == batch] = np.asarray(values)
    return out
