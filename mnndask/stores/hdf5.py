"""HDF5 files, opened with the filters of hdf5plugin if it is installed. Errors name missing filters."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import h5py

from mnndask.errors import InputNotFoundError, InputReadError

# The names that hdf5plugin's documentation uses.
FILTERS = {
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32018: "fcidecomp",
    32024: "sz3",
    32026: "blosc2",
    32028: "sperr",
    307: "bzip2",
}


@cache
def load_filters() -> None:
    """Register the filters of hdf5plugin with HDF5, once per process, if it is installed."""
    with suppress(ImportError, OSError):
        importlib.import_module("hdf5plugin")


def open_hdf5(path: str | os.PathLike[str]) -> h5py.File:
    """Open a file for reading, with all installed filters.

    Of a few damaged files, HDF5 itself never returns; anndata and h5py hang likewise.
    """
    load_filters()
    return h5py.File(path, "r")


def path_of_file(stored: Any, label: str) -> Path:
    """Return the path of the file that contains an open dataset or group, so that tasks can open it.

    Raises
    ------
    InputNotFoundError
        If the file was moved or removed after it was opened.
    """
    path = Path(stored.file.filename).absolute()
    if not path.is_file():
        what = f"{label} is read lazily from {path}, which no longer exists."
        raise InputNotFoundError(what, "Restore the file, or open it at its new path.")
    return path


def missing_filter(dataset: h5py.Dataset) -> str | None:
    """Return the name of a filter that a dataset needs and HDF5 lacks, or None."""
    properties = dataset.id.get_create_plist()
    for i in range(properties.get_nfilters()):
        number, _, _, description = properties.get_filter(i)
        if not h5py.h5z.filter_avail(number):
            load_filters()  # users may have opened the file without them
            if not h5py.h5z.filter_avail(number):
                name = FILTERS.get(number) or description.decode(errors="replace")
                return f"{name} ({number})" if name else str(number)
    return None


def check_filters(stored: Any, label: str) -> None:
    """Check that HDF5 has the filters of a dataset, or of all datasets in a group.

    Raises
    ------
    InputReadError
        If a filter is missing.
    """
    for dataset in _datasets(stored):
        name = missing_filter(dataset)
        if name is not None:
            raise missing_filter_error(label, dataset, name)


def missing_filter_error(label: str, dataset: h5py.Dataset, name: str) -> InputReadError:
    """Error for a dataset that needs a filter that is not installed."""
    what = f"{label} cannot be read: {dataset.name.strip('/')} is compressed with the HDF5 filter {name}."
    remedy = "The filter is not installed: pip install hdf5plugin (or set HDF5_PLUGIN_PATH to its folder)."
    return InputReadError(what, remedy)


def _datasets(stored: Any) -> Iterator[h5py.Dataset]:
    if isinstance(stored, h5py.Dataset):
        yield stored
    elif isinstance(stored, h5py.Group):
        found: list[h5py.Dataset] = []
        stored.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        yield from found


def is_locked(error: BaseException) -> bool:
    """Whether HDF5 could not open a file because it is locked."""
    text = str(error)
    return isinstance(error, OSError) and ("unable to lock file" in text or "already open for write" in text)


def locked_error(label: str, error: BaseException) -> InputReadError:
    """Error for a file that is open for writing in another process, or that cannot be locked."""
    if "already open for write" in str(error):
        what = f"{label} is open for writing, or was not closed after writing."
        return InputReadError(what, "Close it there; if no process has it open, run h5clear --status FILE.")
    if isinstance(error, BlockingIOError):
        what = f"{label} is open for writing in another process, which has locked it."
        remedy = "Close it there; if no process writes to it, set HDF5_USE_FILE_LOCKING=FALSE."
        return InputReadError(what, remedy)
    what = f"{label} cannot be locked on its file system."
    return InputReadError(what, "If no process writes to it, set HDF5_USE_FILE_LOCKING=FALSE.")
