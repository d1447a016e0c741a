"""``mnndask info`` and ``mnndask report``: summarise and inspect a correction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import pandas as pd

from mnndask.cli.terminal import say
from mnndask.cli.types import StoreLocation
from mnndask.diagnostics.findings import findings
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.errors import OutputError, OutputExistsError
from mnndask.io.anndata_store import read_record
from mnndask.io.record import Record
from mnndask.pl.report import report as report_of
from mnndask.stores.location import Location


@click.command(short_help="Summarise a correction.")
@click.argument("corrected", type=StoreLocation())
def info(corrected: Location) -> None:
    """Print a summary of the correction recorded in CORRECTED (.zarr or .h5ad).

    The matrix is not read.
    """
    uns, _, shape = read_record(corrected)
    for line in summary(Record.from_uns(uns, str(corrected)), shape, str(corrected)):
        say(line)


def summary(record: Record, shape: tuple[int, int], name: str) -> list[str]:
    """Return the lines that summarise a correction."""
    return [
        f"{name}: {shape[0]:,} cells x {shape[1]:,} genes in {len(record.steps)} batches",
        f"corrected by mnndask {record.version}, reference {record.steps['batch'].iloc[0]}",
        *lines_of_steps(record.steps),
        *(f"{'!' if finding.attention else '-'} {finding.text}" for finding in findings(record)),
    ]


def lines_of_steps(steps: pd.DataFrame) -> list[str]:
    """Return one line per merge step."""
    return [
        f"{row.batch}: {row.n_pairs:,} pairs, {row.n_paired_cells:,} of {row.n_used:,} cells paired"
        for row in steps.iloc[1:].itertuples()
    ]


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
    check_report(output, overwrite=overwrite)
    write_report(corrected, output, label)


def check_report(output: Path, *, overwrite: bool) -> None:
    """Check that a report can be written: its folder exists, and its file does not.

    Raises
    ------
    OutputExistsError, OutputError
        If the file exists and `overwrite` is false; if the folder does not exist.
    """
    if output.exists() and not overwrite:
        what = f"The report {output} already exists."
        raise OutputExistsError(what, "Give another name, or --overwrite.")
    if not output.absolute().parent.is_dir():
        what = f"The folder of the report {output} does not exist."
        raise OutputError(what, "Create it first.")


def write_report(
    corrected: Location, output: Path, label: str | None, seconds: Mapping[str, float] | None = None
) -> None:
    """Write the report of a store; print its path and the findings that need attention."""
    uns, obs, _ = read_record(corrected, [label] if label else [])
    cells = RecordedCells(Record.from_uns(uns, str(corrected)), obs)
    html, attention = report_of(cells, corrected.pure.name, label=label, seconds=seconds)
    partial = output.with_name(f"{output.name}.partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(output)
    for line in attention:
        say(f"mnndask: attention: {line}", err=True)
    say(f"report: {output}")
