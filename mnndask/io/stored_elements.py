"""Elements of a stored AnnData: tables and mappings in memory, matrices lazily; unknown ones are left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import h5py
import zarr
from anndata import OldFormatWarning
from anndata.io import read_elem
from pandas import DataFrame

from mnndask._library_state import ignoring
from mnndask.errors import InputError, InputReadError
from mnndask.io.changes import Changes, at
from mnndask.io.old_h5ad import CATEGORIES, as_table, with_categories
from mnndask.stores.block_reader import first_unreadable
from mnndask.stores.declared_sizes import check_loaded
from mnndask.stores.hdf5 import check_filters
from mnndask.stores.item_counts import ItemCountError
from mnndask.stores.lazy_matrix import lazy_matrix
from mnndask.stores.missing_chunks import check_annotation_chunks
from mnndask.stores.read_errors import WRITE_AGAIN, reading
from mnndask.stores.whole_store import arrays_in, opened_strictly

SPARSE = ("csr_matrix", "csc_matrix")
OTHER_SHAPE = "its shape does not match"


class UnknownElementError(InputReadError):
    """An element is intact, but the installed anndata cannot read it."""

    why = ""


def read_element(group: Any, name: str, label: str, used: Collection[str] = ()) -> Any:
    """Read an element into memory.

    Raises
    ------
    UnknownElementError
        If the installed anndata does not support it.
    InputError, InputReadError
        If chunks are missing or it is damaged.
    """
    elem = group[name]
    with reading(label, f"{group.name}/{name}".strip("/")):
        check_filters(elem, label)
        check_loaded(elem, label)
        check_annotation_chunks(elem, label, used)
        source = elem if isinstance(group, h5py.Group) else opened_strictly(elem)
        try:
            _read_old_categories(source)
            return read_elem(source)
        except ItemCountError as error:
            raise _naming_chunk(error, source) from error
        except Exception as error:
            if not is_unknown(error):
                raise
            why = _short(error)
            what = f"{label} cannot be read: {f'{group.name}/{name}'.strip('/')} is {why}."
            unknown = UnknownElementError(what, "Read it with another anndata, and write it as another type.")
            unknown.why = why
            raise unknown from error


def _naming_chunk(error: ItemCountError, source: Any) -> ItemCountError:
    """Return an error that names the chunk, for which those of its array are read again one by one."""
    array = source
    if isinstance(source, zarr.Group):
        array = source[error.path.removeprefix(source.path).strip("/")]
    chunk, cause = first_unreadable(array, [slice(0, n) for n in array.shape]) or ("", error)
    return ItemCountError(error.path, cause.counts, chunk) if isinstance(cause, ItemCountError) else error


def _read_old_categories(source: Any) -> None:
    """Read categories of tables of anndata 0.7, whose stores anndata opens again, without our checks."""
    if isinstance(source, zarr.Group):
        for array in arrays_in(source):
            if "__categories" in array.path.split("/"):
                array[...]


def is_unknown(error: BaseException) -> bool:
    """Whether anndata lacks a reader or a package that an element needs."""
    return isinstance(error, ImportError) or type(error).__name__ == "IORegistryError"


def _short(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return f"of a type that needs {error.name or error}, which is not installed"
    return "of a type that this release of anndata does not support"


def read_table(
    group: Any, name: str, label: str, changes: Changes, used: Collection[str] = (), where: str = ""
) -> DataFrame:
    """Read a table; columns that anndata does not support are left out and noted."""
    where = where or name
    if name not in group:
        what = f"{label} has no {where}."
        raise InputError(what, "Write it again with AnnData.write_zarr or write_h5ad.")
    elem = group[name]
    try:
        out = read_element(group, name, label, used)
    except UnknownElementError:
        index = read_element(elem, elem.attrs["_index"], label)
        columns = {}
        for column in columns_of(elem):
            try:
                columns[column] = read_element(elem, column, label, used)
            except UnknownElementError as error:
                changes.left_out[at(where, column)] = error.why
        out = DataFrame(columns, index=index)
    return as_table(out) if isinstance(elem, h5py.Dataset) else out


def read_mapping(group: Any, name: str, label: str, changes: Changes, where: str = "") -> Any:
    """Read a mapping (``uns``, ``varm``); members that anndata does not support are left out and noted."""
    where = where or name
    try:
        return read_element(group, name, label)
    except UnknownElementError as error:
        elem = group[name]
        if elem.attrs.get("encoding-type") != "dict":
            changes.left_out[where] = error.why
            return None
        read = {key: read_mapping(elem, key, label, changes, at(where, key)) for key in elem}
        return {key: value for key, value in read.items() if at(where, key) not in changes.left_out}


def read_matrices(
    group: Any, name: str, changes: Changes, shape: tuple[int, ...], chunk_bytes: int, first: int
) -> Any:
    """Read a mapping of matrices (``layers``, ``obsm``) lazily; tables and other elements are in memory."""
    elem, label = group[name], changes.of
    if isinstance(elem, h5py.Dataset):  # very old files have one table of all matrices
        return read_element(group, name, label)
    out = {}
    for key in elem:
        found = stored_shape(elem[key])
        if any(n < 0 for n in found or ()):
            what = f"{label} is damaged: {name}/{key} declares the shape {found}."
            raise InputReadError(what, WRITE_AGAIN)
        if not fits(found, shape):
            changes.left_out[at(name, key)] = OTHER_SHAPE
            continue
        try:
            out[key] = read_matrix(elem, key, label, chunk_bytes, first)
        except UnknownElementError as error:
            changes.left_out[at(name, key)] = error.why
    return shaped(out, name, shape, changes)


def shaped(elements: dict[str, Any], name: str, shape: tuple[int, ...], changes: Changes) -> dict[str, Any]:
    """Return the elements that have the rows (and columns) of a shape; others are noted."""
    out = {}
    for key, value in elements.items():
        if isinstance(value, dict) or not fits(getattr(value, "shape", None), shape):
            changes.left_out[at(name, key)] = OTHER_SHAPE
        else:
            out[key] = value
    return out


def fits(found: Sequence[int] | None, shape: tuple[int, ...]) -> bool:
    """Whether the first dimensions of an element, if they are known, are those of a shape."""
    return found is None or tuple(found[: len(shape)]) == shape


def stored_shape(elem: Any) -> tuple[int, ...] | None:
    """Shape that a stored matrix declares; None for other elements."""
    if isinstance(elem, h5py.Dataset | zarr.Array):
        return None if elem.shape is None else tuple(map(int, elem.shape))
    declared = elem.attrs.get("shape", elem.attrs.get("h5sparse_shape"))
    known = elem.attrs.get("encoding-type") in SPARSE or "h5sparse_format" in elem.attrs
    return tuple(map(int, declared)) if known and declared is not None else None


def read_matrix(group: Any, name: str, label: str, chunk_bytes: int, first: int = 0) -> Any:
    """Return a matrix lazily; tables and other arrays are read into memory by anndata."""
    elem = group[name]
    encoding = elem.attrs.get("encoding-type")
    plain = isinstance(elem, h5py.Dataset) and encoding is None and not elem.dtype.names  # in old files
    if plain or encoding in {"array", *SPARSE} or "h5sparse_format" in elem.attrs:
        return lazy_matrix(elem, label, chunk_bytes=chunk_bytes, first=first)
    return read_element(group, name, label)


def member(group: Any, name: str) -> Any:
    """Return a member of a group, or None if there is none; raise if it is damaged (``get`` does not)."""
    return group[name] if name in group else None  # noqa: SIM401


def columns_of(elem: Any) -> list[str]:
    """Names of the columns of a stored table."""
    return [str(name) for name in elem.attrs["column-order"]]


def read_old_table(group: Any, name: str, label: str, columns: Collection[str]) -> DataFrame:
    """Read a table of an old file, with the categories of `columns`."""
    named = [f"{column}{CATEGORIES}" for column in columns]
    uns = member(group, "uns")
    uns = {} if uns is None else uns
    categories = {key: read_element(uns, key, label) for key in named if key in uns}
    return with_categories(read_table(group, name, label, Changes()), categories)


def quietly_old() -> AbstractContextManager[None]:
    """Suppress warnings of anndata about old files that it can read."""
    return ignoring(("", OldFormatWarning), ("Moving element from .uns", FutureWarning))
