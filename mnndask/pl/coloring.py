"""Colours of cells by batch, column of obs or gene, with scanpy's colours: ``uns["<column>_colors"]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from mnndask._typing import Rows
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.errors import InputError, InputKeyError
from mnndask.pl.drawing import check_matplotlib, style


@dataclass(frozen=True)
class Coloring:
    """What cells are coloured by.

    Parameters
    ----------
    name
        Its name.
    groups
        Group of each cell; None for numbers.
    styles
        Colour and marker of each group.
    numbers
        Number of each cell; None for groups.
    """

    name: str
    groups: Any = None
    styles: Sequence[dict[str, Any]] = ()
    numbers: NDArray[np.float64] | None = None


def coloring(data: AnnData | RecordedCells, cells: RecordedCells, color: str | None) -> Coloring:
    """Return the colours of cells by a column of obs or a gene; None for batches.

    Columns come before genes. Values of genes are those of ``raw`` if there is one, else of ``X``, as in
    scanpy; they are read for the cells shown.

    Raises
    ------
    InputError, InputKeyError
        If there is no such column or gene, the cells cannot be found, or colours in ``uns`` are invalid.
    """
    if color is None:
        return Coloring("batch", cells.batches, batch_styles(cells))
    if color not in cells.obs:
        return Coloring(color, numbers=_gene(data, cells, color))
    if cells.is_measure(color):
        return Coloring(color, numbers=cells.numbers(color))
    groups = cells.column(color)
    return Coloring(color, groups, _styles(cells, color, list(groups.categories)))


def batch_styles(cells: RecordedCells) -> list[dict[str, Any]]:
    """Return the colour and marker of each batch, in merge order: the same in every plot."""
    return _styles(cells, cells.batch_key, list(cells.batches.categories))


def _styles(cells: RecordedCells, key: str, names: list[str]) -> list[dict[str, Any]]:
    known = _stored(cells, key)
    if known:
        return [{"color": known.get(name, style(i)["color"]), "marker": "o"} for i, name in enumerate(names)]
    if key == cells.batch_key:
        order = {str(name): i for i, name in enumerate(cells.steps["batch"])}
        return [style(order.get(name, len(order) + i)) for i, name in enumerate(names)]
    return [style(i) for i in range(len(names))]


def _stored(cells: RecordedCells, key: str) -> dict[str, str]:
    """Return the colours of a column's categories in ``uns``; empty if there are none, or too few."""
    given = cells.uns.get(f"{key}_colors")
    column = cells.obs.get(key)
    if given is None or column is None or not isinstance(column.dtype, pd.CategoricalDtype):
        return {}
    colors, names = [str(color) for color in np.ravel(given)], [str(name) for name in column.cat.categories]
    if len(colors) < len(names):
        return {}
    check_matplotlib("Plots are drawn by matplotlib")
    from matplotlib.colors import is_color_like

    bad = [color for color in colors if not is_color_like(color)]
    if bad:
        what = f"uns[{key + '_colors'!r}] has {bad[0]!r}, which is no colour."
        raise InputError(what, "Give names of matplotlib's colours, or codes such as '#0072B2'.")
    return dict(zip(names, colors, strict=False))


def _gene(data: AnnData | RecordedCells, cells: RecordedCells, name: str) -> NDArray[np.float64]:
    """Return the values of a gene of the cells shown."""
    source = None if isinstance(data, RecordedCells) else data if data.raw is None else data.raw
    if source is None or name not in source.var_names:
        what = f"There is no column {name!r} in obs, and no gene of that name."
        raise InputKeyError(what, f"The columns are: {', '.join(map(str, cells.obs)) or 'none'}.")
    rows, column = cells.known_rows(), int(np.flatnonzero(source.var_names == name)[0])
    return _values(source.X, rows, column)


def _values(X: Any, rows: Rows, column: int) -> NDArray[np.float64]:
    """Read the values of one gene: the whole column, and of it the rows."""
    values = X[:, column]
    values = values.compute() if hasattr(values, "compute") else values
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    out: NDArray[np.float64] = np.ravel(values).astype(np.float64)[rows]
    return out
