"""Fingerprints of inputs: whether any file of an input was replaced, changed, added or removed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from mnndask.stores.file_versions import (
    changed_error,
    digest,
    local_files,
    version,
    version_in,
    version_of_archive,
    version_of_response,
)
from mnndask.stores.location import Location, reaching
from mnndask.stores.missing_chunks import chunk_keys, present
from mnndask.stores.plain_http import HttpStore
from mnndask.stores.read_errors import reading
from mnndask.stores.removal import METADATA
from mnndask.stores.whole_store import arrays_in


@dataclass(frozen=True)
class Fingerprint:
    """The files of an input at one moment. Values are not read.

    It covers names, sizes and times of all files below a local folder, also behind links to files and
    folders, but for hidden ones, which programs leave that only look at it (``.DS_Store``); size and time of
    an archive; names, sizes and tags (or times) of all objects below a URL; on a web server, which may list
    nothing, the metadata of the root and the tags of all chunks. A change that leaves size and time as they
    were is not seen.

    Parameters
    ----------
    files
        One number for each file, sorted.
    skip
        Names directly below the root that are left out.
    """

    files: NDArray[np.uint64]
    skip: frozenset[str]

    @classmethod
    def of(cls, location: Location, skip: Collection[str] = ()) -> Fingerprint:
        """List the files of an input."""
        files = np.fromiter((number for _, number in _files(location, skip)), np.uint64)
        return cls(np.sort(files), frozenset(skip))

    @property
    def text(self) -> str:
        """The fingerprint in a form that can be stored."""
        return hashlib.sha256(self.files.astype("<u8").tobytes()).hexdigest()

    def check(self, location: Location, label: str) -> None:
        """Check that no file of an input has changed.

        Raises
        ------
        InputReadError
            If any has; the message names one.
        """
        if np.array_equal(Fingerprint.of(location, self.skip).files, self.files):
            return
        known = set(self.files.tolist())
        others = (name for name, number in _files(location, self.skip) if number not in known)
        raise changed_error(label, next(others, "files were removed"))


def _files(location: Location, skip: Collection[str]) -> Iterator[tuple[str, int]]:
    """Name of each file, and a number that stands for its name, size and time (or tag)."""
    with reading(str(location), "it"), reaching(location):
        if not location.is_url:
            for name, status in local_files(location.path, skip):
                if not _is_of_others(name):
                    yield name, digest(name, version(status))
            return
        store = location.store(read_only=True)
        if isinstance(store, HttpStore):
            yield from _on_web_server(store, skip)
            return
        filesystem, path = location.filesystem()
        if archive := version_of_archive(filesystem):
            yield "", archive
            return
        filesystem.invalidate_cache()
        for place, info in _objects(filesystem, path, skip):
            name = place.removeprefix(path)
            yield name, digest(name, version_in(info))


def _objects(filesystem: Any, path: str, skip: Collection[str]) -> Iterator[tuple[str, Any]]:
    if not skip:
        yield from filesystem.find(path, detail=True).items()
        return
    try:
        members = filesystem.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return
    for member in members:
        name = member["name"].rstrip("/")
        if name.rpartition("/")[2] in skip or name == path:
            continue
        if member["type"] == "directory":
            yield from filesystem.find(name, detail=True).items()
        else:
            yield name, member


def _on_web_server(store: HttpStore, skip: Collection[str]) -> Iterator[tuple[str, int]]:
    for name in METADATA:
        value = sync(store.get(name, default_buffer_prototype()))
        if value is not None:
            yield name, digest(name, value.to_bytes())
    try:
        arrays = arrays_in(zarr.open_group(store, mode="r"))
    except (LookupError, OSError, ValueError):  # no store, or a damaged one, which is said when it is opened
        return
    keys = [key for array in arrays if array.path.split("/")[0] not in skip for key in chunk_keys(array)]
    for key in sorted(present(store, keys)):
        yield key, digest(key, version_of_response(store, key))


def _is_of_others(name: str) -> bool:
    """Whether a file is hidden and no metadata of zarr."""
    file = name.rpartition("/")[2]
    return file.startswith(".") and not file.startswith(".z")
