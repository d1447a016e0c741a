"""Describe a fitted correction in HTML. All text is escaped, so that names cannot act as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from mnndask._library_state import exclusive
from mnndask._text import printable

MOST_ROWS = 40  # longer tables are shown on demand


@exclusive()
def merge_table(steps: pd.DataFrame, measures: Sequence[Mapping[str, float] | None] | None) -> str:
    """Return a table of the merge steps, with measures, if any, of the batches that moved."""
    columns = {"batch": "batch", "n_cells": "cells", "n_used": "cells used", "n_pairs": "pairs"}
    if measures is not None:
        values = [own or {} for own in measures]
        steps = steps.join(pd.DataFrame(values, dtype=float).set_axis(steps.index))
        columns |= {
            "paired": "cells with a pair",
            "length_median": "correction length, median",
            "lost_variance": "variance lost",
        }
    return f"<p>Merged in this order:</p>{html_table(steps, columns, percent='paired lost_variance')}"


def text(value: Any, *, percent: bool = False) -> str:
    """Format a value as HTML: numbers rounded, text escaped."""
    if percent and not pd.isna(value):
        return f"{100 * value:.3g} %"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        number = float(value)
        return "–" if np.isnan(number) else f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
    if isinstance(value, np.ndarray | list | tuple):
        values = list(value)
        n, shown = len(values), ", ".join(map(str, values[:5]))
        return _escaped(shown if n <= 5 else f"{shown}, … ({n:,} in all)")
    return _escaped(value)


def section(title: str, *parts: str) -> str:
    """Return a section of the page; the parts are HTML."""
    return f"<section><h2>{text(title)}</h2>{''.join(parts)}</section>"


def _escaped(value: object) -> str:
    return escape(printable(value))


@exclusive()
def html_table(
    rows: pd.DataFrame, columns: Mapping[str, str], index: str | None = None, percent: str = ""
) -> str:
    """Return a table that scrolls within the page.

    Parameters
    ----------
    rows
        Values to show.
    columns
        Names of the columns to show, and their headings.
    index
        Heading of the index; None to omit the index.
    percent
        Names of columns to show as percentages, separated by spaces.
    """
    shares = set(percent.split())
    shown = {name: [text(v, percent=name in shares) for v in rows[name]] for name in columns}
    table = pd.DataFrame(shown, index=[text(str(name)) for name in rows.index])
    table = table.set_axis([_escaped(heading) for heading in columns.values()], axis=1)
    named = index is not None
    page = _in_page(table.rename_axis(columns=_escaped(index)) if named else table, index=named)
    if len(table) <= MOST_ROWS:
        return page
    return f"<details><summary>{len(table):,} rows</summary>{page}</details>"


@exclusive()
def name_value_table(
    values: Mapping[str, Any], meanings: Mapping[str, str] | None = None, *, kind: str = ""
) -> str:
    """Return a table of names, what they mean if given, and their values; `kind` is a class for its style."""
    columns = {} if meanings is None else {"meaning": [text(meanings.get(name, "")) for name in values]}
    columns["value"] = [text(value) for value in values.values()]
    table = pd.DataFrame(columns, index=[_escaped(name) for name in values])
    return _in_page(table, header=False, classes=kind or None)


def definitions(terms: Mapping[str, str]) -> str:
    """Return a list of terms and what they mean, to be read beside a table."""
    return (
        f"<dl>{''.join(f'<dt>{text(term)}</dt><dd>{text(says)}</dd>' for term, says in terms.items())}</dl>"
    )


def _in_page(table: pd.DataFrame, **options: Any) -> str:
    """Return a table in a region that scrolls, also by keyboard."""
    with exclusive() as changes:
        changes.enter_context(pd.option_context("display.max_colwidth", None))  # it would shorten text
        html = table.to_html(escape=False, **options)
    html = html.replace(' border="1"', "", 1)  # of former versions of HTML
    return f'<div class="scroll" tabindex="0" role="region" aria-label="table">{html}</div>'
