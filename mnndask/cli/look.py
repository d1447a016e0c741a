"""``mnndask info`` and ``mnndask report``: summarise and inspect a correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mnndask.cli.terminal import say
from mnndask.cli.words import in_words_of_command
from mnndask.diagnostics.findings import findings
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.diagnostics.verdict import FEW_LINES, MOST_LINES, verdict_lines, verdicts
from mnndask.errors import OutputError, OutputExistsError
from mnndask.io.anndata_store import read_colors, read_record
from mnndask.io.layout import layout_of
from mnndask.io.record import SAMPLED, SUPPORT, Record, merged, never_moved
from mnndask.pl.drawing import check_matplotlib
from mnndask.pl.report import report as report_of
from mnndask.stores.location import Location


def print_summary(store: Location) -> None:
    """Print how a store is laid out, and a summary of the correction that it records, if there is one."""
    uns, _, shape = read_record(store)
    lines = [f"{store}: {shape[0]:,} cells x {shape[1]:,} genes, not corrected by mnndask"]
    if uns is not None:
        lines = summary(Record.from_uns(uns, str(store)), shape, str(store))
    layout = layout_of(store)
    for line in [*lines, *([] if layout is None else layout.lines())]:
        say(line)


def summary(record: Record, shape: tuple[int, int], name: str) -> list[str]:
    """Return the lines that summarise a correction."""
    return [
        f"{name}: {shape[0]:,} cells x {shape[1]:,} genes in {len(record.steps)} batches",
        f"corrected by mnndask {record.version}, reference {', '.join(never_moved(record.steps)[:3])}",
        *lines_of_verdicts(record.to_uns()),
        *_lines_of_values(record),
        *lines_of_steps(record.steps),
        *_lines_of_findings(record),
    ]


def _lines_of_values(record: Record) -> list[str]:
    """Say where the corrected values are, what they are, and what they are for."""
    about = record.meaning or {}
    return [
        f"corrected values in {about.get('where')}: {about.get('scale')}",
        *([f"and in {about['embedding']}"] if "embedding" in about else []),
        f"they are for {about.get('for')}",
        f"not for {in_words_of_command(about.get('not_for', ''))}",
    ]


def _lines_of_findings(record: Record) -> list[str]:
    if record.sample is None:
        return ["- the correction was not measured"]
    return [f"{'!' if finding.attention else '-'} {finding.text}" for finding in findings(record)]


def lines_of_verdicts(uns: Mapping[str, Any]) -> list[str]:
    """Return one line per batch: what became of it, and what to try next. None if nothing was measured."""
    if "sample" not in uns:
        return []
    return verdict_lines(uns["steps"], uns.get("mixing"), uns.get("parameters", {}), in_words_of_command)


def lines_of_steps(steps: pd.DataFrame) -> list[str]:
    """Return one line per batch that was merged into others; of many, of those with the fewest paired."""
    moved = merged(steps)
    some = moved
    if len(moved) > MOST_LINES:
        shares = (moved["n_paired_cells"] / moved["n_used"]).to_numpy()
        some = moved.iloc[sorted(shares.argsort(kind="stable")[:FEW_LINES])]
    lines = [
        f"{row.batch}: {row.n_pairs:,} pairs, {row.n_paired_cells:,} of {row.n_used:,} cells paired"
        + (f", support {row.support:.2f}" if "support" in steps else "")
        for row in some.itertuples()
    ]
    if len(some) == len(moved):
        return lines
    total = f"{moved['n_pairs'].sum():,} pairs in {len(moved):,} batches; those with the fewest paired cells:"
    return [total, *lines]


def check_report(output: Path, others: Sequence[Location], *, overwrite: bool) -> None:
    """Check that a report can be written, before the work: it has plots, a folder, and a name of its own.

    Raises
    ------
    OutputExistsError, OutputError
        If the file exists and `overwrite` is false, it is one of the `others`, or it cannot be written.
    InputError
        If matplotlib is not installed.
    """
    check_matplotlib("A report contains plots")
    if any(not path.is_url and path.path.absolute() == output.absolute() for path in others):
        what = f"The report {output} is an input or the output."
        raise OutputExistsError(what, "Give another name.")
    if output.exists() and not overwrite:
        what = f"The report {output} already exists."
        raise OutputExistsError(what, "Give another name, or --overwrite.")
    if not output.absolute().parent.is_dir():
        what = f"The folder of the report {output} does not exist."
        raise OutputError(what, "Create it first.")
    partial = _partial(output)
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        what = f"The report {output} cannot be written: {error.strerror or error}."
        raise OutputError(what, "Give a name in another folder.") from error


def _partial(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def write_report(
    corrected: Location, output: Path, label: str | None, seconds: Mapping[str, float] | None = None
) -> None:
    """Write the report of a store; print its path and what needs attention."""
    uns, _, shape = read_record(corrected)
    record = Record.from_uns(uns, str(corrected))
    shown = [*([label] if label else []), str(record.parameters.get("batch_key", "batch"))]
    protected = record.parameters.get("protect")
    optional = [SAMPLED, SUPPORT, shown[-1], *([] if protected in (None, *shown) else [str(protected)])]
    _, obs, _ = read_record(corrected, shown[:-1], optional=optional)
    cells = RecordedCells.found_in(obs, record, str(corrected), read_colors(corrected, shown))
    html, attention = report_of(cells, corrected.pure.name, label=label, n_genes=shape[1], seconds=seconds)
    partial = _partial(output)
    partial.write_text(html, encoding="utf-8")
    partial.replace(output)
    if seconds is None:  # a run has printed its verdicts
        found = verdicts(record.steps, record.mixing, record.parameters)
        attention = [one.line(in_words_of_command) for one in found if one.attention] + attention
    more = len(attention) - FEW_LINES if len(attention) > MOST_LINES else 0
    if more:
        attention = [*attention[:FEW_LINES], f"and {more:,} findings more: see the report"]
    for line in attention:
        say(f"mnndask: attention: {line}", err=True)
    say(f"report: {output}")
