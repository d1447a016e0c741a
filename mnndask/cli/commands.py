"""The commands and their options. What does the work is loaded when a command runs: help is quick."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mnndask._choices import RECOMMENDED
from mnndask.cli.options import options_of_correct
from mnndask.cli.types import StoreLocation

if TYPE_CHECKING:
    from mnndask.stores.location import Location


@contextmanager
def loading() -> Iterator[None]:
    """Load libraries without collecting garbage, of which they create none: it takes a third less time."""
    gc.disable()
    try:
        yield
        gc.freeze()  # later collections skip the libraries
    finally:
        gc.enable()


@click.command(short_help="Correct batches and write one AnnData zarr store.")
@options_of_correct
def correct(*, recommended: bool, **options: Any) -> None:
    """Correct batches and write one AnnData zarr store.

    Give one file per batch, or one file whose --batch-key column names the batches. All genes are
    corrected, whichever are used for distances. Inputs and the output may be URLs (s3://...).

    The first run after installation compiles for up to 20 s. If that recurs, set NUMBA_CACHE_DIR to a folder
    that can be written.

    \b
    Examples:
      mnndask correct a.h5ad b.h5ad --recommended --hvg-key highly_variable -o corrected.zarr
      mnndask correct all.zarr --batch-key sample --mnn-order s2,s1,s3 -o corrected.zarr
    """  # noqa: D301
    with loading():
        from mnndask.cli.correct import correct_files

    correct_files(**options | _not_given(RECOMMENDED if recommended else {}))


def _not_given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of options that the current command was called without."""
    source = click.get_current_context().get_parameter_source
    return {name: value for name, value in values.items() if source(name) is ParameterSource.DEFAULT}


@click.command(short_help="Summarise a correction, and the layout of a store.")
@click.argument("store", type=StoreLocation())
def info(store: Location) -> None:
    """Print a summary of the correction recorded in STORE (.zarr or .h5ad), and how its X is stored.

    Of a store that was not corrected, print the latter, and what would make reading it faster. The matrix is
    not read.
    """
    with loading():
        from mnndask.cli.look import print_summary

    print_summary(store)


@click.command(short_help="Write a report with plots and measures of a correction.")
@click.argument("corrected", type=StoreLocation())
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="HTML file to write.",
)
@click.option("--label", metavar="COLUMN", help="Column of obs with cell types.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def report(corrected: Location, output: Path, label: str | None, overwrite: bool) -> None:
    """Write a report on the correction recorded in CORRECTED (.zarr or .h5ad).

    The report is one self-contained HTML file. The matrix is not read.
    """
    with loading():
        from mnndask.cli.look import check_report, write_report

    check_report(output, [corrected], overwrite=overwrite)
    write_report(corrected, output, label)


@click.command(short_help="Simulate batches, correct them and plot them.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("mnndask-demo"),
    show_default=True,
    help="Folder to write to.",
)
@click.option(
    "--n-cells", type=click.IntRange(min=60), default=1500, show_default=True, help="Total number of cells."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Random seed; equal seeds give equal data.",
)
def demo(output: Path, n_cells: int, seed: int) -> None:
    """Simulate three batches, correct them, and print and plot the mixing before and after."""
    with loading():
        from mnndask.cli.demo import run_demo
        from mnndask.cli.terminal import say

    for line in run_demo(output, n_cells=n_cells, seed=seed):
        say(line)


@click.command(short_help="Write simulated batches of any size.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for batch0.zarr, batch1.zarr, ...",
)
@click.option("--overwrite", is_flag=True, help="Replace all batches in the folder.")
@click.option("--n-cells", type=int, default=1_000_000, show_default=True, help="Total number of cells.")
@click.option("--n-genes", type=int, default=2000, show_default=True, help="Number of genes.")
@click.option("--n-batches", type=int, default=4, show_default=True, help="Number of batches.")
@click.option("--n-types", type=int, default=18, show_default=True, help="Number of cell types.")
@click.option(
    "--counts-per-gene",
    type=float,
    default=0.25,
    show_default=True,
    help="Mean counts per cell and gene; with fewer, types are harder to distinguish.",
)
@click.option(
    "--batch-effect",
    type=float,
    default=0.15,
    show_default=True,
    help="Spread of the batch effect, in natural logarithms of expression; 0 is none, 0.45 very strong.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Random seed; equal seeds give equal data."
)
@click.option("--n-jobs", type=int, help="Number of threads.  [default: all processors]")
def simulate(output: Path, **options: Any) -> None:
    """Write a simulated data set, one AnnData zarr store per batch, in bounded memory.

    The data are log-normalised counts of related cell types, some rare, some missing from some batches,
    with batch effects and varying sequencing depth. The true types are in obs["cell_type"].
    """
    with loading():
        from mnndask.cli.simulate import simulate_files

    simulate_files(output, **options)
