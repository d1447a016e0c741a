"""Pieces of HTML. All text goes through :func:`text`, so that no name can be taken for markup."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd


def text(value: Any) -> str:
    """A value as it is to be read: numbers short, text escaped."""
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
        return escape(shown if n <= 5 else f"{shown}, … ({n:,} in all)")
    return escape(str(value))


def table(rows: pd.DataFrame, columns: Mapping[str, str], index: str | None = None, percent: str = "") -> str:
    """A table that scrolls within the page.

    Parameters
    ----------
    rows
        Values.
    columns
        Headings of the columns to show.
    index
        Heading of the index; None to leave it out.
    percent
        Names of columns that are shares, separated by spaces.
    """
    shares = set(percent.split())
    heads = [*([index] if index is not None else []), *columns.values()]
    lines = ["".join(f'<th scope="col">{escape(head)}</th>' for head in heads)]
    for name, row in zip(rows.index, rows[list(columns)].to_dict("records"), strict=True):
        cells = [f'<th scope="row">{text(str(name))}</th>'] if index is not None else []
        for column in columns:
            value = row[column]
            number = isinstance(value, int | float | np.number)
            shown = f"{100 * value:.3g} %" if column in shares and not pd.isna(value) else text(value)
            cells.append(f'<td class="number">{shown}</td>' if number else f"<td>{shown}</td>")
        lines.append("".join(cells))
    head, *body = (f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'


def pairs(values: Mapping[str, Any]) -> str:
    """A table of names and their values."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{text(value)}</td></tr>'
        for name, value in values.items()
    )
    return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'
