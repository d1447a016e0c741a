"""AnnData stores, opened lazily: annotations in memory, matrices on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import zarr
from anndata import AnnData
from pandas import DataFrame
from zarr.errors import ContainsArrayError

from mnndask._blocks import CHUNK_BYTES
from mnndask._library_state import exclusive
from mnndask.errors import InputError, InputKeyError, InputNotFoundError, MNNError, without_warnings
from mnndask.io.changes import Changes
from mnndask.io.input_checks import check_shape
from mnndask.io.old_h5ad import is_old, unreadable_old, with_categories, without_categories
from mnndask.io.stored_elements import (
    columns_of,
    member,
    quietly_old,
    read_element,
    read_mapping,
    read_matrices,
    read_matrix,
    read_old_table,
    read_table,
    shaped,
    stored_shape,
)
from mnndask.stores.declared_sizes import check_rows
from mnndask.stores.hdf5 import is_locked, locked_error, open_hdf5
from mnndask.stores.location import Location, access_denied, is_denied, reaching
from mnndask.stores.missing_chunks import check_annotation_chunks
from mnndask.stores.plain_http import HttpStore
from mnndask.stores.read_errors import reading, unreadable

ANNDATA_STORES = "Inputs are AnnData stores: .zarr directories or .h5ad files."


@exclusive()
def open_lazily(
    location: Location,
    layer: str | None,
    label: str,
    chunk_bytes: int = CHUNK_BYTES,
    used: Collection[str] = (),
    first: int = 0,
) -> AnnData:
    """Open an AnnData store (``.zarr`` or ``.h5ad``): annotations in memory, matrices on disk.

    Columns of its tables that are `used` must have all of their chunks. For `first`, see
    :func:`mnndask.stores.lazy_matrix.lazy_matrix`.

    Raises
    ------
    InputNotFoundError
        If the location does not exist.
    InputError
        If it is not an AnnData store, or chunks are missing.
    InputReadError
        If it is damaged. An unreadable chunk of a matrix raises only when it is computed.
    """
    with open_group(location, label) as group:
        if not is_old(group):
            return _opened(group, layer, label, chunk_bytes, used, first)
        try:
            with quietly_old():
                return _opened(group, layer, label, chunk_bytes, used, first)
        except (KeyError, TypeError, ValueError, NotImplementedError) as error:
            if isinstance(error, MNNError):
                raise
            raise unreadable_old(label, str(location), error) from error


@exclusive()
def read_record(
    location: Location, columns: Collection[str] = (), optional: Collection[str] = ()
) -> tuple[Any, DataFrame, tuple[int, int]]:
    """Read ``uns["mnn"]`` of an AnnData store (None if absent), columns of obs, and the shape.

    Columns that are `optional` are read if they exist.

    Raises
    ------
    InputNotFoundError, InputError, InputReadError
        As in :func:`open_lazily`.
    InputKeyError
        If a column does not exist.
    """
    label = str(location)
    with open_group(location, label) as group:
        if group.attrs.get("encoding-type") != "anndata" and not is_old(group):
            what = f"{label} is not an AnnData store."
            raise InputError(what, "Give a result of mnn_correct or of the command.")
        shape = _n_rows(group["obs"]), _n_rows(group["var"])
        if is_old(group):
            return None, DataFrame(index=range(shape[0])), shape
        for table in ("obs", "var"):
            check_rows(group[table], label)
        if "X" in group:
            check_shape(stored_shape(group["X"]), shape, "X", label)
        known = columns_of(group["obs"])
        missing = [name for name in columns if name not in known]
        if missing:
            what = f"{label} has no column {missing[0]!r} in obs."
            raise InputKeyError(what, f"Its columns are: {', '.join(known) or 'none'}.")
        columns = [*columns, *(name for name in optional if name in known)]
        obs = DataFrame({name: read_element(group["obs"], name, label) for name in columns})
        uns = member(group, "uns") or {}
        recorded = read_element(uns, "mnn", label) if "mnn" in uns else None
        return recorded, obs if columns else DataFrame(index=range(shape[0])), shape


@exclusive()
def read_colors(location: Location, columns: Collection[str]) -> dict[str, Any]:
    """Read the colours of columns from an AnnData store: the ``"<column>_colors"`` that ``uns`` has.

    Raises
    ------
    InputNotFoundError, InputError, InputReadError
        As in :func:`open_lazily`.
    """
    label = str(location)
    with open_group(location, label) as group:
        uns = member(group, "uns") or {}
        keys = [f"{column}_colors" for column in columns]
        return {key: read_element(uns, key, label) for key in keys if key in uns}


@exclusive()
def read_column(location: Location, label: str, column: str) -> Any:
    """Read a column of obs of an AnnData store, as a series or categorical; None if it does not exist.

    Raises
    ------
    InputNotFoundError, InputError, InputReadError
        As in :func:`open_lazily`.
    """
    with open_group(location, label) as group:
        check_anndata(group, label)
        with reading(label, "obs"):
            if is_old(group):
                with quietly_old():
                    return read_old_table(group, "obs", label, [column]).get(column)
            obs = member(group, "obs")
            if not isinstance(obs, h5py.Group | zarr.Group):  # no table
                return read_table(group, "obs", label, Changes()).get(column)
            if column not in columns_of(obs):
                return None
            check_rows(obs, label)
            with without_warnings():  # about other columns, which are not read
                check_annotation_chunks(obs, label, [column])
                return read_element(obs, column, label)


def _n_rows(table: Any) -> int:
    """Number of rows of a table; the names of the rows are not read."""
    if isinstance(table, h5py.Dataset):  # in an old file
        return int(table.shape[0])
    names = table[table.attrs["_index"]]
    if isinstance(names, h5py.Group | zarr.Group):  # of a categorical or nullable array
        names = names["codes" if "codes" in names else "values"]
    return int(names.shape[0])


@contextmanager
def open_group(location: Location, label: str) -> Iterator[Any]:
    """Open the root of a store; close a file afterwards. Errors inside name the input as damaged."""
    with reading(label, "it"):  # also raises for a damaged archive
        exists = location.exists()
    if not exists:
        what = f"{label} does not exist."
        raise InputNotFoundError(what, "Check the path.")
    with reading(label, "its contents"):
        group = _opened_group(location, label)
        try:
            yield group
        finally:
            if isinstance(group, h5py.File):
                group.close()


def _opened_group(location: Location, label: str) -> Any:
    if location.is_url or location.path.is_dir():
        return _open_zarr(location, label)
    return _open_file(location.path, label)


def _open_zarr(location: Location, label: str) -> zarr.Group:
    if location.pure.suffix == ".h5ad" and location.is_url:
        what = f"{label} is an HDF5 file at a URL, which cannot be read in parts."
        remedy = "Download it, or store it there as .zarr: anndata.read_h5ad(FILE).write_zarr(FOLDER)."
        raise InputError(what, remedy)
    try:
        with reaching(location):
            store = location.store(read_only=True)
            group = zarr.open_group(store, mode="r")
            if isinstance(store, HttpStore):
                _check_members(group, label)
            return group
    except (InputNotFoundError, FileNotFoundError, ContainsArrayError) as error:
        what = f"{label} is not a zarr group."
        raise InputError(what, ANNDATA_STORES) from error
    except MNNError:
        raise
    except Exception as error:
        raise unreadable(label, "its metadata cannot be read", error) from error


def _open_file(path: Path, label: str) -> h5py.File:
    try:
        return open_hdf5(path)
    except OSError as error:
        if is_locked(error):
            raise locked_error(label, error) from error
        if is_denied(error):
            raise access_denied(label, error) from error
        if path.is_file() and h5py.is_hdf5(path):
            raise unreadable(label, "it cannot be opened", error) from error
        what = f"{label} is not {'a zarr group' if path.suffix == '.zarr' else 'an HDF5 file'}."
        raise InputError(what, ANNDATA_STORES) from error


def _check_members(group: zarr.Group, label: str) -> None:
    """Refuse a group whose members a web server does not list."""
    if group.metadata.consolidated_metadata is None and not list(group):
        what = f"{label} is on a server that lists no folders, and has no consolidated metadata."
        remedy = "Where it is stored, run zarr.consolidate_metadata(FOLDER); or copy it to this machine."
        raise InputError(what, remedy)


def check_anndata(group: Any, label: str) -> None:
    """Refuse a store that is not of an AnnData."""
    encoding = group.attrs.get("encoding-type")
    if encoding != "anndata" and not is_old(group):
        what = f"{label} is not an AnnData store (encoding-type: {encoding})."
        raise InputError(what, "Write it with AnnData.write_zarr or write_h5ad.")


def _opened(
    group: Any, layer: str | None, label: str, chunk_bytes: int, used: Collection[str], first: int
) -> AnnData:
    check_anndata(group, label)
    layers = dict(member(group, "layers") or {})
    if layer is not None and layer not in layers:
        what = f"{label} has no layer {layer!r}."
        raise InputKeyError(what, f"Its layers are: {', '.join(layers) or 'none'}.")
    changes = Changes(label)
    obs, var = (read_table(group, name, label, changes, used) for name in ("obs", "var"))
    names = [name for name in ("uns", "varm", "varp") if name in group]
    slots = {name: read_mapping(group, name, label, changes) for name in names}
    if is_old(group):
        obs, var = (with_categories(one, slots.get("uns", {})) for one in (obs, var))
        slots["uns"] = without_categories(slots.get("uns", {}), obs, var)
    n, g = len(obs), len(var)
    for name, shape in {"obsm": (n,), "layers": (n, g), "obsp": (n, n)}.items():
        if name in group:
            slots[name] = read_matrices(group, name, changes, shape, chunk_bytes, first)
    for name, shape in {"varm": (g,), "varp": (g, g)}.items():
        slots[name] = shaped(dict(slots.get(name) or {}), name, shape, changes)
    X = _matrix(group, "X", label, chunk_bytes, (n, g), first) if "X" in group else None
    out = AnnData(X, obs=obs, var=var, raw=_raw(group, obs, label, chunk_bytes, changes), **slots)
    changes.warn()
    return out


def _raw(group: Any, obs: DataFrame, label: str, chunk_bytes: int, changes: Changes) -> AnnData | None:
    if isinstance(
        member(group, "raw"), h5py.Group | zarr.Group
    ):  # newer stores may record that there is none
        group, prefix = group["raw"], ""
    elif "raw.X" in group:  # in an old file
        prefix = "raw."
    else:
        return None
    var = read_table(group, f"{prefix}var", label, changes, where="raw.var")
    stored = read_mapping(group, "varm", label, changes, "raw.varm") if not prefix and "varm" in group else {}
    varm = shaped(dict(stored or {}), "raw.varm", (len(var),), changes)
    X = _matrix(group, f"{prefix}X", label, chunk_bytes, (len(obs), len(var)))
    return AnnData(X, obs=obs[[]], var=var, varm=varm)


def _matrix(
    group: Any, name: str, label: str, chunk_bytes: int, shape: tuple[int, int], first: int = 0
) -> Any:
    """Return a matrix lazily, whose shape must be that of its tables."""
    check_shape(stored_shape(group[name]), shape, group[name].name.strip("/"), label)
    return read_matrix(group, name, label, chunk_bytes, first)
