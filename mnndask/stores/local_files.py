"""Files on this machine that stored matrices are read from, which other machines may not see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore, ZipStore

from mnndask.errors import InputReadError, this_worker
from mnndask.stores.removal import METADATA

SHARE_IT = "Put it in a folder that all machines share, or give a URL (s3://...)."


def root_of(source: Any) -> Path | None:
    """Path of the file or store that contains what is read; None for a URL.

    Parameters
    ----------
    source
        Path, zarr array or group, or several in one store by name.
    """
    if isinstance(source, Path):
        return source
    if isinstance(source, dict):
        source = next(iter(source.values()))
    store = source.store
    while hasattr(store, "_store"):  # one that wraps another
        store = store._store
    if isinstance(store, LocalStore):
        return Path(store.root)
    return Path(store.path) if isinstance(store, ZipStore) else None


def file_of(root: Path) -> Path:
    """File that is there wherever a file or store is: the store's root metadata, or itself."""
    return next((file for name in METADATA if (file := root / name).is_file()), root)


def with_absolute_path(store: Store) -> Store:
    """Return a store that other processes find from another working directory."""
    if isinstance(store, LocalStore) and not Path(store.root).is_absolute():
        return LocalStore(Path(store.root).absolute(), read_only=store.read_only)
    if isinstance(store, ZipStore) and not Path(store.path).is_absolute():
        return ZipStore(Path(store.path).absolute(), mode="r", read_only=True)
    return store


def unseen(label: str, path: Path, worker: str, problem: str) -> InputReadError:
    """Error for an input that a worker does not see."""
    place = "" if str(path) in label else f" at {path}"
    what = f"{worker[0].upper()}{worker[1:]} does not see {label}{place}: {problem}."
    return InputReadError(what, SHARE_IT)


@contextmanager
def naming_worker(label: str, source: Any) -> Iterator[None]:
    """Replace any error by one that names this worker, if it does not see what is read."""
    try:
        yield
    except Exception as error:
        worker, root = this_worker(), root_of(source)
        if worker is None or root is None or root.exists():
            raise
        raise unseen(label, root, worker, "no such file or folder") from error


def is_stored_here(array: zarr.Array[Any]) -> bool:
    """Whether this machine sees the metadata of an array; True for one at a URL."""
    root = root_of(array)
    return root is None or (root / array.path / "zarr.json").is_file()
