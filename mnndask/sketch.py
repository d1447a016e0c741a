"""Which cells stand for a batch, and reading them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnndask.errors import InputError
from mnndask.inputs import Inputs
from mnndask.kernels.neighbors import Rows
from mnndask.lazy import gather
from mnndask.model import Block
from mnndask.reference import Sketch
from mnndask.sources import check_finite


def draw_sketches(inputs: Inputs, restrict: Sequence[Any] | None, n_jobs: int | None) -> list[Sketch]:
    """Cells that stand for each batch: all, or those of `restrict`; lazy ones are read here, in one pass."""
    n_cells = inputs.n_cells
    chosen = restricted_rows(restrict, n_cells, inputs.names)
    wanted = []
    for b, rows in enumerate(chosen):
        source, own = inputs.rows(b)
        wanted.append((source, rows if own is None else own if rows is None else own[rows]))
    sketches = []
    parts = _read(inputs, wanted, n_jobs)
    for (_, at), rows, X, n, name in zip(wanted, chosen, parts, n_cells, inputs.names, strict=True):
        check_finite(X, f"batch {name!r}", rows=at)
        sketches.append(Sketch(X, np.arange(n) if rows is None else rows, n))
    return sketches


def _read(inputs: Inputs, wanted: list[tuple[int, Rows | None]], n_jobs: int | None) -> list[Block]:
    """Rows of each batch from its source; each chunk of a lazy source is read once, for all its batches."""
    lazy = [s for s, source in enumerate(inputs.sources) if source.lazy]
    needs: dict[int, Rows | None] = {}
    for s in lazy:
        of_batches = [rows for source, rows in wanted if source == s]
        known = [rows for rows in of_batches if rows is not None]
        needs[s] = np.unique(np.concatenate(known)) if len(known) == len(of_batches) else None
    read = gather([inputs.sources[s].X for s in lazy], [needs[s] for s in lazy], n_jobs)
    held = dict(zip(lazy, read, strict=True))
    parts = []
    for s, rows in wanted:
        X: Block = held.get(s, inputs.sources[s].X)
        need = needs.get(s)
        if rows is not None and need is not None:
            rows = None if len(need) == len(rows) else np.searchsorted(need, rows)
        parts.append(X if rows is None else X[rows])
    return parts


def restricted_rows(
    restrict: Sequence[Any] | None, n_cells: list[int], names: list[str]
) -> list[Rows | None]:
    """Rows to use of each batch, ascending."""
    if restrict is None:
        return [None] * len(n_cells)
    if not hasattr(restrict, "__len__"):
        what = f"restrict is {restrict!r}."
        raise InputError(what, "Give one array of row numbers (or None) per batch, in input order.")
    if len(restrict) != len(n_cells):
        what = f"restrict has {len(restrict)} entries for {len(n_cells)} batches."
        raise InputError(what, "Give one array of row numbers (or None) per batch, in input order.")
    out: list[Rows | None] = []
    for wanted, n, name in zip(restrict, n_cells, names, strict=True):
        if wanted is None:
            out.append(None)
            continue
        rows = np.asarray(wanted)
        problem = _problem(rows, n)
        if problem:
            what = f"restrict of batch {name!r} {problem}."
            raise InputError(what, "Give the rows to use, each once, or None for all.")
        out.append(np.flatnonzero(rows) if rows.dtype == bool else np.sort(rows).astype(np.intp))
    return out


def _problem(rows: NDArray[Any], n: int) -> str | None:
    if rows.size == 0 or (rows.dtype == bool and not rows.any()):
        return "is empty"
    if rows.ndim != 1 or rows.dtype.kind not in "iub":
        return "is no flat array of row numbers"
    if rows.dtype == bool:
        return None if len(rows) == n else f"is a mask of {len(rows)} cells, not {n}"
    if rows.min() < 0 or rows.max() >= n:
        return f"names rows outside 0 to {n - 1}"
    return "names rows twice" if len(np.unique(rows)) < len(rows) else None
