"""Parts of a report on how batches merged, and on the conditions that they contain."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from mnndask.diagnostics import html as markup
from mnndask.diagnostics.protected import condition_effects
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.io.record import Record
from mnndask.pl.report_terms import CONDITIONS_MEAN, OF_CONDITIONS


def conditions(cells: RecordedCells, label: str | None) -> str:
    """Return the section on what is left of differences between conditions; empty if there are none."""
    column = cells.record.parameters.get("protect")
    if column is None or column not in cells.obs:
        return ""
    found = condition_effects(cells, str(column), label)
    if found is None:
        return ""
    table = markup.html_table(found, OF_CONDITIONS)
    return markup.section(f"Effect of {column} within batches", table, markup.definitions(CONDITIONS_MEAN))


def order_of_merges(record: Record) -> str:
    """Return the order of merges as nested lists, where batches that are merged merge with others."""
    trees = json.loads(record.order or "[]")
    of_groups = trees if isinstance(trees, dict) else {"": trees}
    if not isinstance(trees, dict) and all(isinstance(part, str) for part in trees):
        return ""  # one after the other, as in the table
    words = "Order of merges: the first of a list is its reference, into which the others merge in turn."
    drawn = "".join(f"<li>{markup.text(name)}{_branch(tree)}</li>" for name, tree in of_groups.items())
    return f"<p>{markup.text(words)}</p><ul>{drawn}</ul>"


def _branch(tree: Any) -> str:
    """Nested lists in HTML; runs of single batches are one line."""
    if isinstance(tree, str):
        return f"<ul><li>{markup.text(tree)}</li></ul>"
    lines: list[str] = []
    for is_batch, parts in groupby(tree, key=lambda part: isinstance(part, str)):
        if is_batch:
            lines.append(f"<li>{markup.text(', '.join(map(str, parts)))}</li>")
        else:
            lines.extend(f"<li>{_branch(part)}</li>" for part in parts)
    return f"<ul>{''.join(lines)}</ul>"
