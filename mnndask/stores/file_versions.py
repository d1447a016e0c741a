"""Versions of stored files: which size and time (or tag) a file has, to find out whether it was replaced."""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from fsspec.core import OpenFile
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, ZipStore

from mnndask.errors import InputReadError
from mnndask.stores.plain_http import HttpStore
from mnndask.stores.retries import RetryingFileSystem
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
    tag = next((info[tag] for tag in TAGS if info.get(tag)), "")
    if isinstance(tag, datetime):  # which listings of some file systems give as a number
        tag = tag.timestamp()
    return digest(info.get("size"), str(tag).removeprefix("W/").strip('"'))


def version_of_response(store: HttpStore, key: str) -> int:
    """Version of a value that a web server gave; 0 if it gave none."""
    tags = store.tags.get(key)
    return digest(*sorted(tags)) if tags else 0


def version_of_path(path: str | os.PathLike[str]) -> int:
    """Version of a local file; 0 if it does not exist."""
    status = _status(path)
    return 0 if status is None else version(status)


def version_of_open(file: h5py.File, path: Path) -> int:
    """Version of an open HDF5 file, of which `path` may be another by now."""
    if file.driver != "sec2":
        return version_of_path(path)
    return version(os.fstat(file.id.get_vfd_handle()))


def local_files(
    folder: str | os.PathLike[str], skip: Collection[str] = ()
) -> Iterator[tuple[str, os.stat_result]]:
    """Names below a folder, and status, of files; the empty name for a path that is a file itself.

    Links to files and folders are followed, except those that lead back to a folder above them. What is
    called a name in `skip` directly below the folder is left out.
    """
    top = Path(os.path.realpath(folder))
    status = _status(top)
    if status is None:
        return
    if not stat.S_ISDIR(status.st_mode):
        yield "", status
        return
    above = frozenset(_identity(os.stat(part)) for part in (top, *top.parents))
    yield from _below(str(top), "", above, skip)


def _below(
    folder: str, name: str, above: frozenset[tuple[int, int]], skip: Collection[str] = ()
) -> Iterator[tuple[str, os.stat_result]]:
    for entry in _entries(folder):
        status = None if entry.name in skip else _status(entry.path)
        if status is None:
            continue
        if stat.S_ISREG(status.st_mode):
            yield name + entry.name, status
        elif stat.S_ISDIR(status.st_mode) and (own := _identity(status)) not in above:
            yield from _below(entry.path, f"{name}{entry.name}/", above | {own})


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder; none if it was removed or may not be listed."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return


def _status(path: str | os.PathLike[str]) -> os.stat_result | None:
    """Status of a file or folder, behind links; None if there is none."""
    try:
        return os.stat(path)  # that of a DirEntry may be older on Windows
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return None
        raise


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def files_in(store: Store, prefix: str = "") -> dict[str, int]:
    """Keys of a store below a prefix, with the versions of their files; 0 where listing gives none."""
    start = f"{prefix}/" if prefix else ""
    files = _backing(store)
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


def archive_version(store: Store) -> int:
    """Version of the archive that contains a store; 0 if there is none, or if it was removed.

    An archive keeps its list of files in memory, so that this list does not show whether it was replaced.
    """
    files = _backing(store)
    if isinstance(files, ZipStore):
        return version_of_path(files.path)
    return version_of_archive(files.fs) if isinstance(files, FsspecStore) else 0


def version_of_archive(filesystem: Any) -> int:
    """Version of the archive that a file system reads; 0 if it reads none, or if it was removed.

    Once the archive has changed, it is a version that no archive has, as part of the old one is in memory.
    """
    first, now = _archive_versions(filesystem)
    return now if now in {first, 0} else digest(first, now)


def is_stale(filesystem: Any) -> bool:
    """Whether a file system reads an archive that has changed since, so that it has to be opened again."""
    first, now = _archive_versions(filesystem)
    return now != first


def _archive_versions(filesystem: Any) -> tuple[int, int]:
    """Versions of an archive when it was first seen (kept with the file system), and now."""
    plain = filesystem.filesystem if isinstance(filesystem, RetryingFileSystem) else filesystem
    inner = getattr(plain, "sync_fs", plain)  # zarr wraps synchronous file systems
    archive = vars(inner).get("of")
    if not isinstance(archive, OpenFile):
        return 0, 0
    archive.fs.invalidate_cache()
    try:
        now = version_in(archive.fs.info(archive.path))
    except FileNotFoundError:
        now = 0
    return vars(inner).setdefault("_mnndask_first", now), now


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
    elif isinstance(files, FsspecStore):
        if len(keys) > 1 + n_files // KEYS_PER_REQUEST:
            found = files_in(files, folder)
        else:
            found = sync(_asked(files, keys))
        versions = [found.get(key, 0) for key in keys]
    elif isinstance(files, HttpStore):
        versions = [version_of_response(files, key) for key in keys]
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
