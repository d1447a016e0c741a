"""Plan a fit: in memory or on disk, depending on the sizes of the inputs and the memory limit."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from mnndask._threads import single_threaded_blas
from mnndask.core.arrays import Points
from mnndask.core.fit import REFERENCE_CELLS
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.refined_pairs import n_compared
from mnndask.core.variance import Lines, variance_factors
from mnndask.engine.batches import Batches
from mnndask.engine.memory_budget import Budget, at_least
from mnndask.errors import InputError

logger = logging.getLogger(__name__)
COPIES_OF_CELLS = 4  # as read, centred, in the reference, corrected
COPIES_WITHOUT_REFERENCE = 2  # as read, centred
COPIES_OF_REFINEMENT = 2  # at most: of a new batch moved and averaged, and of the reference averaged
SPARSE_SHARE = 0.2  # assumed share of a sparse matrix's values that are stored
PROBE_CELLS, PROBE_SECONDS = 512, 0.2
OVER_VARIANCE = 2.0  # time of a fit on disk over that of its variance adjustment: neighbours, reading tiles


@dataclass(frozen=True)
class Copies:
    """What merges keep in memory beside the cells.

    Parameters
    ----------
    bounded
        Whether they copy a subset of a reference that is too long.
    refined
        Whether they move the batch and average cells, to refine pairs.
    adjusted
        Whether the model needs cells of the references, to adjust variance.
    """

    bounded: bool
    refined: bool = False
    adjusted: bool = True

    def n_compared(self, n_new: int, n_ref: int) -> int:
        """Cells of the reference with which a merge compares a batch."""
        most = REFERENCE_CELLS if self.bounded else n_ref
        return min(n_ref, most, n_compared(n_new)) if self.refined else min(n_ref, most)

    def n_bytes(self, sides: Sequence[tuple[int, int]], n_cells: int, spaces: GeneSpaces) -> int:
        """Memory of the copies; `sides` are the lengths of what moves and of the reference in each merge."""
        n_dims = spaces.n_near if spaces.n_components is None else spaces.n_components
        copied = [n for n, n_ref in ((self.n_compared(*side), side[1]) for side in sides) if n < n_ref]
        total = max(copied, default=0)
        if self.adjusted and copied:  # the model's: a sample of a growing reference changes ever less
            total += min(n_cells, int(total * (1 + np.log(n_cells / total))))
        if self.refined:
            total += COPIES_OF_REFINEMENT * n_cells
        return total * n_dims * (1 if spaces.coincide else 2) * spaces.dtype.itemsize


@dataclass(frozen=True)
class Plan:
    """Where the matrices of a fit are stored.

    Parameters
    ----------
    tiled
        Whether the cells are on disk, with one tile at a time in memory.
    stored_rest
        Whether the vectors of genes not used for distances are on disk.
    tile
        Number of cells per tile.
    """

    tiled: bool
    stored_rest: bool
    tile: int

    @classmethod
    def of(
        cls,
        batches: Batches,
        n_used: Sequence[int],
        sides: Sequence[tuple[int, int]],
        spaces: GeneSpaces,
        budget: Budget,
        copies: Copies,
    ) -> Plan:
        """Choose a plan; log an estimate of the time if the cells are on disk.

        `sides` are the numbers of cells that move and of the reference's, in each merge.

        Raises
        ------
        InputError
            If the budget is too small even for tiles of a few cells.
        """
        itemsize, n = spaces.dtype.itemsize, sum(n_used)
        needed = _cell_bytes(batches, n_used, spaces) + copies.n_bytes(sides, n, spaces)
        tiled = needed > budget.resident
        tile = budget.tile_rows(spaces.n_near, itemsize)
        if tiled:
            _check_tile(spaces, budget)
            sides = [(n_new, copies.n_compared(n_new, n_ref)) for n_new, n_ref in sides]
            _announce(sides, n, spaces, budget, sketched=n < sum(batches.n_cells))
        rest = n * len(spaces.rest) * itemsize
        return cls(tiled, rest > budget.resident // 2, tile)

    @property
    def in_memory(self) -> bool:
        """Whether all matrices are in memory."""
        return not (self.tiled or self.stored_rest)


def _cell_bytes(batches: Batches, n_used: Sequence[int], spaces: GeneSpaces) -> int:
    """Return the memory that all fitted cells would need: dense, and raw where they are yet to be read."""
    itemsize = spaces.dtype.itemsize
    n_spaces = 1 if spaces.coincide else 2
    columns = COPIES_OF_CELLS * spaces.n_near
    if spaces.n_components is not None:  # genes are dropped once there are components
        columns = COPIES_WITHOUT_REFERENCE * spaces.n_near + COPIES_OF_CELLS * spaces.n_components
    total = columns * n_spaces * sum(n_used) * itemsize
    for b, n in enumerate(n_used):
        source = batches.sources[batches.source_of(b)]
        if source.lazy:
            per_value = SPARSE_SHARE * (itemsize + 4) if sparse.issparse(source.X._meta) else itemsize
            total += int(n * spaces.n_genes * per_value)
    return total


def _check_tile(spaces: GeneSpaces, budget: Budget) -> None:
    least = budget.least_for_fit(spaces.n_near, spaces.dtype.itemsize)
    if least > budget.limit:
        what = f"{budget.in_words} is too small to fit on {spaces.n_near:,} genes."
        raise InputError(what, f"Give at least {at_least(least)}, or fewer threads (n_jobs).")


def _announce(
    sides: Sequence[tuple[int, int]], n: int, spaces: GeneSpaces, budget: Budget, *, sketched: bool
) -> None:
    """Log how long a fit on disk will take, from a measurement of its variance adjustment."""
    pairs = sum(n_new * (n_ref + n_new) for n_new, n_ref in sides)
    rows = min(PROBE_CELLS, budget.tile_rows(spaces.n_near, spaces.dtype.itemsize))
    seconds = OVER_VARIANCE * pairs * _seconds_per_pair(rows, spaces) / budget.n_workers
    logger.warning(
        "%s cells do not fit in %.3g GB together, so the fit works on disk and takes about %s: time "
        "grows with the square of their number. %s is faster: sketch_size=...",
        f"{n:,}",
        budget.limit / 1e9,
        f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min",
        "A smaller sketch" if sketched else "A sketch",
    )


def _seconds_per_pair(rows: int, spaces: GeneSpaces) -> float:
    """Measure the seconds that the variance adjustment takes per pair of cells on one thread."""
    rng = np.random.default_rng(0)
    X, V = rng.standard_normal((2, rows, spaces.n_near), dtype=np.float32).astype(spaces.dtype)
    cells = Points.of(X)
    tiled = Points(cells.X, cells.squared, -(-rows // 2))
    times: list[float] = []
    scale = float(np.sqrt(cells.squared.max()))
    with single_threaded_blas():
        while sum(times) < PROBE_SECONDS:
            start = time.perf_counter()
            variance_factors(Lines.of(cells, V, 1.0, scale), tiled, tiled)
            times.append(time.perf_counter() - start)
    return float(np.median(times)) / (2 * rows**2)
