"""A zarr store that becomes readable only when complete: root metadata is written last.

It remembers what is written to it, so that a loss is noticed, and syncs it to the disk.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, WrapperStore

from mnndask.stores.contents import Entry, changed_keys, digest
from mnndask.stores.durable import EarlySync, sync_file, sync_folder, sync_tree

ROOT = "zarr.json"
LARGE = 2**20  # bytes of values that are digested and synced apart from the event loop


class AtomicStore(WrapperStore[Store]):
    """A store that writes its root metadata only in :meth:`finish`; without it, nothing opens the store.

    Parameters
    ----------
    store
        Where values are written.
    root
        Root metadata, before it is written.
    annotations
        Values, of all elements but ``X``, that a stopped run has written; empty if they have to be written
        again, None if there is no such run.
    """

    _supports_sync_io = False  # newer zarr would bypass this wrapper

    def __init__(
        self,
        store: Store,
        root: dict[str, Buffer] | None = None,
        annotations: dict[str, Entry] | None = None,
    ) -> None:
        super().__init__(store)
        self.root = {} if root is None else root
        self.written: dict[str, Entry] = dict(annotations or {})
        self.annotated = bool(annotations)
        self.annotations_done: Callable[[], None] | None = None  # called once all but X is written
        self.abandoned = False
        self.begun = annotations is None  # whether no root metadata is left of a run that was stopped
        self.early = EarlySync() if isinstance(store, LocalStore) else None

    @property
    def stored(self) -> Store:
        """The store in which values are."""
        return self._store

    def _with_store(self, store: Store) -> AtomicStore:
        out = copy.copy(self)  # what is written to it is remembered here, too
        out._store = store
        return out

    def __getstate__(self) -> dict[str, Any]:
        """State of a copy in another process, which syncs each large value as it writes it."""
        return self.__dict__ | {"written": {}, "annotations_done": None, "early": None, "begun": True}

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
            return
        await self._begin()
        await self._store.set(key, value)
        await self._remember(key, value)
        if len(value) >= LARGE and isinstance(self._store, LocalStore):
            path = self._store.root / key
            await asyncio.to_thread(sync_file, path) if self.early is None else self.early.add(path)

    async def _begin(self) -> None:
        """Remove the root metadata that a stopped run has left, before anything changes."""
        if not self.begun:
            self.begun = True
            await self._store.delete(ROOT)

    def begin(self) -> None:
        """Remove the root metadata that a stopped run has left, before workers change anything."""
        sync(self._begin())

    async def _remember(self, key: str, value: Buffer) -> None:
        known = ""
        if self.annotations_done is not None:  # a later run may read these values back
            data = value.as_buffer_like()
            known = digest(data) if len(value) < LARGE else await asyncio.to_thread(digest, data)
        self.written[key] = len(value), known

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

    async def delete(self, key: str) -> None:
        """Remove a key, and what is below it."""
        await self._begin()
        await self._store.delete(key)
        self._forget(key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove everything below a prefix."""
        await self._begin()
        await self._store.delete_dir(prefix)
        self._forget(prefix)

    def _forget(self, prefix: str) -> None:
        below = f"{prefix.rstrip('/')}/".lstrip("/")
        for key in [key for key in self.written if key == prefix or key.startswith(below)]:
            del self.written[key]

    def expect(self, key: str) -> None:
        """Remember a value that an earlier run has written."""
        value = sync(self._store.get(key, default_buffer_prototype()))
        if value is None:
            raise FileNotFoundError(key)
        self.written[key] = len(value), ""

    def annotations_are_written(self) -> None:
        """Note that all but ``X`` is written."""
        if self.annotations_done is not None:
            self.annotations_done()
            self.annotations_done = None

    def flush(self) -> None:
        """Sync everything to the disk, if the store is on this machine; raise if the disk failed."""
        if isinstance(self._store, LocalStore):
            if self.early is not None:
                self.early.wait()
            sync_tree(self._store.root)

    def finish(self) -> None:
        """Write the root metadata."""
        sync(self._store.set(ROOT, self.root[ROOT]))
        if isinstance(self._store, LocalStore):
            sync_file(self._store.root / ROOT)
            sync_folder(self._store.root)

    def reopen(self) -> None:
        """Remove the root metadata."""
        sync(self._store.delete(ROOT))

    def changed(self) -> list[str]:
        """Keys that were written, and whose values something else has removed or changed since."""
        return changed_keys(self._store, self.written)

    def close_early(self) -> None:
        """End the threads that sync."""
        if self.early is not None:
            self.early.end()
