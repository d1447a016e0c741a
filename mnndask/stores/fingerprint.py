"""Fingerprints of inputs: whether any file of an input was replaced, changed, added or removed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from mnndask.stores.file_versions import changed_error, digest, local_files, version, version_in
from mnndask.stores.location import Location, reaching
from mnndask.stores.plain_http import HttpStore

METADATA = ("zarr.json", ".zmetadata", ".zgroup", ".zattrs")  # of a store's root


@dataclass(frozen=True)
class Fingerprint:
    """The files of an input at one moment, of which none is read.

    It covers names, sizes and times of all files below a local folder, also behind links to files and
    folders, but for hidden ones, which programs leave that only look at it (``.DS_Store``); names, sizes and
    tags (or times) of all objects below a URL; on a web server, which may list nothing, the contents of the
    metadata of the store's root. A file that is rewritten with other values, its old size and its old time is
    recognised by its inode, on local disks, until the process ends.

    Parameters
    ----------
    files
        One number for each file, sorted.
    inodes
        Their inodes, where these can be relied on; otherwise 0.
    """

    files: NDArray[np.uint64]
    inodes: NDArray[np.uint64]

    @classmethod
    def of(cls, location: Location) -> Fingerprint:
        """List the files of an input."""
        found = np.array([entry for _, *entry in _files(location)], np.uint64).reshape(-1, 2)
        found = found[np.argsort(found[:, 0], kind="stable")]
        return cls(found[:, 0], found[:, 1])

    @property
    def text(self) -> str:
        """The fingerprint without inodes, which may change when a disk is mounted again."""
        return hashlib.sha256(self.files.astype("<u8").tobytes()).hexdigest()

    def check(self, location: Location, label: str) -> None:
        """Check that no file of an input has changed.

        Raises
        ------
        InputReadError
            If any has; the message names one.
        """
        now = Fingerprint.of(location)
        if np.array_equal(now.files, self.files) and np.array_equal(now.inodes, self.inodes):
            return
        known = {*zip(self.files.tolist(), self.inodes.tolist(), strict=True)}
        others = (name for name, *entry in _files(location) if tuple(entry) not in known)
        raise changed_error(label, next(others, "files were removed"))


def _files(location: Location) -> Iterator[tuple[str, int, int]]:
    """Name of each file; a number that stands for its name, size and time (or tag); its inode."""
    with reaching(location):
        if not location.is_url:
            for name, status in local_files(location.path):
                if not _is_of_others(name):
                    yield name, digest(name, version(status)), _inode(status)
            return
        store = location.store(read_only=True)
        if isinstance(store, HttpStore):
            for name in METADATA:
                value = sync(store.get(name, default_buffer_prototype()))
                if value is not None:
                    yield name, digest(name, value.to_bytes()), 0
            return
        filesystem, path = location.filesystem()
        filesystem.invalidate_cache()
        for name, info in filesystem.find(path, detail=True).items():
            yield name.removeprefix(path), digest(name.removeprefix(path), version_in(info)), 0


def _is_of_others(name: str) -> bool:
    """Whether a file is hidden and no metadata of zarr."""
    file = name.rpartition("/")[2]
    return file.startswith(".") and not file.startswith(".z")


def _inode(status: os.stat_result) -> int:
    """Inode of a file on a block device; other file systems may assign another at each look."""
    on_disk = hasattr(os, "major") and os.major(status.st_dev)
    return status.st_ino if on_disk else 0
