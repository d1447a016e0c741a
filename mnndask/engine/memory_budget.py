"""Memory that each part of the work may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from numbers import Real

import numpy as np
from dask.utils import format_bytes, parse_bytes

from mnndask._blocks import BLOCK_BYTES, CHUNK_BYTES
from mnndask._resources import FreeMemory, free_memory
from mnndask._threads import effective_n_jobs
from mnndask.engine.cluster import active_workers
from mnndask.errors import InputError, warn

COPIES_OF_CHUNK = 6  # read, dense, corrected, joined with its neighbours, compressed, written
TILE_COPIES = 6  # of a tile's cells: two tiles, their vectors, results
PAIR_BYTES = 24  # per pair of cells: projection, weight and distance
FEWEST_TILE_ROWS = 16  # with fewer, a fit on disk would take too long
BESIDES = 2**27  # bytes that libraries loaded later take, and measures of the fit, whatever its size
GIVEN = "as given"


def parse_memory(limit: int | float | str | None) -> int | None:
    """Convert a memory limit to a number of bytes.

    Raises
    ------
    InputError
        If it is neither a number of bytes nor a string such as ``"2GB"``.
    """
    if limit is None:
        return None
    try:
        # parse_bytes reads a string without digits as one of its unit, or as one byte.
        has_digits = isinstance(limit, str) and any(c.isdigit() for c in limit)
        n = int(parse_bytes(limit) if has_digits else limit if isinstance(limit, Real) else 0)
    except (ValueError, OverflowError):
        n = 0
    if not 0 < n < 2**63 or isinstance(limit, bool | np.bool_):
        what = f"memory_limit is {limit!r}."
        raise InputError(what, "Give a number of bytes, a string such as '2GB', or None for all free memory.")
    return n


def warn_if_not_there(limit: int, free: FreeMemory) -> None:
    """Warn of a memory limit, given by the user, above the memory that is free for this process."""
    if limit > free.size and active_workers() is None:
        there_is = f"{in_words(free.size)} ({free.limited_by})"
        what = f"memory_limit of {in_words(limit)} is more than there is: {there_is}."
        warn(what, "Leave it out to use what there is, or give less: the process may be killed otherwise.")


@dataclass(frozen=True)
class Budget:
    """Memory that the work may take in addition to what the process already uses.

    Half is for matrices that stay in memory, half for temporaries of the workers.

    Parameters
    ----------
    limit
        Total number of bytes.
    n_workers
        Number of threads that share it.
    source
        What limits it, in words.
    """

    limit: int
    n_workers: int
    source: str = field(default=GIVEN, compare=False)

    @classmethod
    def of(
        cls, memory_limit: int | float | str | None, n_jobs: int | None, free: FreeMemory | None = None
    ) -> Budget:
        """Return the budget for a user's memory limit; None stands for the memory that is free now.

        Of that, a little is left for what takes memory whatever the limit.

        On a cluster the limit applies to each worker, and is at most the memory of a worker.
        """
        limit, workers = parse_memory(memory_limit), active_workers()
        limits = [] if limit is None else [(limit, GIVEN)]
        if workers is not None and workers.memory is not None:
            limits.append((workers.memory, "of a worker"))
        if not limits:
            free = free or free_memory()
            limits.append((free.size - min(BESIDES, free.size // 2), free.limited_by))
        size, source = min(limits)
        return cls(size, effective_n_jobs(n_jobs) if workers is None else workers.threads, source)

    def __str__(self) -> str:
        return f"{in_words(self.limit)} ({self.source})"

    @property
    def in_words(self) -> str:
        """The limit, as errors that it causes name it."""
        limit = in_words(self.limit)
        return f"memory_limit of {limit}" if self.source == GIVEN else f"The memory at hand, {self},"

    @property
    def resident(self) -> int:
        """Bytes of matrices that stay in memory."""
        return self.limit // 2

    @property
    def per_worker(self) -> int:
        """Bytes per worker: temporaries and results of one block.

        In a fit on disk no task's output is larger, however many cells there are.
        """
        return max(1, self.limit // 2 // self.n_workers)

    @property
    def block_bytes(self) -> int:
        """Bytes of the temporaries of one block of rows."""
        return min(BLOCK_BYTES, self.per_worker // 2)

    @property
    def distance_bytes(self) -> int:
        """Bytes of distances that are kept for later use."""
        return self.resident // 4

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one dense chunk of whole cells."""
        return min(CHUNK_BYTES, self.per_worker // COPIES_OF_CHUNK)

    def least_for_chunk(self, chunk_bytes: int) -> int:
        """Return the smallest limit that allows chunks of this size."""
        return chunk_bytes * COPIES_OF_CHUNK * self.n_workers * 2

    def tile_rows(self, n_genes: int, itemsize: int) -> int:
        """Return how many rows two tiles may have each so that a worker has memory for their pairs too."""
        of_cells = self.per_worker / 2 / (TILE_COPIES * n_genes * itemsize)
        of_pairs = sqrt(self.per_worker / 2 / PAIR_BYTES)
        return max(1, int(min(of_cells, of_pairs, MOST_TILE_ROWS)))

    def least_for_fit(self, n_genes: int, itemsize: int) -> int:
        """Return the smallest limit that allows a fit on disk, with tiles of the fewest cells."""
        rows = FEWEST_TILE_ROWS
        per_worker = 2 * max(rows * TILE_COPIES * n_genes * itemsize, rows**2 * PAIR_BYTES)
        return 2 * self.n_workers * per_worker


MOST_TILE_ROWS = 4096


def in_words(n: int) -> str:
    """Format a number of bytes with its unit."""
    return format_bytes(n)


def at_least(n: int) -> str:
    """Format a number of bytes, rounded up: a limit copied from a message must suffice."""
    return next(words for words in map(format_bytes, (n, n + n // 90 + 1)) if parse_bytes(words) >= n)
