"""The cells of each batch that a fit uses: those of `restrict`, all, or a sketch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnndask._blocks import row_blocks
from mnndask._threads import map_blocks
from mnndask._typing import Rows
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.geometric_sketch import cover
from mnndask.core.parameters import Parameters
from mnndask.engine.batches import Batches
from mnndask.engine.project_cells import coordinates
from mnndask.engine.run_options import RunOptions
from mnndask.errors import InputError

WORK = 5e11  # multiply-adds of a fit: about a minute on a laptop with two cores
AUTO_SIZE = 800, 5_000  # fitted cells of a batch, at least and at most, if not all
AUTO_TOTAL = 200_000  # fitted cells of all batches that decide between
RANDOM_SHARE = 0.5  # of a mixed sketch
BYTES_TO_COVER = 240  # per cell, during geometric sketching


@dataclass(frozen=True)
class Choice:
    """How many cells to fit on, before any are drawn.

    Parameters
    ----------
    restricted
        Rows of each batch that `restrict` names, ascending; None for all.
    n_used
        Number of fitted cells of each batch.
    size
        Largest number of fitted cells of a batch, if that leaves cells out; else None.
    bounded
        Whether merge steps may use a subset of a long reference.
    """

    restricted: list[Rows | None]
    n_used: list[int]
    size: int | None
    bounded: bool


def choose_cells(inputs: Batches, spaces: GeneSpaces, order: list[int], parameters: Parameters) -> Choice:
    """Choose between `restrict`, a sketch and all cells for each batch, and how many. Reads nothing.

    Parameters
    ----------
    inputs, spaces, order
        The batches, their genes, and the order in which they merge.
    parameters
        Parameters of the method.
    """
    n_cells = inputs.n_cells
    restricted = restricted_rows(parameters.restrict, n_cells, inputs.names)
    if parameters.restrict is not None:
        n_used = [n if rows is None else len(rows) for rows, n in zip(restricted, n_cells, strict=True)]
        return Choice(restricted, n_used, None, bounded=parameters.sketch_size is not None)
    size = sketch_size(parameters.sketch_size, [n_cells[b] for b in order], spaces.n_near)
    if size is None or max(n_cells) <= size:
        return Choice(restricted, n_cells, None, bounded=size is not None)
    return Choice(restricted, [min(n, size) for n in n_cells], size, bounded=True)


def draw_cells(
    inputs: Batches, spaces: GeneSpaces, chosen: Choice, parameters: Parameters, run: RunOptions
) -> list[Rows | None]:
    """Return the rows of each batch to fit on, ascending; None for all.

    Lazy data is read only for sketches that are not random: see
    :func:`mnndask.engine.project_cells.coordinates`.
    """
    rows = list(chosen.restricted)
    if chosen.size is not None:
        large = [b for b, n in enumerate(inputs.n_cells) if n > chosen.size]
        for b, own in zip(large, _draw(inputs, spaces, large, chosen.size, parameters, run), strict=True):
            rows[b] = own
    return rows


def sketch_size(requested: int | str | None, n_cells: Sequence[int], n_genes: int) -> int | None:
    """Return the largest number of cells of each batch to fit on, None for all.

    Parameters
    ----------
    requested
        The parameter: ``"auto"`` is all cells if that takes at most :data:`WORK`, else a share of
        :data:`AUTO_TOTAL`, within :data:`AUTO_SIZE`.
    n_cells
        Cells of each batch, in merge order.
    n_genes
        Number of genes used for distances.
    """
    if requested != "auto":
        return None if requested is None else int(requested)
    reference, work = n_cells[0], 0
    for n in n_cells[1:]:
        work += n * (reference + n) * n_genes
        reference += n
    if work <= WORK:
        return None
    least, most = AUTO_SIZE
    return max(least, min(most, AUTO_TOTAL // len(n_cells)))


def _draw(
    inputs: Batches,
    spaces: GeneSpaces,
    batches: list[int],
    size: int,
    parameters: Parameters,
    run: RunOptions,
) -> list[Rows]:
    """Draw a sketch of each batch.

    A sketch depends only on the seed and the batch, not on the batch's name, position or companions.
    """
    n_cells, method = [inputs.n_cells[b] for b in batches], parameters.sketch_method
    seeds = [[int(parameters.random_state), n] for n in n_cells]
    rngs = [np.random.default_rng([*seed, 1]) for seed in seeds]
    n_random = {"random": size, "geometric": 0}.get(method, int(RANDOM_SHARE * size))
    at_random = [rng.choice(n, n_random, replace=False) for rng, n in zip(rngs, n_cells, strict=True)]
    if n_random == size:
        return [np.sort(rows).astype(np.intp) for rows in at_random]
    points = coordinates(inputs, spaces, batches, [[*seed, 0] for seed in seeds], run)

    def sketch_of(batch: slice) -> Rows:
        X, rng = points[batch.start], rngs[batch.start]
        taken = np.zeros(len(X), bool)
        taken[at_random[batch.start]] = True
        taken[cover(X, size - n_random, rng, taken)] = True
        return np.flatnonzero(taken)

    at_once = max(1, run.budget.resident // (BYTES_TO_COVER * max(n_cells)))
    n_threads = min(at_once, run.n_threads)
    return map_blocks(sketch_of, row_blocks(len(batches), 1), n_threads)


def restricted_rows(
    restrict: Sequence[Any] | None, n_cells: list[int], names: list[str]
) -> list[Rows | None]:
    """Return the rows of each batch to use, ascending; None for all."""
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
        missing = int(pd.isna(pd.Series(wanted)).sum()) if np.ndim(wanted) == 1 else 0
        if missing:
            what = f"restrict of batch {name!r} has {missing} missing value(s)."
            raise InputError(what, "Fill them in to say which cells to use, e.g. mask.fillna(False).")
        rows = _as_numpy(wanted)
        problem = _problem(rows, n)
        if problem:
            what = f"restrict of batch {name!r} {problem}."
            raise InputError(what, "Give the rows to use, each once, or None for all.")
        out.append(np.flatnonzero(rows) if rows.dtype == bool else np.sort(rows).astype(np.intp))
    return out


def _as_numpy(wanted: Any) -> NDArray[Any]:
    """Convert rows or a mask to a NumPy array, from pandas' nullable types too."""
    dtype = getattr(wanted, "dtype", None)
    return np.asarray(wanted, getattr(dtype, "numpy_dtype", None))


def _problem(rows: NDArray[Any], n: int) -> str | None:
    if rows.size == 0 or (rows.dtype == bool and not rows.any()):
        return "is empty"
    if rows.ndim != 1 or rows.dtype.kind not in "iub":
        return "is not a one-dimensional array of row numbers"
    if rows.dtype == bool:
        return None if len(rows) == n else f"is a mask of {len(rows)} cells, not {n}"
    if rows.min() < 0 or rows.max() >= n:
        return f"names rows outside 0 to {n - 1}"
    return "names rows twice" if len(np.unique(rows)) < len(rows) else None
