"""Versions of stored files: which size and time (or tag) a file has, to find out whether it was replaced."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Collection, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, ZipStore

from mnndask.errors import InputReadError
from mnndask.stores.plain_http import HttpStore
from mnndask.stores.whole_store import WholeStore

# Of an object or response, in order of preference; file systems name them differently.
TAGS = (
    *("ETag", "etag", "Last-Modified", "mtime", "LastModified", "last_modified", "updated", "modified"),
    *("modificationTime", "created", "CRC"),
)
KEYS_PER_REQUEST = 1000  # that an object store lists
AT_ONCE = 32  # concurrent requests to another machine
LEAVE_IT = (
    "Run again when nothing writes to it, and leave it as it is until results are computed. On a cluster, "
    "all workers need the same file: copies with the same time."
)


def digest(*parts: object) -> int:
    """Return 64 bits that stand for some values; never 0."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little") or 1


def changed_error(label: str, file: str = "") -> InputReadError:
    """Error for an input of which a file is no longer the one that was opened."""
    error = InputReadError(f"{label} has changed since it was opened{file and f' ({file})'}.", LEAVE_IT)
    error.changed = True
    return error


def version(status: os.stat_result) -> int:
    """Return a number that stands for the size and time of a file.

    It is the same on all machines that reach the file. Inodes are not: some network file systems assign them
    on each machine. Nor are parts of a microsecond.
    """
    return digest(status.st_size, status.st_mtime_ns // 1000)


def version_in(info: Mapping[str, Any]) -> int:
    """Return the same for what a file system says of an object."""
    tag = next((str(info[tag]) for tag in TAGS if info.get(tag)), "")
    return digest(info.get("size"), tag.removeprefix("W/").strip('"'))


def version_of_path(path: str | os.PathLike[str]) -> int:
    """Version of a local file; 0 if it does not exist."""
    try:
        return version(os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return 0


def version_of_open(file: h5py.File, path: Path) -> int:
    """Version of an open HDF5 file, of which `path` may be another by now."""
    if file.driver != "sec2":
        return version_of_path(path)
    return version(os.fstat(file.id.get_vfd_handle()))


def local_files(folder: str | os.PathLike[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Names below a folder, and status, of files; the empty name for a path that is a file itself.

    Links to files and folders are followed, except those that lead back to a folder above them.
    """
    top = Path(folder).resolve()
    try:
        above = frozenset(_identity(part.stat()) for part in (top, *top.parents))
        if not top.is_dir():
            yield "", top.stat()
            return
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from _files(str(top), "", above)


def _files(folder: str, name: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    own = _identity(Path(entry.path).stat())
                    if own not in above:
                        yield from _files(entry.path, f"{name}{entry.name}/", above | {own})
                elif entry.is_file():
                    yield name + entry.name, entry.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # removed since, or may not be read
        return


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def files_in(store: Store, prefix: str = "") -> dict[str, int]:
    """Keys of a store below a prefix, with the versions of their files; 0 where listing gives none."""
    start = f"{prefix}/" if prefix else ""
    files = _backing(store)
    if isinstance(files, ZipStore):
        return dict.fromkeys(sync(_listed(store, start)), version_of_path(files.path))
    if isinstance(files, LocalStore):
        return {start + name: version(status) for name, status in local_files(files.root / prefix)}
    if isinstance(files, FsspecStore):
        place = f"{files.path}/{prefix}"
        _anew(files.fs, place)
        found = sync(files.fs._find(place, detail=True))
        return {_key(files, name): version_in(info) for name, info in found.items()}
    return dict.fromkeys(sync(_listed(store, start)), 0)


async def _listed(store: Store, start: str) -> set[str]:
    return {key async for key in store.list_prefix(start)}


def versions_now(store: Store, keys: Collection[str], folder: str, n_files: int) -> NDArray[np.uint64] | None:
    """Versions of files that were just read, 0 for those that do not exist; None if the store has none.

    `folder` contains all of them and `n_files` in total. Of object stores, either the folder is listed or
    each object asked for, whichever takes fewer requests: of large shards, one each; of many small chunks,
    one for every thousand in the folder.
    """
    files = _backing(store)
    if isinstance(files, LocalStore):
        root = f"{files.root}/"
        versions = [version_of_path(root + key) for key in keys]
    elif isinstance(files, ZipStore):
        versions = [version_of_path(files.path)] * len(keys)
    elif isinstance(files, FsspecStore):
        if len(keys) > 1 + n_files // KEYS_PER_REQUEST:
            found = files_in(files, folder)
        else:
            found = sync(_asked(files, keys))
        versions = [found.get(key, 0) for key in keys]
    elif isinstance(files, HttpStore):
        versions = [version_in({"ETag": files.tags.get(key)}) for key in keys]
    else:
        return None
    return np.array(versions, np.uint64)


def _backing(store: Store) -> Store:
    """The store that our own wrappers read from; that of a web server stays wrapped."""
    while isinstance(store, WholeStore):
        store = store._store
    return store


def _key(store: FsspecStore, name: str) -> str:
    return name.removeprefix(store.path).lstrip("/")


def _anew(filesystem: Any, path: str) -> dict[str, bool]:
    """Options with which a file system asks for an object instead of a listing that it keeps, if it has any.

    Otherwise the listing is dropped. S3 keeps it, since it saves a request with each value.
    """
    if "refresh" in inspect.signature(filesystem._info).parameters:
        return {"refresh": True}
    filesystem.invalidate_cache(path)
    return {}


async def _asked(store: FsspecStore, keys: Collection[str]) -> dict[str, int]:
    """Versions of objects, from one request each."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def ask(key: str) -> tuple[str, int]:
        path = f"{store.path}/{key}"
        async with limit:
            try:
                return key, version_in(await store.fs._info(path, **_anew(store.fs, path)))
            except FileNotFoundError:
                return key, 0

    return dict(await asyncio.gather(*map(ask, keys)))
