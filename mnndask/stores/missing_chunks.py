"""Missing chunks of stored matrices and annotations: which of them are errors, and which count as zeros."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterator, Sequence
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

from mnndask.errors import InputError, InputReadError, warn
from mnndask.stores.file_versions import AT_ONCE, files_in, version_of_response
from mnndask.stores.plain_http import HttpStore, http_aware
from mnndask.stores.read_errors import WRITE_AGAIN
from mnndask.stores.retries import retrying
from mnndask.stores.whole_store import arrays_in

MOST_MISSING = 1_000_000  # chunks; more are not looked for one by one

NOT_ALL_STORED = (
    "Copy or write it again. If the missing chunks contain only zeros, which some writers omit, write it "
    "with zarr.config.set({'array.write_empty_chunks': True})."
)


def check_chunks(stored: Any, label: str, keys: Collection[str] | None = None) -> set[str]:
    """Refuse a matrix with missing chunks, which would read as zeros; return keys of those taken for empty.

    Lists the chunks, unless `keys` contains all that exist, and reads none. A sparse matrix needs all of its
    chunks. For dense matrices, some writers omit chunks of zeros, and only shards record that. A chunk may
    therefore be missing only if all chunks of the same columns are: this is typical of genes that no cell
    expresses and unlikely for chunks that were lost. It causes a warning.
    """
    if not isinstance(stored, zarr.Group | h5py.Group):
        return _check_dense(stored, label, keys)
    parts: dict[str, Any] = {part: stored[part] for part in ("data", "indices", "indptr")}
    matrix = sparse_dataset(stored)
    major = matrix.shape[matrix.format == "csc"]
    lengths = {part: array.shape[0] for part, array in parts.items()}
    if lengths["data"] != lengths["indices"] or lengths["indptr"] != major + 1:
        what = f"{label} is damaged: the lengths of {stored.name.strip('/')} disagree ({lengths})."
        raise InputReadError(what, WRITE_AGAIN)
    if not lengths["data"]:  # without values, all pointers are zero
        return _keys(parts["indptr"], missing_chunks(parts["indptr"], keys))
    for array in parts.values():
        missing = missing_chunks(array, keys)
        if missing.any():
            raise _missing_chunks_error(label, array, missing, NOT_ALL_STORED)
    return set()


def _check_dense(array: Any, label: str, keys: Collection[str] | None) -> set[str]:
    missing = missing_chunks(array, keys)
    if not missing.any():
        return set()
    columns, name = missing.all(axis=0), array.name.strip("/")
    # Embeddings are only passed on, and may be all zeros.
    may_be_zeros = (len(missing) > 1 and not missing.all()) or name.startswith(("obsm/", "obsp/"))
    unused = isinstance(array, zarr.Array) and array.fill_value == 0 and may_be_zeros
    if not unused or (missing != columns).any():
        remedy = NOT_ALL_STORED if isinstance(array, zarr.Array) else WRITE_AGAIN
        raise _missing_chunks_error(label, array, missing, remedy)
    what = (
        f"{label} lacks {missing.sum()} of the {missing.size} chunks of {name}, in all rows of "
        "the same columns. They count as zeros, since some writers omit chunks of zeros."
    )
    warn(what, "If these columns contain other values, copy or write the file again.")
    return _keys(array, missing)


def check_annotation_chunks(elem: Any, label: str, used: Collection[str] = ()) -> None:
    """Refuse annotations of a zarr store that lack necessary chunks; warn of those that may be zeros.

    Names of rows and categories are never all empty, and the correction depends on columns that are `used`.
    For other columns, some writers omit chunks of zeros; flags that are all False are too common for a
    warning. A mask has no chunks where no value is missing, so that any of its chunks may be omitted.
    """
    if not isinstance(elem, zarr.Group | zarr.Array):
        return
    doubtful = []
    for part in _parts_of(elem):
        array = part.array
        if not array.ndim or part.role == "mask" or not (missing := missing_chunks(array)).any():
            continue
        if part.role == "codes" and _n_categories(elem, part) <= 1:
            continue
        # The only category may be an omitted zero; a text is more likely to be lost than empty.
        zero = array.shape == (1,) and array.dtype.kind in "biuf"
        if part.is_names or (part.role == "categories" and not zero):
            raise _missing_chunks_error(label, array, missing, WRITE_AGAIN)
        if part.role == "values" and not (missing := _missing_unmasked(elem, part, missing)).any():
            continue
        if part.column in used:
            raise _missing_chunks_error(label, array, missing, NOT_ALL_STORED)
        if not (array.dtype.kind == "b" and missing.all()):
            doubtful.append(array.path)
    if doubtful:
        warn(
            f"{label} lacks chunks of {', '.join(doubtful)}. They count as zeros (in codes: the first "
            "category), since some writers omit chunks of zeros.",
            "If they contain other values, copy the file again; to be sure, write it with "
            "zarr.config.set({'array.write_empty_chunks': True}).",
        )


@dataclass(frozen=True)
class _Part:
    """One array of annotations.

    Parameters
    ----------
    array
        The array.
    column
        Member of the annotations that it is or belongs to.
    holder
        Path of the group that contains it.
    role
        ``"codes"`` or ``"categories"`` of a categorical, ``"values"`` or ``"mask"`` of a nullable array;
        otherwise empty.
    is_names
        Whether it contains the row names of a table.
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
        if holder.endswith("__categories"):  # written by anndata 0.7
            role = "categories"
        elif encoding == "categorical" or encoding.startswith("nullable"):
            role, (table, _, name) = name, holder.rpartition("/")
        is_names = table in groups and groups[table].attrs.get("_index") == name
        column = array.path.removeprefix(elem.path).strip("/").split("/")[0]
        yield _Part(array, column, holder, role, is_names=is_names)


def _missing_unmasked(elem: Any, part: _Part, missing: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Missing chunks of a nullable array in which the mask does not mark all values as missing."""
    mask = zarr.open_array(http_aware(elem.store), path=f"{part.holder}/mask", mode="r")
    size = stored_chunks(part.array)[0]
    return np.array(
        [
            chunk_missing and not np.asarray(mask[i * size : (i + 1) * size]).all()
            for i, chunk_missing in enumerate(missing)
        ]
    )


def _n_categories(elem: Any, part: _Part) -> int:
    """Number of categories of the categorical that an array belongs to."""
    categories = zarr.open_array(http_aware(elem.store), path=f"{part.holder}/categories", mode="r")
    return int(categories.shape[0])


def _keys(array: Any, chunks: NDArray[np.bool_]) -> set[str]:
    """Keys of the marked chunks."""
    if not isinstance(array, zarr.Array):
        return set()
    return {chunk_key(array, tuple(map(int, at))) for at in np.argwhere(chunks)}


def _missing_chunks_error(label: str, array: Any, missing: NDArray[np.bool_], remedy: str) -> InputError:
    name, first = array.name.strip("/") or "its data", ""
    if isinstance(array, zarr.Array):
        key = min(_keys(array, missing))
        # Raises if the folder may not be read; such folders look empty when listed.
        sync(http_aware(array.store).get(key, default_buffer_prototype()))
        first = f", such as {key}"
    what = f"{label} lacks {missing.sum()} of the {missing.size} chunks of {name}{first}."
    return InputError(what, remedy)


def missing_chunks(array: Any, stored: Collection[str] | None = None) -> NDArray[np.bool_]:
    """Return which chunks (or shards) of an array are missing from its store, in the shape of the chunk grid.

    Lists the keys of the array unless `stored` contains them. Web servers may not list keys, so that each
    key is requested.
    """
    if not isinstance(array, zarr.Array):
        return _missing_in_hdf5(array)
    grid, found = chunk_grid(array), stored
    store = http_aware(retrying(array.store))
    if found is None:
        found = keys_in(store, array.path)
    is_web = isinstance(store, HttpStore)  # which may list none
    if not is_web:
        _check_grid(math.prod(grid), len(found))
    keys = chunk_keys(array)
    if stored is None and is_web:
        found = {*found} | present(store, [key for key in keys if key not in found])
    return np.array([key not in found for key in keys], np.bool_).reshape(grid)


def present(store: Store, keys: Collection[str]) -> set[str]:
    """Return the keys that exist in a store, with concurrent requests."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def exists(key: str) -> bool:
        async with limit:
            return await store.exists(key)

    async def all_exist() -> list[bool]:
        return await asyncio.gather(*map(exists, keys))

    return {key for key, found in zip(keys, sync(all_exist()), strict=True) if found}


def keys_in(store: Store, prefix: str = "") -> set[str]:
    """Return all keys of a store below a prefix."""
    return set(files_in(store, prefix))


def chunk_files(stored: Any) -> dict[str, int]:
    """Keys of the chunks of a zarr array or group, with the versions of their files.

    Of a web server, each is requested, as it lists no versions.
    """
    store = http_aware(stored.store)
    if not isinstance(store, HttpStore):
        return files_in(store, stored.path)
    arrays = [stored] if isinstance(stored, zarr.Array) else arrays_in(stored)
    found = present(store, [key for array in arrays for key in chunk_keys(array)])
    return {key: version_of_response(store, key) for key in found}


def stored_chunks(array: Any) -> tuple[int, ...]:
    """Shape of the shards (or chunks) that a zarr array stores under one key each."""
    return tuple(array.shards or array.chunks)


def chunk_grid(array: Any) -> tuple[int, ...]:
    """Number of chunks (or shards) of a zarr array along each axis."""
    return tuple(-(-n // size) for n, size in zip(array.shape, stored_chunks(array), strict=True))


def chunk_key(array: Any, at: tuple[int, ...]) -> str:
    """Key of the chunk (or shard) at a position of the grid."""
    return f"{array.path}/{array.metadata.encode_chunk_key(at)}".lstrip("/")


def chunk_keys(array: Any, numbers: Sequence[int] | NDArray[np.integer] | None = None) -> list[str]:
    """Keys of the chunks (or shards) with these numbers in the order of the grid; of all by default."""
    grid, encode = chunk_grid(array), array.metadata.encode_chunk_key
    start = f"{array.path}/" if array.path else ""
    if numbers is None:
        return [start + encode(at) for at in np.ndindex(grid)]
    return [
        start + encode(at)
        for at in zip(*(part.tolist() for part in np.unravel_index(numbers, grid)), strict=True)
    ]


def _missing_in_hdf5(dataset: Any) -> NDArray[np.bool_]:
    """One flag per chunk, in no particular order: HDF5 counts the chunks that were written, zeros too."""
    if dataset.is_virtual or dataset.external or not dataset.size:
        return np.zeros(1, np.bool_)
    if dataset.chunks is None:
        return np.array([dataset.id.get_storage_size() == 0])
    n = math.prod(-(-s // c) for s, c in zip(dataset.shape, dataset.chunks, strict=True))
    n_stored = int(dataset.id.get_num_chunks())
    _check_grid(n, n_stored)
    return np.arange(n) >= n_stored


def _check_grid(n: int, n_stored: int) -> None:
    """Refuse a declared number of chunks far beyond those that are stored, before it is allocated."""
    if n - n_stored > MOST_MISSING:
        what = f"it declares {n:,} chunks, of which {n_stored:,} are stored"
        raise ValueError(what)
