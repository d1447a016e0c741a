"""A zarr store that becomes readable only when complete: root metadata is written last."""

from __future__ import annotations

from collections.abc import Iterable

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

ROOT = "zarr.json"


class AtomicStore(WrapperStore[Store]):
    """A store that writes its root metadata only in :meth:`finish`; without it, nothing opens the store."""

    _supports_sync_io = False  # newer zarr would bypass this wrapper

    def __init__(self, store: Store, root: dict[str, Buffer] | None = None) -> None:
        super().__init__(store)
        self.root = {} if root is None else root
        self.abandoned = False

    def _with_store(self, store: Store) -> AtomicStore:
        return type(self)(store, self.root)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the value of a key."""
        return self.root.get(ROOT) if key == ROOT else await self._store.get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a value; keep root metadata in memory."""
        if self.abandoned:
            what = "the output was abandoned"
            raise OSError(what)
        if key == ROOT:
            self.root[ROOT] = value
        else:
            await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a value unless the key exists."""
        if not await self.exists(key):
            await self.set(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)

    async def exists(self, key: str) -> bool:
        """Whether a key exists."""
        return key in self.root if key == ROOT else await self._store.exists(key)

    def finish(self) -> None:
        """Write the root metadata."""
        sync(self._store.set(ROOT, self.root[ROOT]))
