"""Which chunks of stored matrices and annotations are there."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import zarr
from anndata.io import sparse_dataset
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from mnndask.errors import InputError, InputReadError
from mnndask.stores.plain_http import HttpStore, answering
from mnndask.stores.read_errors import WRITE_AGAIN
from mnndask.stores.whole_store import arrays_in

AT_ONCE = 32  # requests to a web server
NOT_ALL_STORED = (
    "Copy or write it again. If what is missing is all zeros, which some writers leave out, write it with "
    "zarr.config.set({'array.write_empty_chunks': True})."
)


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
    the correction depends. Of other columns, writers leave out chunks of zeros; unset flags are too common to
    tell. A mask lacks the chunks of values of which none is missing, so any of its chunks may be left out.
    """
    if not isinstance(elem, zarr.Group | zarr.Array):
        return
    doubtful = []
    for part in _parts_of(elem):
        array = part.array
        if not array.ndim or part.role == "mask" or not (lost := missing_chunks(array)).any():
            continue
        if part.role == "codes" and _n_categories(elem, part) <= 1:
            continue
        # The only category may be a zero that is left out; a text is likelier lost than empty.
        zero = array.shape == (1,) and array.dtype.kind in "biuf"
        if part.is_names or (part.role == "categories" and not zero):
            raise _lacks(label, array, lost, WRITE_AGAIN)
        if part.role == "values" and not (lost := _lost_values(elem, part, lost)).any():
            continue
        if part.column in used:
            raise _lacks(label, array, lost, NOT_ALL_STORED)
        if not (array.dtype.kind == "b" and lost.all()):
            doubtful.append(array.path)
    if doubtful:
        message = (
            f"{label} lacks chunks of {', '.join(doubtful)}. They count as zeros (of codes: the first "
            "category), as writers leave these out.\n"
            "If they hold anything else, copy the file again; write it with "
            "zarr.config.set({'array.write_empty_chunks': True}) to be sure."
        )
        warnings.warn(message, UserWarning, stacklevel=2)


@dataclass(frozen=True)
class _Part:
    """One array of annotations.

    Parameters
    ----------
    array
        The array.
    column
        Which member of the annotations it is, or is in.
    holder
        Path of the group that it is in.
    role
        ``"codes"`` or ``"categories"`` of a categorical, ``"values"`` or ``"mask"`` of an array in which
        values may be missing; else empty.
    is_names
        Whether the names of a table's rows are in it.
    """

    array: Any
    column: str
    holder: str
    role: str
    is_names: bool


def _parts_of(elem: Any) -> Iterator[_Part]:
    if isinstance(elem, zarr.Array):
        yield _Part(elem, "", elem.path.rpartition("/")[0], "", is_names=False)
        return
    groups = {elem.path: elem}
    groups |= {member.path: member for _, member in elem.members(max_depth=None)}
    for array in arrays_in(elem):
        holder, _, name = array.path.rpartition("/")
        table, role = holder, ""
        encoding = str(groups[holder].attrs.get("encoding-type"))
        if holder.endswith("__categories"):  # of anndata 0.7
            role = "categories"
        elif encoding == "categorical" or encoding.startswith("nullable"):
            role, (table, _, name) = name, holder.rpartition("/")
        is_names = table in groups and groups[table].attrs.get("_index") == name
        column = array.path.removeprefix(elem.path).strip("/").split("/")[0]
        yield _Part(array, column, holder, role, is_names=is_names)


def _lost_values(elem: Any, part: _Part, lost: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which chunks of values are lost; where the mask says that all are missing, there are none to lose."""
    mask = zarr.open_array(answering(elem.store), path=f"{part.holder}/mask", mode="r")
    size = stored_chunks(part.array)[0]
    return np.array(
        [
            chunk_lost and not np.asarray(mask[i * size : (i + 1) * size]).all()
            for i, chunk_lost in enumerate(lost)
        ]
    )


def _n_categories(elem: Any, part: _Part) -> int:
    """Number of categories of the categorical that a part belongs to."""
    categories = zarr.open_array(answering(elem.store), path=f"{part.holder}/categories", mode="r")
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
        sync(answering(array.store).get(key, default_buffer_prototype()))
        first = f", such as {key}"
    what = f"{label} lacks {lost.sum()} of the {lost.size} chunks of {name}{first}."
    return InputError(what, remedy)


def missing_chunks(array: Any, held: Collection[str] | None = None) -> NDArray[np.bool_]:
    """Which chunks (or shards) of an array are not in its store, in the shape of their grid.

    Lists its keys, unless `held` are those. A web server may list none: it is asked for each.
    """
    if not isinstance(array, zarr.Array):
        return _missing_in_hdf5(array)
    grid = tuple(-(-n // size) for n, size in zip(array.shape, stored_chunks(array), strict=True))
    store = answering(array.store)
    if held is None:
        held = keys_in(store, array.path)
    keys = [chunk_key(array, at) for at in np.ndindex(grid)]
    if isinstance(store, HttpStore):
        held = {*held} | present(store, [key for key in keys if key not in held])
    return np.array([key not in held for key in keys], np.bool_).reshape(grid)


def present(store: Store, keys: Collection[str]) -> set[str]:
    """Those of some keys that are in a store, which is asked for several at once."""
    free = asyncio.Semaphore(AT_ONCE)

    async def is_there(key: str) -> bool:
        async with free:
            return await store.exists(key)

    async def asked() -> list[bool]:
        return await asyncio.gather(*map(is_there, keys))

    return {key for key, found in zip(keys, sync(asked()), strict=True) if found}


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
