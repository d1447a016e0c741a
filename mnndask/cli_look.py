"""``mnndask info`` and ``mnndask report``: a correction looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import pandas as pd

from mnndask.aids import aids
from mnndask.cli_types import StoreLocation
from mnndask.errors import OutputError, OutputExistsError
from mnndask.location import Location
from mnndask.recorded import Recorded, checked
from mnndask.report import report as report_of
from mnndask.store import read_record


@click.command(short_help="Tell in a few lines what a correction did.")
@click.argument("corrected", type=StoreLocation())
def info(corrected: Location) -> None:
    """Print what CORRECTED (.zarr or .h5ad) records of its correction. Its matrix is not read."""
    uns, obs, shape = read_record(corrected)
    record = Recorded(checked(uns, str(corrected)), obs)
    click.echo(f"{corrected}: {shape[0]:,} cells x {shape[1]:,} genes in {len(record.steps)} batches")
    click.echo(f"corrected by mnndask {record.uns['version']}, reference {record.steps['batch'].iloc[0]}")
    tell_steps(record.steps)
    for aid in aids(record):
        click.echo(f"{'!' if aid.attention else '-'} {aid.text}")


def tell_steps(steps: pd.DataFrame) -> None:
    """Print a line for each merge step."""
    for row in steps.iloc[1:].itertuples():
        click.echo(
            f"{row.batch}: {row.n_pairs:,} pairs, {row.n_paired_cells:,} of {row.n_used:,} cells in one"
        )


@click.command(short_help="Write a page with pictures and measures of a correction.")
@click.argument("corrected", type=StoreLocation())
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="HTML file to write.",
)
@click.option("--label", metavar="COLUMN", help="Column of obs with the kinds of cells.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def report(corrected: Location, output: Path, label: str | None, overwrite: bool) -> None:
    """Write one HTML file that shows what the correction of CORRECTED (.zarr or .h5ad) did.

    It holds all it needs, and can be sent to others. The matrix is not read.
    """
    check_report(output, overwrite=overwrite)
    write_report(corrected, output, label)


def check_report(output: Path, *, overwrite: bool) -> None:
    """Refuse a file that is there, or a folder that is not.

    Raises
    ------
    OutputExistsError, OutputError
    """
    if output.exists() and not overwrite:
        what = f"The report {output} exists."
        raise OutputExistsError(what, "Give another name, or --overwrite.")
    if not output.absolute().parent.is_dir():
        what = f"The folder of the report {output} does not exist."
        raise OutputError(what, "Create it first.")


def write_report(
    corrected: Location, output: Path, label: str | None, seconds: Mapping[str, float] | None = None
) -> None:
    """Write the report of a store, and say where it is and what in it asks for attention."""
    uns, obs, _ = read_record(corrected, [label] if label else [])
    record = Recorded(checked(uns, str(corrected)), obs)
    html, attention = report_of(record, corrected.pure.name, label=label, seconds=seconds)
    partial = output.with_name(f"{output.name}.partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(output)
    for line in attention:
        click.echo(f"mnndask: look: {line}", err=True)
    click.echo(f"report: {output}")
