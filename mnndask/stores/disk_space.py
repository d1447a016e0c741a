"""Space on disks: what is free in a folder, what a store takes, and how well values compress."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from mnndask.stores.file_versions import local_files

LEVEL = -1  # of Zstandard: compresses zeros as well as the default; incompressible data take half the time
COMPRESSOR = ZstdCodec(level=LEVEL, checksum=True)  # any reader then notices damage
IN_MEMORY = ("tmpfs", "ramfs")  # types of file systems


@dataclass(frozen=True)
class Space:
    """Space for an output on this machine.

    Parameters
    ----------
    folder
        Folder in which it is written.
    free
        Bytes that are free for it. Quotas are not known.
    written
        Bytes of its matrices that a stopped run has written, which are continued.
    """

    folder: Path
    free: int
    written: int = 0

    @classmethod
    def of(cls, path: Path, *continued: str) -> Space:
        """Return the space for an output at a path.

        What is there makes way, unless the matrices of these names in it are continued.
        """
        folder = existing(path.parent)
        free, there = shutil.disk_usage(folder).free, sum(_size(path / name) for name in continued or ("",))
        return cls(folder, free, there) if continued else cls(folder, free + there)


def _size(folder: Path) -> int:
    return sum(status.st_size for _, status in local_files(folder)) if folder.is_dir() else 0


def existing(folder: Path) -> Path:
    """Return the nearest folder, this or above it, that exists."""
    real = Path(os.path.realpath(folder))
    return next((part for part in (real, *real.parents) if part.is_dir()), Path("/"))


def is_in_memory(folder: Path) -> bool:
    """Whether files in a folder take memory rather than space on a disk."""
    above = {str(part) for part in (folder, *folder.parents)}
    mounted = [part for part in psutil.disk_partitions(all=True) if part.mountpoint in above]
    return bool(mounted) and max(mounted, key=lambda part: len(part.mountpoint)).fstype in IN_MEMORY


def compressed_share(X: NDArray[np.generic]) -> float:
    """Part of their size that values take when they are written as a chunk of an output."""
    store = MemoryStore()
    array = zarr.create_array(store, shape=X.shape, dtype=X.dtype, chunks=X.shape, compressors=COMPRESSOR)
    array[:] = X
    return min(1.0, array.nbytes_stored() / X.nbytes)
