"""Versions of the chunks of a stored array when it was opened, for tasks that read some of them later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnndask.stores.file_versions import archive_version, changed_error, versions_now
from mnndask.stores.missing_chunks import chunk_grid, chunk_keys, stored_chunks

MOST_VERSIONS = 4096  # pickled ones: every task on a cluster carries them, 32 KiB at most


@dataclass(frozen=True)
class ChunkVersions:
    """Versions of the chunks (or shards) of a zarr array when it was opened.

    Parameters
    ----------
    versions
        Versions of the chunks in the order of the grid; where pickled, sums of those of consecutive chunks.
    n_each
        Number of chunks of each sum.
    n_chunks
        Number of chunks.
    archive
        Version of the archive that contains the array, instead of those of its chunks; otherwise 0.
    """

    versions: NDArray[np.uint64]
    n_each: int
    n_chunks: int
    archive: int

    @classmethod
    def of(cls, array: Any, files: Mapping[str, int]) -> ChunkVersions:
        """Collect the versions of an array's chunks from those of all files; absent chunks have version 0."""
        archive = archive_version(array.store)
        found = [] if archive else [files.get(key, 0) for key in chunk_keys(array)]
        return cls(np.array(found, np.uint64), 1, len(found), archive)

    def __reduce__(self) -> tuple[type[ChunkVersions], tuple[Any, ...]]:
        n = max(1, -(-len(self.versions) // MOST_VERSIONS))
        return type(self), (_sums(self.versions, n), self.n_each * n, self.n_chunks, self.archive)

    def version_of(self, number: int) -> int:
        """Version of a chunk, or what changes with it; 0 if unknown."""
        return self.archive or int(self.versions[number // self.n_each])

    def check(self, array: Any, slices: list[slice], label: str, *, removed: bool = True) -> None:
        """Check that the chunks of some slices, which were just read, are those that were opened.

        Chunks that were `removed` count as changed, unless an error that names them is at hand.

        Raises
        ------
        InputReadError
            If a chunk was replaced or changed.
        """
        if self.archive:
            if archive_version(array.store) not in {self.archive, 0}:  # it stays open if it is removed
                raise changed_error(label)
            return
        sums = np.unique(_chunks_in(array, slices) // self.n_each)
        numbers = (sums[:, None] * self.n_each + np.arange(self.n_each)).ravel()
        keys = chunk_keys(array, numbers[numbers < self.n_chunks])
        now = versions_now(array.store, keys, array.path, self.n_chunks)
        if now is None:
            return
        differ = _sums(now, self.n_each) != self.versions[sums]
        if not removed:
            differ &= _sums(now != 0, self.n_each) == _sums(np.ones(len(now), np.bool_), self.n_each)
        if differ.any():
            raise changed_error(label, keys[int(differ.argmax()) * self.n_each])


def _sums(values: NDArray[Any], n_each: int) -> NDArray[np.uint64]:
    """Sums of consecutive values modulo 2**64, of which a changed value changes one."""
    values = values.astype(np.uint64, copy=False)
    return np.add.reduceat(values, np.arange(0, len(values), n_each)) if len(values) else values


def _chunks_in(array: Any, slices: list[slice]) -> NDArray[np.intp]:
    """Numbers of the chunks that contain any of some slices."""
    sizes = stored_chunks(array)
    parts = [np.arange(s.start // n, -(-s.stop // n)) for s, n in zip(slices, sizes, strict=True)]
    return np.ravel_multi_index(np.meshgrid(*parts, indexing="ij"), chunk_grid(array)).ravel()
