"""Zarr stores on web servers, which may not list folders, and respond in various ways if a key is missing."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

from fsspec.implementations.cached import CachingFileSystem
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, WrapperStore

START = 512  # bytes by which two responses are compared
NOTHING_THERE = {404, 410}
FORBIDDEN = {401, 403}
EMPTY = 416  # status of a request for the first bytes of an empty file


class HttpStore(WrapperStore[Store]):
    """A store on a web server.

    A request for a random key shows how the server responds if a key is missing: with a status (404, or 403
    for public buckets that may not be listed), or with a page. Keys with the same response are missing.

    Parameters
    ----------
    store
        The store to read from.

    Attributes
    ----------
    tags
        Tags (or times) with which the server gave each value, where there is no cache or archive between. If
        there are several, the value has changed.
    """

    _supports_sync_io = False

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.absent: int | None = None
        self.page: bytes | None = None
        self.tags: dict[str, set[str]] = {}

    def _with_store(self, store: Store) -> HttpStore:
        return type(self)(store)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"tags": {}}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the value of a key; None if the key is missing."""
        try:
            value, tag = await self._value(key, prototype, byte_range)
        except Exception as error:
            if await self._means_missing(error):
                return None
            raise
        if value is None:
            return None
        value = _requested_range(value, byte_range)
        start = value
        if await self._status_if_missing() == 200:
            if byte_range is not None:
                start_of = await self._store.get(key, prototype, RangeByteRequest(0, START))
                start = value if start_of is None else start_of
            if self._is_page(start):
                return None
        self.tags.setdefault(key, set()).add(tag)
        return value

    async def _value(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None
    ) -> tuple[Buffer | None, str]:
        """Request a value, and its tag, which fsspec drops."""
        fs = getattr(self._store, "fs", None)
        if fs is None or not hasattr(type(fs), "set_session"):
            return await self._store.get(key, prototype, byte_range), ""
        headers = {"Accept-Encoding": "identity", **fs.kwargs.get("headers", {})}  # others have other tags
        if byte_range is not None:
            headers["Range"] = _range_header(byte_range)
        session = await fs.set_session()
        url = fs.encode_url(f"{getattr(self._store, 'path', '').rstrip('/')}/{key}")
        async with session.get(url, **fs.kwargs | {"headers": headers}) as response:
            value = await response.read()
            response.raise_for_status()
            tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        return prototype.buffer.from_bytes(value), tag

    def check_allowed(self) -> None:
        """Raise if the server denies access to missing keys, which makes them look like forbidden ones.

        Raises
        ------
        PermissionError
            If the status for missing keys is 401 or 403.
        """
        status = sync(self._status_if_missing())
        if status in FORBIDDEN:
            what = f"the server answers {status}: nothing exists there, or access is forbidden"
            raise PermissionError(what)

    async def exists(self, key: str) -> bool:
        """Whether a key exists; raises if the server does not respond."""
        try:
            value = await self.get(key, default_buffer_prototype(), RangeByteRequest(0, START))
        except Exception as error:
            if _status(error) == EMPTY:
                return True
            raise
        return value is not None

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that the server lists, possibly none."""
        try:
            async for key in self._store.list_prefix(prefix):
                yield key
        except Exception as error:
            if not _cannot_list(error):
                raise

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Members of a folder that the server lists, possibly none."""
        try:
            async for key in self._store.list_dir(prefix):
                yield key
        except Exception as error:
            if not _cannot_list(error):
                raise

    async def _means_missing(self, error: Exception) -> bool:
        status = _status(error)
        if status in NOTHING_THERE:
            return True
        return status in FORBIDDEN and status == await self._status_if_missing()

    async def _status_if_missing(self) -> int:
        """Status of the server's response to a request for a missing key."""
        if self.absent is None:
            missing_key = f"nothing-{uuid.uuid4().hex}"
            try:
                value = await self._store.get(missing_key, default_buffer_prototype())
            except Exception as error:
                status = _status(error)
                if status is None:
                    raise
                self.absent = status
            else:
                self.page = None if value is None else value[:START].to_bytes()
                self.absent = 404 if value is None else 200
        return self.absent

    def _is_page(self, value: Buffer) -> bool:
        start = value[:START].to_bytes()
        is_html = start.lstrip().lower().startswith((b"<!doctype", b"<html"))
        return is_html or start == self.page


def http_aware(store: Store) -> Store:
    """Wrap a store on a web server, so that missing keys are recognised; return any other store unchanged."""
    is_web = isinstance(store, FsspecStore) and _is_http(store.fs)
    return HttpStore(store) if is_web else store


def _is_http(filesystem: Any) -> bool:
    protocols = getattr(filesystem, "protocol", ())
    if {"http", "https"} & set([protocols] if isinstance(protocols, str) else protocols):
        return True
    inner = getattr(filesystem, "sync_fs", None)  # zarr wraps synchronous file systems
    if inner is None and isinstance(filesystem, CachingFileSystem):
        inner = filesystem.fs
    return inner is not None and _is_http(inner)


def _status(error: BaseException) -> int | None:
    """HTTP status of an error; None if it has none."""
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _cannot_list(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError | NotADirectoryError) or _status(error) is not None


def _range_header(part: ByteRequest) -> str:
    if isinstance(part, RangeByteRequest):
        return f"bytes={part.start}-{part.end - 1}"
    if isinstance(part, OffsetByteRequest):
        return f"bytes={part.offset}-"
    return f"bytes=-{part.suffix}"


def _requested_range(value: Buffer, part: ByteRequest | None) -> Buffer:
    """The requested range of bytes, also if the server returned the whole value."""
    if isinstance(part, RangeByteRequest) and len(value) > part.end - part.start:
        return value[part.start : part.end]
    if isinstance(part, SuffixByteRequest) and len(value) > part.suffix:
        return value[-part.suffix :]
    return value
