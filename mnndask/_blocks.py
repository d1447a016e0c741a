"""Blocks of rows: how many rows at once, and where each block begins."""

from __future__ import annotations

CHUNK_BYTES = 32 * 2**20  # of a dense chunk of whole cells; larger ones are no faster
BLOCK_BYTES = 64 * 2**20  # of the temporaries of a block of rows; likewise
FEWEST_ROWS = 64  # of a block
GENES_PER_BLOCK = 2048  # genes that are worked on at once
CACHED_VALUES = 2**17  # that fit into the processor's cache


def rows_per_chunk(n_genes: int, itemsize: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Number of rows of a chunk of about that size."""
    return max(1, chunk_bytes // max(1, n_genes * itemsize))


def block_rows(columns: int, itemsize: int, n_bytes: int) -> int:
    """Number of rows of a block whose temporaries, of `columns` columns in all, fit into so many bytes."""
    return max(FEWEST_ROWS, n_bytes // max(1, columns * itemsize))


def row_blocks(n_rows: int, rows: int | None) -> list[slice]:
    """Cut ``range(n_rows)`` into slices of at most `rows`; into one slice for None."""
    step = rows or max(1, n_rows)
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def cached_blocks(n_rows: int, n_columns: int) -> list[slice]:
    """Blocks of rows that stay in the processor's cache from one operation to the next."""
    return row_blocks(n_rows, max(4, CACHED_VALUES // max(1, n_columns) // 4 * 4))
