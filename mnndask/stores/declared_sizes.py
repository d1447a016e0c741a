"""Sizes that metadata declares, compared with memory and with what is stored before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import h5py
import psutil
import zarr
from dask.utils import format_bytes

from mnndask._resources import free_memory
from mnndask.errors import InputReadError
from mnndask.stores.read_errors import WRITE_AGAIN

COMPRESSION = 1000  # by which codecs rarely compress more
LARGE = 2**30  # bytes; smaller arrays may be constant, and compress to almost nothing
ROWS = ("", "/codes", "/values", "/mask")  # arrays of a column that have one entry per row


def check_loaded(stored: Any, label: str) -> None:
    """Check an array, or all arrays of a group, that are to be read into memory as a whole.

    Reads metadata only.

    Raises
    ------
    InputReadError
        If they would not fit in free memory, if almost nothing of so much is stored, or if columns of a table
        differ in length.
    """
    members = _members(stored)
    for member in members.values():
        if not _is_array(member) and member.attrs.get("encoding-type") == "dataframe":
            check_rows(member, label, members)
    arrays = sorted(filter(_is_array, members.values()), key=_bytes)
    size, free = sum(map(_bytes, arrays)), free_memory().size
    if size > free or (size > LARGE and size > COMPRESSION * sum(map(_stored_bytes, arrays))):
        raise _too_large(arrays[-1], label, size, free)


def check_chunk_sizes(stored: Any, label: str) -> None:
    """Check an array, or the arrays of a sparse matrix, that are read a chunk at a time.

    Raises
    ------
    InputReadError
        If one chunk is larger than the memory of this machine, and than what is stored can be.
    """
    total = int(psutil.virtual_memory().total)
    for array in filter(_is_array, _members(stored).values()):
        if not array.chunks:
            continue
        size = math.prod(map(int, array.chunks)) * array.dtype.itemsize
        if size > total and size > COMPRESSION * _stored_bytes(array):
            raise _too_large(array, label, size, total)


def check_rows(table: Any, label: str, members: Mapping[str, Any] | None = None) -> None:
    """Check that all columns of a stored table are as long as its index. Reads metadata only.

    `members` are those of the table, by their names in the store, if known.

    Raises
    ------
    InputReadError
        If they are not.
    """
    names = [str(table.attrs["_index"]), *map(str, table.attrs.get("column-order", ()))]
    known = _members(table) if members is None else members
    of_columns = [f"{table.name}/{name}{part}" for name in names for part in ROWS]
    arrays = [known[place] for place in of_columns if _is_array(known.get(place))]
    for array in arrays:
        n_rows, n = arrays[0].shape[0], array.shape[0]
        if n != n_rows:
            what = f"{label} is damaged: {array.name.strip('/')} has {n:,} entries for {n_rows:,} rows."
            raise InputReadError(what, WRITE_AGAIN)


def _members(stored: Any) -> dict[str, Any]:
    """Return all arrays and groups below an array or group, and itself, by name."""
    members = {stored.name: stored}
    if isinstance(stored, zarr.Group):
        members |= {member.name: member for _, member in stored.members(max_depth=None)}
    elif isinstance(stored, h5py.Group):
        stored.visititems(lambda _, member: members.update({member.name: member}))
    return members


def _is_array(member: Any) -> bool:
    return isinstance(member, zarr.Array | h5py.Dataset)


def _bytes(array: Any) -> int:
    """Bytes of an array in memory; texts count as pointers to them."""
    return math.prod(map(int, array.shape or ())) * int(array.dtype.itemsize)  # no shape: empty


def _stored_bytes(array: Any) -> int:
    return int(array.id.get_storage_size() if isinstance(array, h5py.Dataset) else array.nbytes_stored())


def _too_large(array: Any, label: str, size: int, memory: int) -> InputReadError:
    shape = " x ".join(f"{n:,}" for n in array.shape)
    name, stored = array.name.strip("/") or "its data", format_bytes(_stored_bytes(array))
    what = (
        f"{label} cannot be read: {name} declares {shape} values, {format_bytes(size)} in memory, of which "
        f"{format_bytes(memory)} are there; {stored} are stored."
    )
    return InputReadError(what, "If it is that large, free memory; otherwise it is damaged: write it again.")
