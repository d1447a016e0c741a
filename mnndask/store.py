"""Opening AnnData stores lazily: annotations in memory, matrices left in the file."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import zarr
from anndata import AnnData
from pandas import DataFrame
from zarr.errors import ContainsArrayError

from mnndask.budget import CHUNK_BYTES
from mnndask.errors import InputError, InputKeyError, InputNotFoundError, MNNError
from mnndask.io.changes import Changes
from mnndask.io.stored_elements import (
    columns_of,
    in_memory,
    mapping,
    matrices,
    matrix,
    old_table,
    quietly_old,
    shaped,
    table,
)
from mnndask.location import Location, denied, is_denied, reaching
from mnndask.stored_chunks import check_annotations
from mnndask.stores.hdf5 import is_locked, locked, open_hdf5
from mnndask.stores.old_h5ad import (
    is_old,
    unreadable_old,
    with_categories,
    without_categories,
)
from mnndask.stores.plain_http import HttpStore
from mnndask.stores.read_errors import reading, unreadable

ANNDATA_STORES = "Inputs are AnnData stores: .zarr directories or .h5ad files."


def open_lazily(
    location: Location,
    layer: str | None,
    label: str,
    chunk_bytes: int = CHUNK_BYTES,
    used: Collection[str] = (),
    first: int = 0,
) -> AnnData:
    """Open an AnnData store (``.zarr`` or ``.h5ad``): annotations in memory, matrices left in the file.

    Columns of its tables that are `used` must have all of their chunks. For `first`, see
    :func:`mnndask.reading.lazy_matrix`.

    Raises
    ------
    InputNotFoundError
        If there is nothing there.
    InputError
        If what is there is not an AnnData store, or lost chunks.
    InputReadError
        If it is damaged. A chunk of a matrix that cannot be read is found when it is computed.
    """
    with _group(location, label) as group, reading(label, "its contents"):
        if not is_old(group):
            return _opened(group, layer, label, chunk_bytes, used, first)
        try:
            with quietly_old():
                return _opened(group, layer, label, chunk_bytes, used, first)
        except (KeyError, TypeError, ValueError, NotImplementedError) as error:
            if isinstance(error, MNNError):
                raise
            raise unreadable_old(label, str(location), error) from error


def read_record(location: Location, columns: Collection[str] = ()) -> tuple[Any, DataFrame, tuple[int, int]]:
    """Read ``uns["mnn"]`` of an AnnData store (None if there is none), some columns of obs, and its shape.

    Raises
    ------
    InputNotFoundError, InputError, InputReadError
        As :func:`open_lazily`.
    InputKeyError
        If there is no such column.
    """
    label = str(location)
    with _group(location, label) as group:
        with reading(label, "its root"):
            if group.attrs.get("encoding-type") != "anndata" and not is_old(group):
                what = f"{label} is not an AnnData store."
                raise InputError(what, "Give what mnn_correct or the command wrote.")
            shape = _n_rows(group["obs"]), _n_rows(group["var"])
            if is_old(group):
                return None, DataFrame(index=range(shape[0])), shape
            known = columns_of(group["obs"])
        missing = [name for name in columns if name not in known]
        if missing:
            what = f"{label} has no column {missing[0]!r} in obs."
            raise InputKeyError(what, f"Its columns are: {', '.join(known) or 'none'}.")
        obs = DataFrame({name: in_memory(group["obs"], name, label) for name in columns})
        uns = group.get("uns", {})
        recorded = in_memory(uns, "mnn", label) if "mnn" in uns else None
        return recorded, obs if columns else DataFrame(index=range(shape[0])), shape


def read_column(location: Location, label: str, column: str) -> Any:
    """One column of obs of an AnnData store, as a series or categorical; None if there is none of that name.

    Raises
    ------
    InputNotFoundError, InputError, InputReadError
        As :func:`open_lazily`.
    """
    with _group(location, label) as group:
        _check_anndata(group, label)
        with reading(label, "obs"):
            if is_old(group):
                with quietly_old():
                    return old_table(group, "obs", label, [column]).get(column)
            obs = group.get("obs")
            if not isinstance(obs, h5py.Group | zarr.Group):  # none at all
                return table(group, "obs", label, Changes()).get(column)
            if column not in columns_of(obs):
                return None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of other columns, which are not read
                check_annotations(obs, label, [column])
                return in_memory(obs, column, label)


def _n_rows(table: Any) -> int:
    """Rows of a table, of whose names nothing is read."""
    if isinstance(table, h5py.Dataset):  # an old file's
        return int(table.shape[0])
    names = table[table.attrs["_index"]]
    if isinstance(names, h5py.Group | zarr.Group):  # of a categorical, or of an array with a mask
        names = names["codes" if "codes" in names else "values"]
    return int(names.shape[0])


@contextmanager
def _group(location: Location, label: str) -> Iterator[Any]:
    """Root of a store; a file is closed afterwards."""
    with reading(label, "it"):  # what is in an archive may be, too
        there = location.exists()
    if not there:
        what = f"{label} does not exist."
        raise InputNotFoundError(what, "Check the path.")
    group = _open_group(location, label)
    try:
        yield group
    finally:
        if isinstance(group, h5py.File):
            group.close()


def _open_group(location: Location, label: str) -> Any:
    if location.is_url or location.path.is_dir():
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
    path = location.path
    try:
        return open_hdf5(path)
    except OSError as error:
        if is_locked(error):
            raise locked(label, error) from error
        if is_denied(error):
            raise denied(label, error) from error
        if path.is_file() and h5py.is_hdf5(path):
            raise unreadable(label, "it cannot be opened", error) from error
        what = f"{label} is not {'a zarr group' if path.suffix == '.zarr' else 'an HDF5 file'}."
        raise InputError(what, ANNDATA_STORES) from error


def _check_members(group: zarr.Group, label: str) -> None:
    """Refuse a group of whose members a web server says nothing."""
    if group.metadata.consolidated_metadata is None and not list(group):
        what = f"{label} is on a server that lists no folders, and has no consolidated metadata."
        remedy = "Where it is stored, run zarr.consolidate_metadata(FOLDER); or copy it to this machine."
        raise InputError(what, remedy)


def _check_anndata(group: Any, label: str) -> None:
    with reading(label, "its root"):
        encoding = group.attrs.get("encoding-type")
    if encoding != "anndata" and not is_old(group):
        what = f"{label} is not an AnnData store (encoding-type: {encoding})."
        raise InputError(what, "Write it with AnnData.write_zarr or write_h5ad.")


def _opened(
    group: Any, layer: str | None, label: str, chunk_bytes: int, used: Collection[str], first: int
) -> AnnData:
    _check_anndata(group, label)
    with reading(label, "its root"):
        layers = dict(group.get("layers", {}))
    if layer is not None and layer not in layers:
        what = f"{label} has no layer {layer!r}."
        raise InputKeyError(what, f"Its layers are: {', '.join(layers) or 'none'}.")
    changes = Changes(label)
    obs, var = (table(group, name, label, changes, used) for name in ("obs", "var"))
    held = {name: mapping(group, name, label, changes) for name in ("uns", "varm", "varp") if name in group}
    if is_old(group):
        obs, var = (with_categories(one, held.get("uns", {})) for one in (obs, var))
        held["uns"] = without_categories(held.get("uns", {}), obs, var)
    n, g = len(obs), len(var)
    for name, shape in {"obsm": (n,), "layers": (n, g), "obsp": (n, n)}.items():
        if name in group:
            held[name] = matrices(group, name, label, changes, shape, chunk_bytes, first)
    for name, shape in {"varm": (g,), "varp": (g, g)}.items():
        held[name] = shaped(dict(held.get(name) or {}), name, shape, changes)
    X = matrix(group, "X", label, chunk_bytes, first) if "X" in group else None
    out = AnnData(X, obs=obs, var=var, raw=_raw(group, obs, label, chunk_bytes, changes), **held)
    changes.warn()
    return out


def _raw(group: Any, obs: DataFrame, label: str, chunk_bytes: int, changes: Changes) -> AnnData | None:
    if isinstance(group.get("raw"), h5py.Group | zarr.Group):  # newer stores say that there is none
        group, prefix = group["raw"], ""
    elif "raw.X" in group:  # of an old file
        prefix = "raw."
    else:
        return None
    var = table(group, f"{prefix}var", label, changes, where="raw.var")
    held = mapping(group, "varm", label, changes, "raw.varm") if not prefix and "varm" in group else {}
    varm = shaped(dict(held or {}), "raw.varm", (len(var),), changes)
    return AnnData(matrix(group, f"{prefix}X", label, chunk_bytes), obs=obs[[]], var=var, varm=varm)
