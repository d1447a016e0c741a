"""HDF5 files: opened with the filters of hdf5plugin, if installed; a filter that is missing is named."""

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

# Names by which users know them, and hdf5plugin's documentation lists them.
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
    """Let HDF5 know the filters of hdf5plugin, once in a process, if that is installed."""
    with suppress(ImportError, OSError):
        importlib.import_module("hdf5plugin")


def open_hdf5(path: str | os.PathLike[str]) -> h5py.File:
    """Open a file to read it, whatever filters it needs."""
    load_filters()
    return h5py.File(path, "r")


def path_of_file(stored: Any, label: str) -> Path:
    """Where the open file of a dataset or group is, for tasks to open it there.

    Raises
    ------
    InputNotFoundError
        If it was moved or removed since.
    """
    path = Path(stored.file.filename).absolute()
    if not path.is_file():
        what = f"{label} is left in {path}, which is no longer there."
        raise InputNotFoundError(what, "Put the file back, or open it where it is now.")
    return path


def missing_filter(dataset: h5py.Dataset) -> str | None:
    """Name of a filter that a dataset needs and HDF5 does not have; None if it has all."""
    properties = dataset.id.get_create_plist()
    for i in range(properties.get_nfilters()):
        number, _, _, described = properties.get_filter(i)
        if not h5py.h5z.filter_avail(number):
            load_filters()  # by whoever opened the file, they may not have been
            if not h5py.h5z.filter_avail(number):
                name = FILTERS.get(number) or described.decode(errors="replace")
                return f"{name} ({number})" if name else str(number)
    return None


def check_filters(stored: Any, label: str) -> None:
    """Refuse a dataset, or a group of some, of which values could not be decoded.

    Raises
    ------
    InputReadError
    """
    for dataset in _datasets(stored):
        name = missing_filter(dataset)
        if name is not None:
            raise lacks_filter(label, dataset, name)


def lacks_filter(label: str, dataset: h5py.Dataset, name: str) -> InputReadError:
    """Error of a dataset that needs a filter which is not at hand."""
    what = f"{label} cannot be read: {dataset.name.strip('/')} is compressed with the HDF5 filter {name}."
    remedy = "It is not installed here: pip install hdf5plugin (or name its folder in HDF5_PLUGIN_PATH)."
    return InputReadError(what, remedy)


def _datasets(stored: Any) -> Iterator[h5py.Dataset]:
    if isinstance(stored, h5py.Dataset):
        yield stored
    elif isinstance(stored, h5py.Group):
        found: list[h5py.Dataset] = []
        stored.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        yield from found


def is_locked(error: BaseException) -> bool:
    """Whether HDF5 could not open a file because of its lock."""
    said = str(error)
    return isinstance(error, OSError) and ("unable to lock file" in said or "already open for write" in said)


def locked(label: str, error: BaseException) -> InputReadError:
    """Error of a file that another process has open for writing, or of which no lock can be had."""
    if "already open for write" in str(error):
        what = f"{label} is open for writing, or whoever wrote it did not close it."
        return InputReadError(what, "Close it there; if nobody has it open: h5clear --status FILE.")
    if isinstance(error, BlockingIOError):
        what = f"{label} is open for writing in another process, which locks it."
        remedy = "Close it there; if nobody writes to it, set HDF5_USE_FILE_LOCKING=FALSE."
        return InputReadError(what, remedy)
    what = f"{label} cannot be locked where it is stored."
    return InputReadError(what, "If nobody writes to it, set HDF5_USE_FILE_LOCKING=FALSE.")
