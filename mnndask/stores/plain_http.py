"""Zarr stores on web servers, which may list no folders and answer as they like where nothing is."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

from fsspec.implementations.cached import CachingFileSystem
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, WrapperStore

START = 512  # bytes by which two answers are compared
NOTHING_THERE = {404, 410}
FORBIDDEN = {401, 403}
EMPTY = 416  # what servers answer who are asked for the start of nothing


class HttpStore(WrapperStore[Store]):
    """A store on a web server.

    What the server answers where nothing is, is learnt by asking for a key that nobody has: a status (404, or
    403 as of public buckets that may not be listed), or a page. What it answers so is not there.

    Parameters
    ----------
    store
        The store to read from.
    """

    _supports_sync_io = False

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.absent: int | None = None
        self.page: bytes | None = None

    def _with_store(self, store: Store) -> HttpStore:
        return type(self)(store)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Value of a key; None if it is not there."""
        try:
            value = await self._store.get(key, prototype, byte_range)
        except Exception as error:
            if await self._says_nothing_is_there(error):
                return None
            raise
        if value is None:
            return None
        value = _part(value, byte_range)
        start = value
        if await self._answer_to_nothing() == 200:
            if byte_range is not None:
                start_of = await self._store.get(key, prototype, RangeByteRequest(0, START))
                start = value if start_of is None else start_of
            if self._is_page(start):
                return None
        return value

    def check_allowed(self) -> None:
        """Raise if the server says that it may not be read, wherever nothing is.

        Raises
        ------
        PermissionError
        """
        status = sync(self._answer_to_nothing())
        if status in FORBIDDEN:
            what = f"the server answers {status}: there is nothing, or it may not be read"
            raise PermissionError(what)

    async def exists(self, key: str) -> bool:
        """Whether something is there; raises where the server does not answer."""
        try:
            value = await self.get(key, default_buffer_prototype(), RangeByteRequest(0, START))
        except Exception as error:
            if _status(error) == EMPTY:
                return True
            raise
        return value is not None

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that the server lists; it may list none."""
        try:
            async for key in self._store.list_prefix(prefix):
                yield key
        except Exception as error:
            if not _lists_not(error):
                raise

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Members of a folder that the server lists; it may list none."""
        try:
            async for key in self._store.list_dir(prefix):
                yield key
        except Exception as error:
            if not _lists_not(error):
                raise

    async def _says_nothing_is_there(self, error: Exception) -> bool:
        status = _status(error)
        if status in NOTHING_THERE:
            return True
        return status in FORBIDDEN and status == await self._answer_to_nothing()

    async def _answer_to_nothing(self) -> int:
        """Status with which the server answers where nothing is."""
        if self.absent is None:
            nothing = f"nothing-{uuid.uuid4().hex}"
            try:
                value = await self._store.get(nothing, default_buffer_prototype())
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


def answering(store: Store) -> Store:
    """Same store; one on a web server such that it can be told what is not there."""
    is_web = isinstance(store, FsspecStore) and _is_http(store.fs)
    return HttpStore(store) if is_web else store


def _is_http(filesystem: Any) -> bool:
    protocols = getattr(filesystem, "protocol", ())
    if {"http", "https"} & set([protocols] if isinstance(protocols, str) else protocols):
        return True
    inner = getattr(filesystem, "sync_fs", None)  # of one that zarr made asynchronous
    if inner is None and isinstance(filesystem, CachingFileSystem):
        inner = filesystem.fs
    return inner is not None and _is_http(inner)


def _status(error: BaseException) -> int | None:
    """Status that a server answered, if an error says so."""
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _lists_not(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError | NotADirectoryError) or _status(error) is not None


def _part(value: Buffer, part: ByteRequest | None) -> Buffer:
    """The part that was asked for, of a server that gives the whole instead."""
    if isinstance(part, RangeByteRequest) and len(value) > part.end - part.start:
        return value[part.start : part.end]
    if isinstance(part, SuffixByteRequest) and len(value) > part.suffix:
        return value[-part.suffix :]
    return value
