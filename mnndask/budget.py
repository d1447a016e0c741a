"""How much memory each part of the work may take."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from numbers import Real

import numpy as np
import psutil
from dask.utils import format_bytes, parse_bytes

from mnndask.cluster import active_workers
from mnndask.errors import InputError
from mnndask.parallel import effective_n_jobs

CHUNK_BYTES = 32 * 2**20  # of one chunk of whole cells, dense: more gains nothing
BLOCK_BYTES = 64 * 2**20  # temporaries of one block of rows: likewise
COPIES_OF_CHUNK = 6  # read, dense, corrected, joined with its neighbours, compressed, written
TILE_COPIES = 6  # of a tile's cells: two tiles, their vectors, what comes of them
PAIR_BYTES = 24  # of a cell and another: projection, weight and distance
FEWEST_TILE_ROWS = 16  # fewer, and a fit on disk would not end


def parse_memory(limit: int | float | str | None) -> int | None:
    """Number of bytes that a memory limit means.

    Raises
    ------
    InputError
        If it is neither a number of bytes nor a string such as ``"2GB"``.
    """
    if limit is None:
        return None
    try:
        # What has no digits would be one of its unit, or one byte.
        named = isinstance(limit, str) and any(c.isdigit() for c in limit)
        n = int(parse_bytes(limit) if named else limit if isinstance(limit, Real) else 0)
    except (ValueError, OverflowError):
        n = 0
    if n <= 0 or isinstance(limit, bool | np.bool_):
        what = f"memory_limit is {limit!r}."
        raise InputError(what, "Give a number of bytes, a string such as '2GB', or None for what is free.")
    return n


@dataclass(frozen=True)
class Budget:
    """Memory that the work may take on top of what the process holds already.

    Half is for matrices that stay, half for what the workers hold at once.

    Parameters
    ----------
    limit
        Bytes in all.
    n_workers
        Threads that share it.
    """

    limit: int
    n_workers: int

    @classmethod
    def of(cls, memory_limit: int | float | str | None, n_jobs: int | None) -> Budget:
        """Limit as the user gives it; None for what is free now.

        On a cluster it is each worker's, and no more than a worker has.
        """
        limit, workers = parse_memory(memory_limit), active_workers()
        if workers is None:
            return cls(limit or int(psutil.virtual_memory().available), effective_n_jobs(n_jobs))
        limits = [n for n in (limit, workers.memory) if n] or [int(psutil.virtual_memory().available)]
        return cls(min(limits), workers.threads)

    @property
    def resident(self) -> int:
        """Bytes of matrices that stay in memory."""
        return self.limit // 2

    @property
    def per_worker(self) -> int:
        """Bytes that a worker may hold: all that it makes of a block, and what it hands on.

        In a fit on disk no task's output is larger, however many cells there are.
        """
        return max(1, self.limit // 2 // self.n_workers)

    @property
    def block_bytes(self) -> int:
        """Bytes of temporaries of one block of rows."""
        return min(BLOCK_BYTES, self.per_worker // 2)

    @property
    def distance_bytes(self) -> int:
        """Bytes of distances that are kept because they are needed again."""
        return self.resident // 4

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk of whole cells, dense."""
        return min(CHUNK_BYTES, self.per_worker // COPIES_OF_CHUNK)

    def least_for_chunk(self, chunk_bytes: int) -> int:
        """Limit that chunks of that size need."""
        return chunk_bytes * COPIES_OF_CHUNK * self.n_workers * 2

    def tile_rows(self, n_genes: int, itemsize: int) -> int:
        """Cells of each of two tiles that a worker can hold together with all that comes of their pairs."""
        of_cells = self.per_worker / 2 / (TILE_COPIES * n_genes * itemsize)
        of_pairs = sqrt(self.per_worker / 2 / PAIR_BYTES)
        return max(1, int(min(of_cells, of_pairs, MOST_TILE_ROWS)))

    def least_for_fit(self, n_genes: int, itemsize: int) -> int:
        """Limit that a fit on disk needs: tiles of the fewest cells."""
        rows = FEWEST_TILE_ROWS
        per_worker = 2 * max(rows * TILE_COPIES * n_genes * itemsize, rows**2 * PAIR_BYTES)
        return 2 * self.n_workers * per_worker


MOST_TILE_ROWS = 4096


def in_words(n: int) -> str:
    """Bytes as people write them."""
    return format_bytes(n)


def at_least(n: int) -> str:
    """The same, rounded up: a limit that is given as a message asks must do."""
    return next(words for words in map(format_bytes, (n, n + n // 90 + 1)) if parse_bytes(words) >= n)
