"""Remove stores: metadata first, so that what is left of a store that was removed in part never opens."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from mnndask.stores.durable import sync_folder

METADATA = ("zarr.json", ".zmetadata", ".zgroup", ".zarray", ".zattrs")
DEPTH = 1  # of the metadata that goes first: that of a store, and of the stores in a folder of them


def remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
    """Remove a store, a folder of stores, a file or a link."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=ignore_errors)
        return
    with suppress(*([OSError] if ignore_errors else [])):
        if _remove_metadata(path):
            sync_folder(path)  # a power loss must not bring it back alone
        for child in path.iterdir():
            if child.is_dir() and not child.is_symlink():
                _remove_metadata(child)
    shutil.rmtree(path, ignore_errors=ignore_errors)


def _remove_metadata(folder: Path) -> bool:
    """Remove the metadata of a store; return whether there was any."""
    files = [file for file in map(folder.joinpath, METADATA) if file.is_file() or file.is_symlink()]
    for file in files:
        file.unlink()
    return bool(files)


def remove_objects(filesystem: Any, path: str) -> None:
    """Remove everything below a path of an fsspec file system."""
    filesystem.invalidate_cache(path)
    names = [str(name) for name in filesystem.find(path)]
    first = [name for name in names if name.rsplit("/", 1)[-1] in METADATA and _depth(name, path) <= DEPTH]
    for name in sorted(first, key=lambda name: _depth(name, path)):
        filesystem.rm_file(name)
    if names:
        filesystem.rm(path, recursive=True)


def _depth(name: str, path: str) -> int:
    return name.removeprefix(path).strip("/").count("/")
