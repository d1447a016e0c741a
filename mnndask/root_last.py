"""A store that nothing opens before all of it is written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import anndata as ad
import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from mnndask.errors import OutputError
from mnndask.run_record import RUN
from mnndask.stored_chunks import keys_in, missing_chunks

ROOT = "zarr.json"


class RootLastStore(WrapperStore[Store]):
    """A store whose root metadata is kept back until all else is written: without it, nothing opens it."""

    _supports_sync_io = False  # which in newer zarr goes to the wrapped store itself

    def __init__(self, store: Store, root: dict[str, Buffer] | None = None) -> None:
        super().__init__(store)
        self.root = {} if root is None else root
        self.abandoned = False

    def _with_store(self, store: Store) -> RootLastStore:
        return type(self)(store, self.root)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Value of a key."""
        return self.root.get(ROOT) if key == ROOT else await self._store.get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a value, or hold the root's."""
        if self.abandoned:
            what = "the output was given up"
            raise OSError(what)
        if key == ROOT:
            self.root[ROOT] = value
        else:
            await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a value unless there is one."""
        if not await self.exists(key):
            await self.set(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)

    async def exists(self, key: str) -> bool:
        """Whether there is a value."""
        return key in self.root if key == ROOT else await self._store.exists(key)

    def finish(self) -> None:
        """Write the root."""
        sync(self._store.set(ROOT, self.root[ROOT]))


@contextmanager
def root_last(store: Store, where: str, check: Callable[[], None] = lambda: None) -> Iterator[zarr.Group]:
    """Root of an AnnData store, to write all elements to; what is left of it does not open if that fails.

    `where` it is, messages say; `check` is called before it is made to open.
    """
    guarded = RootLastStore(store)
    # A chunk of zeros that is not written could not be told from one that was lost.
    always = {"array.write_empty_chunks": True}
    try:
        with zarr.config.set(always), _unsharded(), warnings.catch_warnings():
            # Of record arrays, such as scanpy's uns["rank_genes_groups"]; anndata reads what it wrote.
            unspecified = "The data type .* does not have a Zarr V3 specification"
            warnings.filterwarnings("ignore", unspecified, category=UserWarning)
            warnings.filterwarnings("ignore", unspecified, category=FutureWarning)
            root = zarr.open_group(guarded, mode="a", zarr_format=3)
            root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            yield root
            if RUN in root:
                del root[RUN]
            _check_all_stored(_consolidated(guarded), where)
        check()
        guarded.finish()
    except BaseException:
        guarded.abandoned = True  # threads that are yet to write a chunk
        raise


def _check_all_stored(root: zarr.Group, where: str) -> None:
    """Raise if a chunk of any array is not there, rather than have it read as zeros ever after."""
    held = keys_in(root.store)
    for name, array in root.members(max_depth=None):
        if isinstance(array, zarr.Array) and array.ndim and (lost := missing_chunks(array, held)).any():
            what = f"{lost.sum()} of the {lost.size} chunks of {name} are missing from {where}."
            raise OutputError(what, "Write again; has something removed files there?")


@contextmanager
def _unsharded() -> Iterator[None]:
    """Have anndata shard no table or embedding by itself, which it does by default from 0.13 on."""
    known = hasattr(ad.settings, "auto_shard_zarr_v3")  # 0.12.3 has no such setting, and does not shard
    with ad.settings.override(**({"auto_shard_zarr_v3": False} if known else {})):
        yield


def _consolidated(store: Store) -> zarr.Group:
    with warnings.catch_warnings():
        # It is about to be: https://github.com/zarr-developers/zarr-specs/pull/373. anndata writes it, too.
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", UserWarning)
        return zarr.consolidate_metadata(store)
