"""Stores of every kind, and ways to damage and replace them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import zarr
from anndata.io import write_elem
from helpers import as_anndata, make_batches, zarr_store
from scipy import sparse

A, B = make_batches((60, 50))
OTHER = 2 * B[::-1]  # of the same shape, with as many zeros
LAYOUTS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}
OPENERS = {"path": str, "read_lazy": ad.experimental.read_lazy}


def stored(folder, X, kind, layout="dense", name="b"):
    """A store of a matrix in several chunks."""
    adata = as_anndata(LAYOUTS[layout](X), name)
    path = folder / f"{name}.{'h5ad' if kind == 'h5ad' else 'zarr'}"
    if kind == "h5ad":
        adata.write_h5ad(path, compression="gzip")
        return path
    chunks = (16, 10) if layout == "dense" else (100,)
    shards = {"shards": (32, 20) if kind == "shards" else None}
    with zarr_store(path, 2 if kind == "zarr2" else 3) as root:
        write_elem(root, "/", adata)
        write_elem(root, "X", adata.X, dataset_kwargs={"chunks": chunks, **shards})
    return path


def chunk_files(path, part="X"):
    files = [file for file in (path / part).rglob("*") if file.is_file()]
    return sorted(file for file in files if file.name[0] != "." and file.name != "zarr.json")


def garble(path, part):
    """Overwrite the middle chunk of an array with noise, as a disk that fails does: its time stays."""
    noise = np.random.default_rng(0).bytes(10_000)
    if path.is_dir():
        file = chunk_files(path, part)[len(chunk_files(path, part)) // 2]
        at, size = 0, file.stat().st_size
    else:
        with h5py.File(path) as opened:
            chunk = opened[part].id.get_chunk_info(0)
        file, at, size = path, chunk.byte_offset, chunk.size
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(noise[:size])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path, part):
    """Cut the middle chunk of an array in half."""
    file = chunk_files(path, part)[len(chunk_files(path, part)) // 2]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lose(path, part):
    chunk_files(path, part)[-1].unlink()


def of_old(path):
    """Make the files of a store old, so that others are newer, also where times are in seconds."""
    for file in Path(path).rglob("*") if Path(path).is_dir() else [path]:
        os.utime(file, ns=(10**18, 10**18))
    return Path(path)


def swap(path, other):
    """Replace a store by another as a whole, which keeps its times."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(other, path) if other.is_dir() else shutil.copy2(other, path)


def sync_files(path, other):
    """Replace a store file by file, as rsync and editors do: by a rename each."""
    for file in [other] if other.is_file() else [part for part in other.rglob("*") if part.is_file()]:
        target = path / file.relative_to(other) if other.is_dir() else path
        new = target.with_name(f".{target.name}.new")
        shutil.copy(file, new)
        new.replace(target)


def overwrite(path, other):
    """Replace the contents of the files of a store: they stay the same files."""
    for file in [other] if other.is_file() else [part for part in other.rglob("*") if part.is_file()]:
        target = path / file.relative_to(other) if other.is_dir() else path
        before = target.stat().st_ino
        with target.open("r+b") as opened:
            opened.truncate()
            opened.write(file.read_bytes())
        assert target.stat().st_ino == before


REPLACED = {"swapped": swap, "synced": sync_files, "overwritten": overwrite}


def with_other_obs(path):
    """Change the annotations of a store, which keep their size."""
    depth = zarr.open_group(path)["obs"]["depth"]
    depth[:] = depth[:] + 1000
