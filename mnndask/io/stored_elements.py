"""Elements of a stored AnnData: tables and mappings in memory, matrices lazily; unknown ones left aside."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import h5py
from anndata import OldFormatWarning
from anndata.io import read_elem
from pandas import DataFrame

from mnndask.errors import InputError, InputReadError
from mnndask.io.changes import Changes, at
from mnndask.reading import lazy_matrix
from mnndask.stored_chunks import check_annotations
from mnndask.stores.hdf5 import check_filters
from mnndask.stores.old_h5ad import CATEGORIES, as_table, with_categories
from mnndask.stores.read_errors import reading
from mnndask.stores.whole_store import checked


class UnknownElementError(InputReadError):
    """An element that is whole, and that this anndata cannot read."""

    why = ""


def in_memory(group: Any, name: str, label: str, used: Collection[str] = ()) -> Any:
    """Read an element.

    Raises
    ------
    UnknownElementError
        If anndata, as it is installed, does not know it.
    InputError, InputReadError
        If it lost chunks or is damaged.
    """
    elem = group[name]
    with reading(label, f"{group.name}/{name}".strip("/")):
        check_filters(elem, label)
        check_annotations(elem, label, used)
        try:
            return read_elem(elem if isinstance(group, h5py.Group) else checked(elem))
        except Exception as error:
            if not is_unknown(error):
                raise
            why = _short(error)
            what = f"{label} cannot be read: {f'{group.name}/{name}'.strip('/')} is {why}."
            unknown = UnknownElementError(what, "Read it with another anndata, and write it in another form.")
            unknown.why = why
            raise unknown from error


def is_unknown(error: BaseException) -> bool:
    """Whether anndata lacks what an element needs: a reader, or a package."""
    return isinstance(error, ImportError) or type(error).__name__ == "IORegistryError"


def _short(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return f"of a kind that needs {error.name or error}, which is not installed"
    return "of a kind that this release of anndata does not know"


def table(
    group: Any, name: str, label: str, changes: Changes, used: Collection[str] = (), where: str = ""
) -> DataFrame:
    """Read a table; columns that anndata does not know are left aside and noted."""
    where = where or name
    if name not in group:
        what = f"{label} has no {where}."
        raise InputError(what, "Write it again with AnnData.write_zarr or write_h5ad.")
    elem = group[name]
    try:
        out = in_memory(group, name, label, used)
    except UnknownElementError:
        index = in_memory(elem, elem.attrs["_index"], label)
        columns = {}
        for column in columns_of(elem):
            try:
                columns[column] = in_memory(elem, column, label, used)
            except UnknownElementError as error:
                changes.left_out[at(where, column)] = error.why
        out = DataFrame(columns, index=index)
    return as_table(out) if isinstance(elem, h5py.Dataset) else out


def mapping(group: Any, name: str, label: str, changes: Changes, where: str = "") -> Any:
    """Read a mapping (``uns``, ``varm``); members that anndata does not know are left aside and noted."""
    where = where or name
    try:
        return in_memory(group, name, label)
    except UnknownElementError as error:
        elem = group[name]
        if elem.attrs.get("encoding-type") != "dict":
            changes.left_out[where] = error.why
            return None
        read = {key: mapping(elem, key, label, changes, at(where, key)) for key in elem}
        return {key: value for key, value in read.items() if at(where, key) not in changes.left_out}


def matrices(
    group: Any, name: str, label: str, changes: Changes, shape: tuple[int, ...], chunk_bytes: int, first: int
) -> Any:
    """Read a mapping of matrices (``layers``, ``obsm``), each lazily; tables and others in memory."""
    elem = group[name]
    if isinstance(elem, h5py.Dataset):  # very old files have one table of them all
        return in_memory(group, name, label)
    out = {}
    for key in elem:
        try:
            out[key] = matrix(elem, key, label, chunk_bytes, first)
        except UnknownElementError as error:
            changes.left_out[at(name, key)] = error.why
    return shaped(out, name, shape, changes)


def shaped(held: dict[str, Any], name: str, shape: tuple[int, ...], changes: Changes) -> dict[str, Any]:
    """Elements that have the rows (and columns) of a shape; others are noted."""
    out = {}
    for key, value in held.items():
        found = getattr(value, "shape", shape)
        if isinstance(value, dict) or tuple(found[: len(shape)]) != shape:
            changes.left_out[at(name, key)] = "not of the shape that it should have"
        else:
            out[key] = value
    return out


def matrix(group: Any, name: str, label: str, chunk_bytes: int, first: int = 0) -> Any:
    """Lazy matrix; tables and other arrays as anndata reads them."""
    elem = group[name]
    encoding = elem.attrs.get("encoding-type")
    plain = isinstance(elem, h5py.Dataset) and encoding is None and not elem.dtype.names  # of old files
    if plain or encoding in {"array", "csr_matrix", "csc_matrix"} or "h5sparse_format" in elem.attrs:
        return lazy_matrix(elem, label, chunk_bytes=chunk_bytes, first=first)
    return in_memory(group, name, label)


def columns_of(elem: Any) -> list[str]:
    """Names of the columns of a stored table."""
    return [str(name) for name in elem.attrs["column-order"]]


def old_table(group: Any, name: str, label: str, columns: Collection[str]) -> DataFrame:
    """Table of an old file, with the categories of some columns."""
    named = [f"{column}{CATEGORIES}" for column in columns]
    uns = group.get("uns", {})
    categories = {key: in_memory(uns, key, label) for key in named if key in uns}
    return with_categories(table(group, name, label, Changes()), categories)


@contextmanager
def quietly_old() -> Iterator[None]:
    """Without what anndata says of a file that it reads all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldFormatWarning)
        warnings.filterwarnings("ignore", "Moving element from .uns", FutureWarning)
        yield
