"""Which cells stand for a batch, and reading them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnndask.budget import Budget
from mnndask.coordinates import coordinates
from mnndask.errors import InputError
from mnndask.inputs import Inputs
from mnndask.kernels.covering import cover
from mnndask.kernels.neighbors import Rows
from mnndask.lazy import gather, in_row_chunks
from mnndask.parallel import effective_n_jobs, map_blocks, row_blocks
from mnndask.progress import stage
from mnndask.reference import HeldSketch, Sketch
from mnndask.runstore import RunStore
from mnndask.sources import check_finite
from mnndask.spaces import Block, GeneSpaces
from mnndask.spill import Spiller

WORK = 5e11  # multiply-adds of a fit; about a minute on a laptop of two cores
AUTO_SIZE = 5_000
RANDOM_SHARE = 0.5  # of a mixed sketch
BYTES_TO_COVER = 240  # a cell, while a batch is covered


@dataclass(frozen=True)
class Choice:
    """Which cells to fit on, before any is drawn.

    Parameters
    ----------
    restricted
        Rows of each batch that `restrict` names, ascending; None for all.
    n_used
        How many cells of each batch.
    size
        Most cells of a batch, where that leaves cells out; else None.
    bounded
        Whether merge steps may use a part of a long reference.
    """

    restricted: list[Rows | None]
    n_used: list[int]
    size: int | None
    bounded: bool


def choose_cells(inputs: Inputs, spaces: GeneSpaces, order: list[int], given: Mapping[str, Any]) -> Choice:
    """Whether cells of `restrict`, a sketch or all stand for each batch, and how many; reads nothing.

    Parameters
    ----------
    inputs, spaces, order
        What came in, its genes, and the order in which batches merge.
    given
        The parameters of :class:`mnndask.MNNCorrector`, checked.
    """
    n_cells = inputs.n_cells
    restricted = restricted_rows(given["restrict"], n_cells, inputs.names)
    if given["restrict"] is not None:
        n_used = [n if rows is None else len(rows) for rows, n in zip(restricted, n_cells, strict=True)]
        return Choice(restricted, n_used, None, bounded=given["sketch_size"] is not None)
    size = sketch_size(given["sketch_size"], [n_cells[b] for b in order], spaces.n_near)
    if size is None or max(n_cells) <= size:
        return Choice(restricted, n_cells, None, bounded=size is not None)
    return Choice(restricted, [min(n, size) for n in n_cells], size, bounded=True)


def draw_cells(
    inputs: Inputs, spaces: GeneSpaces, chosen: Choice, given: Mapping[str, Any], budget: Budget
) -> list[Rows | None]:
    """Rows of each batch to fit on, ascending; None for all.

    Only a sketch that is not random reads lazy data: see :func:`mnndask.coordinates.coordinates`.
    """
    rows = list(chosen.restricted)
    if chosen.size is not None:
        large = [b for b, n in enumerate(inputs.n_cells) if n > chosen.size]
        for b, own in zip(large, _draw(inputs, spaces, large, chosen.size, given, budget), strict=True):
            rows[b] = own
    return rows


def sketch_size(asked: int | str | None, n_cells: Sequence[int], n_genes: int) -> int | None:
    """Most cells of each batch to fit on, None for all.

    Parameters
    ----------
    asked
        The parameter: ``"auto"`` is all cells while that is at most :data:`WORK`, else :data:`AUTO_SIZE`.
    n_cells
        Cells of each batch, in merge order.
    n_genes
        Number of genes used for distances.
    """
    if asked != "auto":
        return None if asked is None else int(asked)
    reference, work = n_cells[0], 0
    for n in n_cells[1:]:
        work += n * (reference + n) * n_genes
        reference += n
    return None if work <= WORK else AUTO_SIZE


def _draw(
    inputs: Inputs,
    spaces: GeneSpaces,
    batches: list[int],
    size: int,
    given: Mapping[str, Any],
    budget: Budget,
) -> list[Rows]:
    """Draw a sketch of each batch.

    It depends on the seed and on the batch alone: not on its name, its place or the other batches.
    """
    n_cells, method = [inputs.n_cells[b] for b in batches], given["sketch_method"]
    seeds = [[int(given["random_state"]), n] for n in n_cells]
    rngs = [np.random.default_rng([*seed, 1]) for seed in seeds]
    n_random = {"random": size, "geometric": 0}.get(method, int(RANDOM_SHARE * size))
    at_random = [rng.choice(n, n_random, replace=False) for rng, n in zip(rngs, n_cells, strict=True)]
    if n_random == size:
        return [np.sort(rows).astype(np.intp) for rows in at_random]
    points = coordinates(inputs, spaces, batches, [[*seed, 0] for seed in seeds], given["n_jobs"])

    def of_batch(one: slice) -> Rows:
        X, rng = points[one.start], rngs[one.start]
        taken = np.zeros(len(X), bool)
        taken[at_random[one.start]] = True
        taken[cover(X, size - n_random, rng, taken)] = True
        return np.flatnonzero(taken)

    at_once = max(1, budget.resident // (BYTES_TO_COVER * max(n_cells)))
    n_threads = min(at_once, effective_n_jobs(given["n_jobs"]))
    return map_blocks(of_batch, row_blocks(len(batches), 1), n_threads)


def read_sketches(
    inputs: Inputs,
    chosen: Sequence[Rows | None],
    spaces: GeneSpaces,
    store: RunStore | None,
    n_jobs: int | None,
) -> list[Sketch]:
    """Read the chosen cells of each batch: lazy ones in one pass, and onto disk if given a store."""
    wanted = []
    for b, rows in enumerate(chosen):
        source, own = inputs.rows(b)
        wanted.append((source, rows if own is None else own if rows is None else own[rows]))
    batch_rows = [
        np.arange(n) if rows is None else rows for rows, n in zip(chosen, inputs.n_cells, strict=True)
    ]
    title = "reading cells" if all(rows is None for rows in chosen) else "reading sketch"
    if store is not None and inputs.lazy:
        # Some may be in memory among others that are not.
        arrays = [s.X if s.lazy else in_row_chunks(s.X, store.tile or 1) for s in inputs.sources]
        spiller = Spiller(store, spaces)
        with stage(title, sum(map(len, batch_rows))):
            return list(spiller.sketches(arrays, wanted, batch_rows, inputs.n_cells, inputs.names, n_jobs))
    sketches: list[Sketch] = []
    lazy = [inputs.sources[source].lazy for source, _ in wanted]
    with stage(title, sum(len(rows) for rows, read in zip(batch_rows, lazy, strict=True) if read)):
        parts = _read(inputs, wanted, n_jobs)
    for (_, at), rows, X, n, name in zip(
        wanted, batch_rows, parts, inputs.n_cells, inputs.names, strict=True
    ):
        check_finite(X, f"batch {name!r}", rows=at)
        sketches.append(HeldSketch(X, rows, n))
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
        missing = int(pd.isna(pd.Series(wanted)).sum()) if np.ndim(wanted) == 1 else 0
        if missing:
            what = f"restrict of batch {name!r} has {missing} missing value(s)."
            raise InputError(what, "Say which cells to use: fill them in, e.g. mask.fillna(False).")
        rows = _plain(wanted)
        problem = _problem(rows, n)
        if problem:
            what = f"restrict of batch {name!r} {problem}."
            raise InputError(what, "Give the rows to use, each once, or None for all.")
        out.append(np.flatnonzero(rows) if rows.dtype == bool else np.sort(rows).astype(np.intp))
    return out


def _plain(wanted: Any) -> NDArray[Any]:
    """Rows or a mask as NumPy's own type, also where pandas can hold missing ones."""
    dtype = getattr(wanted, "dtype", None)
    return np.asarray(wanted, getattr(dtype, "numpy_dtype", None))


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
