"""Requests to other machines, made again with growing pauses while a server is overloaded or out of reach."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore

from mnndask.errors import RemoteError, first_line

T = TypeVar("T")
logger = logging.getLogger(__name__)
PAUSES = (2.0, 4.0, 8.0, 16.0)  # seconds between tries; clients such as botocore's try again within each
LAST_TRY_SECONDS = 60.0  # after the first; none begins later
OVERLOADED = {408, 425, 429}  # besides 5xx
NEVER_SERVED = {501, 505}  # that method, that protocol
FAILED_CONNECTIONS = {  # of botocore, aiohttp and azure; subclasses too
    "ConnectionError",
    "HTTPClientError",
    "ResponseParserError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ServiceRequestError",
    "ServiceResponseError",
}


def http_status(error: BaseException | None) -> int | None:
    """HTTP status that an error reports, or that an error which caused it does; None if there is none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):  # botocore's
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            names = ("status", "status_code", "code")  # aiohttp's, azure's, gcsfs's
            status = next((value for name in names if (value := getattr(error, name, None))), None)
        if isinstance(status, int | str) and str(status).isdigit():
            return int(status)
        error = error.__cause__
    return None


def is_temporary(error: BaseException) -> bool:
    """Whether the same request may succeed later: the server is overloaded, restarting or out of reach."""
    if isinstance(error, PermissionError | FileNotFoundError | FileExistsError):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    status = http_status(error)
    if status is not None:
        return status in OVERLOADED or (status >= 500 and status not in NEVER_SERVED)
    return any(kind.__name__ in FAILED_CONNECTIONS for kind in type(error).__mro__)


class _Tries:
    """What becomes of each failed try of one request."""

    def __init__(self, place: str) -> None:
        self.place, self.start, self.pauses = place, time.monotonic(), list(PAUSES)

    def pause_after(self, error: Exception) -> float:
        """Return for how long to wait before the next try; raise the error, explained, if there is none."""
        if isinstance(error, RemoteError) or not is_temporary(error):
            raise error
        late = bool(self.pauses) and time.monotonic() + self.pauses[0] > self.start + LAST_TRY_SECONDS
        if late or not self.pauses:
            raise out_of_reach(self.place, error) from error
        logger.warning("%s cannot be reached now (%s): trying again", self.place, _reason(error))
        return self.pauses.pop(0)


async def retried(place: str, request: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
    """Await a request to a place, again after each temporary failure.

    Raises
    ------
    RemoteError
        If the last try fails in that way, too.
    """
    tries = _Tries(place)
    while True:
        try:
            return await request(*args, **options)
        except Exception as error:
            pause = tries.pause_after(error)
        await asyncio.sleep(pause)


def retried_here(place: str, request: Callable[..., T], *args: Any, **options: Any) -> T:
    """Make a request that blocks; see :func:`retried`."""
    tries = _Tries(place)
    while True:
        try:
            return request(*args, **options)
        except Exception as error:
            pause = tries.pause_after(error)
        time.sleep(pause)


def out_of_reach(place: str, error: BaseException) -> RemoteError:
    """Error for a location whose server answers with an error, or not at all, each time it is tried."""
    out = RemoteError(f"{place} cannot be reached ({_reason(error)}).", "Try again later.")
    out.status = http_status(error)
    return out


def _reason(error: BaseException) -> str:
    status = http_status(error)
    if status is None:
        return first_line(error)
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status}: {first_line(error)}"


class RetryingFileSystem:
    """A file system of fsspec whose methods are called again after temporary failures.

    Parameters
    ----------
    filesystem
        The file system.
    place
        What it is used for, in messages.
    """

    def __init__(self, filesystem: Any, place: str) -> None:
        self.filesystem, self.place = filesystem, place

    def __reduce__(self) -> tuple[type[RetryingFileSystem], tuple[Any, str]]:
        return RetryingFileSystem, (self.filesystem, self.place)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.filesystem, name)
        if not callable(found):
            return found

        def method(*args: Any, **options: Any) -> Any:
            return retried_here(self.place, found, *args, **options)

        return method


class RetryingStore(FsspecStore):
    """A zarr store at a URL whose requests are made again after temporary failures."""

    place = "a store"  # its URL, in messages
    before_write: Callable[[], Awaitable[None]] | None = None  # called before each try to change anything

    def with_read_only(self, read_only: bool = False) -> RetryingStore:
        """Return the same store, read-only or writable."""
        out = super().with_read_only(read_only)
        assert isinstance(out, RetryingStore)
        out.place, out.before_write = self.place, self.before_write
        return out

    async def _retried(self, request: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await retried(self.place, request, *args)

    async def _changed(self, request: Callable[..., Awaitable[T]], *args: Any) -> T:
        async def change() -> T:
            if self.before_write is not None:
                await self.before_write()
            return await request(*args)

        return await retried(self.place, change)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the value of a key."""
        return await self._retried(super().get, key, prototype, byte_range)

    async def get_partial_values(self, prototype: BufferPrototype, key_ranges: Any) -> list[Buffer | None]:
        """Return ranges of values."""
        return await self._retried(super().get_partial_values, prototype, list(key_ranges))

    async def exists(self, key: str) -> bool:
        """Whether a key exists."""
        return await self._retried(super().exists, key)

    async def getsize(self, key: str) -> int:
        """Size of a value in bytes."""
        return await self._retried(super().getsize, key)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """Write a value."""
        await self._changed(super().set, key, value, byte_range)

    async def delete(self, key: str) -> None:
        """Remove a key."""
        await self._changed(super().delete, key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all keys below a prefix."""
        await self._changed(super().delete_dir, prefix)

    async def clear(self) -> None:
        """Remove all keys."""
        await self._changed(super().clear)

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        for key in await self._retried(_collected, super().list):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names directly below a prefix."""
        for key in await self._retried(_collected, super().list_dir, prefix):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """All keys below a prefix."""
        for key in await self._retried(_collected, super().list_prefix, prefix):
            yield key


async def _collected(listing: Callable[..., AsyncIterator[str]], *args: str) -> list[str]:
    return [key async for key in listing(*args)]


def retrying(store: Store) -> Store:
    """Return a store that makes requests again, for one at a URL that a user opened; any other unchanged."""
    if type(store) is not FsspecStore:
        return store
    out = RetryingStore(store.fs, store.read_only, store.path, store.allowed_exceptions)
    out.place = str(store.fs.unstrip_protocol(store.path)).rstrip("/")
    return out
