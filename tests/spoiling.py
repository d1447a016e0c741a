"""Stores of every kind, and ways to damage them."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
from anndata.io import write_elem
from helpers import as_anndata, make_batches, zarr_store
from scipy import sparse

A, B = make_batches((60, 50))
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
    """Overwrite the middle chunk of an array with noise."""
    noise = np.random.default_rng(0).bytes(10_000)
    if path.is_dir():
        file = chunk_files(path, part)[len(chunk_files(path, part)) // 2]
        file.write_bytes(noise[: file.stat().st_size])
        return
    with h5py.File(path) as file:
        chunk = file[part].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(noise[: chunk.size])


def truncate(path, part):
    """Cut the middle chunk of an array in half."""
    file = chunk_files(path, part)[len(chunk_files(path, part)) // 2]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lose(path, part):
    chunk_files(path, part)[-1].unlink()
