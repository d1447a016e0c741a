"""``mnndask simulate``: write a simulated data set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from mnndask.cli.terminal import say
from mnndask.datasets.simulated import simulate_to_zarr


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
    "--seed", type=int, default=0, show_default=True, help="Random seed; equal seeds give equal data."
)
@click.option("--n-jobs", type=int, help="Number of threads.  [default: all processors]")
def simulate(output: Path, **options: Any) -> None:
    """Write a simulated data set, one AnnData zarr store per batch, in bounded memory.

    The data are log-normalised counts of related cell types, some rare, some missing from some batches,
    with batch effects and varying sequencing depth. The true types are in obs["cell_type"].
    """
    start = time.perf_counter()
    paths = simulate_to_zarr(output, **options)
    say(
        f"simulated {options['n_cells']:,} cells x {options['n_genes']:,} genes in {len(paths)} batches "
        f"in {time.perf_counter() - start:.1f} s: {output}"
    )
