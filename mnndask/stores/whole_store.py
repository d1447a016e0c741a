"""Zarr stores that raise on missing or truncated chunks instead of returning them as data."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import StorePath, WrapperStore

from mnndask.stores.item_counts import has_texts, with_counts
from mnndask.stores.local_files import with_absolute_path
from mnndask.stores.plain_http import HttpStore, http_aware
from mnndask.stores.removal import METADATA
from mnndask.stores.retries import retrying

BLOSC = {"Blosc", "BloscCodec"}


class MissingChunkError(Exception):
    """A chunk that should be in a store is missing; zarr would return zeros."""


class TruncatedChunkError(Exception):
    """A chunk has another length than its header states; blosc would read past its end."""


class WholeStore(WrapperStore[Store]):
    """A store that raises on missing and truncated chunks. All reads use :meth:`get`.

    Parameters
    ----------
    store
        The store to read from.
    empty
        Keys of chunks that may be missing, as they contain only zeros; None if any chunk may be missing.
    blosc
        Paths of the arrays that are compressed with blosc.
    """

    _supports_sync_io = False  # zarr 3.4 would bypass this wrapper

    def __init__(self, store: Store, empty: frozenset[str] | None, blosc: frozenset[str]) -> None:
        super().__init__(store)
        self.empty, self.blosc = empty, blosc

    def _with_store(self, store: Store) -> WholeStore:
        return type(self)(store, self.empty, self.blosc)

    def with_read_only(self, read_only: bool = False) -> WholeStore:
        """Return the same store, read-only or writable."""
        return self._with_store(self._store.with_read_only(read_only))

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the value of a key; None only for metadata and chunks of zeros."""
        value = await self._store.get(key, prototype, byte_range)
        if key.rsplit("/", 1)[-1] in METADATA:
            return value
        if value is None:
            if self.empty is not None and key not in self.empty:
                raise MissingChunkError(key)
        elif byte_range is None and any(key.startswith(path) for path in self.blosc):
            stated = int.from_bytes(value[12:16].to_bytes(), "little")
            if stated != len(value):
                what = f"{key} has {len(value)} bytes, but its header states {stated}"
                raise TruncatedChunkError(what)
        return value

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return ranges of values."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def get_ranges(
        self,
        key: str,
        byte_ranges: Sequence[ByteRequest | None],
        *,
        prototype: BufferPrototype,
        **limits: int | None,
    ) -> AsyncIterator[Sequence[tuple[int, Buffer | None]]]:
        """Return ranges of one value by the default method, with which zarr 3.4 reads chunks of shards."""
        plain: Any = super(WrapperStore, self)
        given = {name: limit for name, limit in limits.items() if limit is not None}
        async for parts in plain.get_ranges(key, byte_ranges, prototype=prototype, **given):
            yield parts

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, byte_range in requests:
            yield key, await self.get(key, prototype, byte_range)


def opened_strictly(stored: Any, empty: frozenset[str] | None = None) -> Any:
    """Reopen a zarr array or group so that damaged chunks are errors; with `empty`, missing ones too.

    Damaged are those of another length, or number of texts, than they state.
    """
    arrays = [stored] if isinstance(stored, zarr.Array) else arrays_in(stored)
    # Shards store the lengths of their chunks, with a checksum.
    blosc = frozenset(
        array.path and f"{array.path}/"
        for array in arrays
        if array.compressors and type(array.compressors[-1]).__name__ in BLOSC and array.shards is None
    )
    store = http_aware(retrying(with_absolute_path(stored.store)))
    is_web, counts = isinstance(store, HttpStore), any(map(has_texts, arrays))
    if empty is not None or blosc:
        store = WholeStore(store, empty, blosc)
    elif store is stored.store and not counts:
        return stored
    if not is_web and not counts:
        return zarr.open(store, path=stored.path, mode="r")
    # Metadata is passed on: to reopen members known only from consolidated metadata, zarr would list folders.
    place, metadata = StorePath(store, stored.path), with_counts(stored) if counts else stored.metadata
    if isinstance(stored, zarr.Group):
        return zarr.Group(zarr.AsyncGroup(metadata=metadata, store_path=place))
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=place))


def arrays_in(group: zarr.Group) -> list[Any]:
    """Return all arrays below a group."""
    return [member for _, member in group.members(max_depth=None) if isinstance(member, zarr.Array)]
