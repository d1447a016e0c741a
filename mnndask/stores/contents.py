"""What a store contains: sizes and digests of its values, and whether it is whole."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

from mnndask.stores.file_versions import local_files
from mnndask.stores.missing_chunks import missing_chunks
from mnndask.stores.whole_store import arrays_in

AT_ONCE = 8  # values in memory

Entry: TypeAlias = tuple[int, str]  # size of a value, and its digest; "" if it was not computed


def digest(value: Any) -> str:
    """Digest of bytes."""
    return hashlib.blake2b(value, digest_size=16).hexdigest()


def sizes_in(store: Store) -> dict[str, int]:
    """Return all keys of a store, with the sizes of their values; they are listed anew."""
    if isinstance(store, LocalStore):
        return {name: status.st_size for name, status in local_files(store.root)}
    return sync(_sizes(store))


def filled_keys(store: Store) -> set[str]:
    """Return the keys of a store whose values are not empty; zarr would take an empty shard for zeros."""
    return {key for key, size in sizes_in(store).items() if size}


async def _sizes(store: Store) -> dict[str, int]:
    if not isinstance(store, FsspecStore):
        return {key: await store.getsize(key) async for key in store.list()}
    store.fs.invalidate_cache()
    found = await store.fs._find(store.path, detail=True, withdirs=False)
    return {name.removeprefix(f"{store.path}/"): int(info["size"]) for name, info in found.items()}


def changed_keys(store: Store, expected: Mapping[str, Entry]) -> list[str]:
    """Return the keys whose values are missing or have another size. Reads no values."""
    found = sizes_in(store)
    return sorted(key for key, (size, _) in expected.items() if found.get(key) != size)


def altered_keys(store: Store, expected: Mapping[str, Entry]) -> list[str]:
    """Return the keys whose values have another digest. Reads the values, a few at a time."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def altered(key: str, known: str) -> bool:
        async with limit:
            value = await store.get(key, default_buffer_prototype())
            return value is None or digest(value.as_buffer_like()) != known

    async def all_altered() -> list[bool]:
        return await asyncio.gather(*(altered(key, known) for key, known in digests.items()))

    digests = {key: known for key, (_, known) in expected.items() if known}
    return [key for key, is_altered in zip(digests, sync(all_altered()), strict=True) if is_altered]


def is_whole(store: Store) -> bool:
    """Whether a store opens and has the metadata and all chunks of all arrays. Reads no chunks."""
    try:
        root = zarr.open_group(store, mode="r")
        arrays, keys = arrays_in(root), filled_keys(store)
        return all(_is_stored(array, keys) for array in arrays)
    except Exception:  # whatever is wrong with it
        return False


def _is_stored(array: Any, keys: set[str]) -> bool:
    name = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
    described = f"{array.path}/{name}".lstrip("/") in keys
    return described and not (array.ndim and missing_chunks(array, keys).any())
