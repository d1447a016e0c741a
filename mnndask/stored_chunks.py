"""Which chunks of stored matrices are there, and stores that do not take a lost or cut chunk for data."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import h5py
import numpy as np
import zarr
from anndata.io import sparse_dataset
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from mnndask.errors import InputError, InputReadError

BLOSC = {"Blosc", "BloscCodec"}
METADATA = {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}
WRITE_AGAIN = "Copy or write it again."
NOT_ALL_STORED = (
    "Copy or write it again. If what is missing is all zeros, which some writers leave out, write it with "
    "zarr.config.set({'array.write_empty_chunks': True})."
)


class LostChunkError(Exception):
    """A chunk that should be in a store is not; zarr would take it for zeros."""


class CutChunkError(Exception):
    """A chunk is of another length than it says; blosc would read past its end."""


class WholeStore(WrapperStore[Store]):
    """A store in which chunks that are lost or cut are errors.

    Parameters
    ----------
    store
        The store to read from.
    empty
        Keys of chunks that may be missing, for they hold nothing but zeros; None for any.
    blosc
        Paths of the arrays that are compressed by blosc.
    """

    def __init__(self, store: Store, empty: frozenset[str] | None, blosc: frozenset[str]) -> None:
        super().__init__(store)
        self.empty, self.blosc = empty, blosc

    def _with_store(self, store: Store) -> WholeStore:
        return type(self)(store, self.empty, self.blosc)

    def with_read_only(self, read_only: bool = False) -> WholeStore:
        """Same store, read-only or not."""
        return self._with_store(self._store.with_read_only(read_only))

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Value of a key; None only for metadata and chunks of zeros."""
        value = await self._store.get(key, prototype, byte_range)
        if key.rsplit("/", 1)[-1] in METADATA:
            return value
        if value is None:
            if self.empty is not None and key not in self.empty:
                raise LostChunkError(key)
        elif byte_range is None and any(key.startswith(path) for path in self.blosc):
            said = int.from_bytes(value[12:16].to_bytes(), "little")
            if said != len(value):
                what = f"{key} has {len(value)} bytes, and says {said}"
                raise CutChunkError(what)
        return value


def checked(stored: Any, empty: frozenset[str] | None = None) -> Any:
    """Same part of a zarr store, read such that cut chunks are errors; with `empty`, lost ones too."""
    arrays = [stored] if isinstance(stored, zarr.Array) else _arrays_in(stored)
    # Shards hold their chunks' lengths, under a checksum.
    blosc = frozenset(
        array.path and f"{array.path}/"
        for array in arrays
        if array.compressors and type(array.compressors[-1]).__name__ in BLOSC and array.shards is None
    )
    if empty is None and not blosc:
        return stored
    return zarr.open(WholeStore(stored.store, empty, blosc), path=stored.path, mode="r")


def _arrays_in(group: zarr.Group) -> list[Any]:
    return [member for _, member in group.members(max_depth=None) if isinstance(member, zarr.Array)]


def check_chunks(stored: Any, label: str) -> set[str]:
    """Refuse a matrix that lost chunks, which would read as zeros; returns keys of those that count as empty.

    Lists the chunks and reads none. A sparse matrix has all of its chunks. Of a dense one, writers leave out
    chunks of zeros, and only shards record that. So a chunk may be missing only if those below and above it
    are, too: genes that no cell expresses look so, and lost chunks hardly do. That is warned of.
    """
    if not isinstance(stored, zarr.Group | h5py.Group):
        return _check_dense(stored, label)
    parts: dict[str, Any] = {part: stored[part] for part in ("data", "indices", "indptr")}
    matrix = sparse_dataset(stored)
    major = matrix.shape[matrix.format == "csc"]
    held = {part: array.shape[0] for part, array in parts.items()}
    if held["data"] != held["indices"] or held["indptr"] != major + 1:
        what = f"{label} is damaged: the lengths of {stored.name.strip('/')} disagree ({held})."
        raise InputReadError(what, WRITE_AGAIN)
    if not held["data"]:  # without values, pointers are all zero
        return _keys(parts["indptr"], missing_chunks(parts["indptr"]))
    for array in parts.values():
        lost = missing_chunks(array)
        if lost.any():
            raise _lacks(label, array, lost, NOT_ALL_STORED)
    return set()


def _check_dense(array: Any, label: str) -> set[str]:
    lost = missing_chunks(array)
    if not lost.any():
        return set()
    columns, name = lost.all(axis=0), array.name.strip("/")
    # An embedding of zeros is only carried along.
    some = (len(lost) > 1 and not lost.all()) or name.startswith(("obsm/", "obsp/"))
    unused = isinstance(array, zarr.Array) and array.fill_value == 0 and some
    if not unused or (lost != columns).any():
        remedy = NOT_ALL_STORED if isinstance(array, zarr.Array) else WRITE_AGAIN
        raise _lacks(label, array, lost, remedy)
    message = (
        f"{label} lacks {lost.sum()} of the {lost.size} chunks of {name}, in all rows of "
        f"the same columns. They count as zeros, as writers leave these out.\n"
        "If these columns hold anything, copy or write the file again."
    )
    warnings.warn(message, UserWarning, stacklevel=2)
    return _keys(array, lost)


def check_annotations(elem: Any, label: str, used: Collection[str] = ()) -> None:
    """Refuse annotations of a zarr store that lost chunks which are needed; warn of those that may be zeros.

    Names, and what categorical columns call their categories, are never all empty; on columns that are `used`
    the correction depends. Of other columns, writers leave out chunks of zeros; unset flags, and masks where
    nothing is missing, are too common to tell.
    """
    if not isinstance(elem, zarr.Group | zarr.Array):
        return
    index, doubtful = elem.attrs.get("_index"), []
    for array in [elem] if isinstance(elem, zarr.Array) else _arrays_in(elem):
        if not array.ndim or not (lost := missing_chunks(array)).any():
            continue
        holder, _, part = array.path.rpartition("/")
        column = array.path.removeprefix(elem.path).strip("/").split("/")[0]
        only = part == "codes" and _n_categories(elem, holder) <= 1
        if part in {"categories", "_index"} or column == index:
            raise _lacks(label, array, lost, WRITE_AGAIN)
        if column in used and part != "mask" and not only:
            raise _lacks(label, array, lost, NOT_ALL_STORED)
        unset = array.dtype.kind == "b" and lost.all()
        if not (unset or only or part == "mask"):
            doubtful.append(array.path)
    if doubtful:
        message = (
            f"{label} lacks chunks of {', '.join(doubtful)}. They count as zeros (of codes: the first "
            "category), as writers leave these out.\n"
            "If they hold anything else, copy the file again; write it with "
            "zarr.config.set({'array.write_empty_chunks': True}) to be sure."
        )
        warnings.warn(message, UserWarning, stacklevel=2)


def _n_categories(elem: Any, column: str) -> int:
    """Number of categories of a categorical column, given by its path in the store."""
    categories = zarr.open_array(elem.store, path=f"{column}/categories", mode="r")
    return int(categories.shape[0])


def _keys(array: Any, chunks: NDArray[np.bool_]) -> set[str]:
    """Keys of the chunks that are marked."""
    if not isinstance(array, zarr.Array):
        return set()
    return {chunk_key(array, tuple(map(int, at))) for at in np.argwhere(chunks)}


def _lacks(label: str, array: Any, lost: NDArray[np.bool_], remedy: str) -> InputError:
    name, first = array.name.strip("/") or "its data", ""
    if isinstance(array, zarr.Array):
        key = min(_keys(array, lost))
        # Raises where it is in a folder that may not be read: such look empty when they are listed.
        sync(array.store.get(key, default_buffer_prototype()))
        first = f", such as {key}"
    what = f"{label} lacks {lost.sum()} of the {lost.size} chunks of {name}{first}."
    return InputError(what, remedy)


def missing_chunks(array: Any, held: Collection[str] | None = None) -> NDArray[np.bool_]:
    """Which chunks (or shards) of an array are not in its store, in the shape of their grid.

    Lists its keys, unless `held` are those.
    """
    if not isinstance(array, zarr.Array):
        return _missing_in_hdf5(array)
    grid = tuple(-(-n // size) for n, size in zip(array.shape, stored_chunks(array), strict=True))
    if held is None:
        held = keys_in(array.store, array.path)
    keys = (chunk_key(array, at) not in held for at in np.ndindex(grid))
    return np.fromiter(keys, np.bool_, int(np.prod(grid))).reshape(grid)


def keys_in(store: Store, prefix: str = "") -> set[str]:
    """All keys of a store below a prefix."""

    async def listed() -> set[str]:
        return {key async for key in store.list_prefix(f"{prefix}/" if prefix else "")}

    return sync(listed())


def stored_chunks(array: Any) -> tuple[int, ...]:
    """Shape of what a zarr array keeps under one key: its shards, or chunks."""
    return tuple(array.shards or array.chunks)


def chunk_key(array: Any, at: tuple[int, ...]) -> str:
    """Key, in its store, of a chunk (or shard) at a place in the grid."""
    return f"{array.path}/{array.metadata.encode_chunk_key(at)}".lstrip("/")


def _missing_in_hdf5(dataset: Any) -> NDArray[np.bool_]:
    """One flag for each chunk, in no order: HDF5 stores what was written, zeros too, and counts it."""
    if dataset.is_virtual or dataset.external or not dataset.size:
        return np.zeros(1, np.bool_)
    if dataset.chunks is None:
        return np.array([dataset.id.get_storage_size() == 0])
    n = int(np.prod([-(-s // c) for s, c in zip(dataset.shape, dataset.chunks, strict=True)]))
    held = int(dataset.id.get_num_chunks())
    return np.arange(n) >= held
