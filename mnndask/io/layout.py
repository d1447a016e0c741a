"""How the expression of a store is laid out, and what would make reading it faster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import h5py
import zarr

from mnndask.io.anndata_store import check_anndata, open_group
from mnndask.io.stored_elements import stored_shape
from mnndask.stores.location import Location

SMALL = 2**18  # bytes of a chunk as stored, below which opening files takes longer than reading them
MANY = 256  # chunks whose cost is worth mentioning
LARGE = 2**27  # bytes of a chunk in memory, of which a block of cells needs a part
SLOW = ("gzip", "zlib", "bz2", "lzma")  # to decode
KINDS = {"dense": "dense", "csr": "sparse by cells (CSR)", "csc": "sparse by genes (CSC)"}
REWRITE = "mnndask.write_zarr(adata, ...) writes chunks of 32 MiB"


@dataclass(frozen=True)
class Layout:
    """Layout of a stored matrix of cells x genes.

    Parameters
    ----------
    kind
        ``"dense"``, ``"csr"`` or ``"csc"``.
    container
        Format of the store.
    shape
        Numbers of cells and genes.
    stored_bytes
        Bytes of values (and indices) on disk.
    rows
        Cells of a chunk; on average, if the matrix is sparse.
    columns
        Genes of a chunk; None if the matrix is sparse.
    chunk_bytes
        Bytes of a chunk of values in memory.
    n_chunks, n_files
        Number of chunks of values, and of files (shards) that they are in; None for one piece.
    codec
        Compressor.
    """

    kind: str
    container: str
    shape: tuple[int, int]
    stored_bytes: int
    rows: float
    columns: int | None
    chunk_bytes: int
    n_chunks: int | None
    n_files: int | None
    codec: str | None

    def lines(self) -> list[str]:
        """Describe the layout, and say what would make reading faster."""
        n_cells, n_genes = self.shape
        codec = "not compressed" if self.codec is None else self.codec
        pieces = "in one piece"
        if self.n_chunks is not None:
            genes = "" if self.columns in {None, n_genes} else f" x {self.columns:,} genes"
            cells = "" if self.kind == "csc" else f" of {self.rows:,.0f} cells{genes}"
            pieces = f"in chunks{cells}, {_size(self.chunk_bytes)} in memory"
        if self.n_files != self.n_chunks and self.n_files:
            pieces += f", in shards of {_size(self.stored_bytes / self.n_files)}"
        return [
            f"X: {n_cells:,} cells x {n_genes:,} genes, {KINDS[self.kind]}, {self.container}, "
            f"{_size(self.stored_bytes)} as stored",
            f"stored {pieces}; {codec}",
            *self.advice(),
        ]

    def advice(self) -> list[str]:
        """Say what would make reading blocks of cells faster, as a correction reads them."""
        if self.kind == "csc":
            return ["! each block of cells reads the whole matrix: store it by cells, adata.X.tocsr()"]
        out = []
        n = self.n_chunks
        in_files = self.container != "HDF5" and n is not None and n == self.n_files
        if in_files and n is not None and n > MANY and self.stored_bytes < SMALL * n:
            small = _size(self.stored_bytes / n)
            out.append(f"! chunks are small, {small} as stored, and each takes time to open: {REWRITE}")
        if n is not None and self.chunk_bytes > LARGE:
            what = "all cells are in one chunk" if self.rows >= self.shape[0] else "chunks are large"
            out.append(f"! {what}, which every block of cells in it reads again: {REWRITE}")
        if self.codec is not None and self.codec.startswith(SLOW):
            out.append(f"! {self.codec} takes several times as long to read as Zstandard or LZF")
        return out or ["- a good layout: a block of cells is read without the others"]


def _size(n: float) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= factor:
            return f"{n / factor:.3g} {unit}"
    return f"{n:.0f} bytes"


def layout_of(location: Location) -> Layout | None:
    """Return how ``X`` is laid out; None if there is none. Values are not read; of zarr, files are listed.

    Raises
    ------
    InputNotFoundError, InputError, InputReadError
        If the store is no AnnData store, or damaged.
    """
    label = str(location)
    with open_group(location, label) as group:
        check_anndata(group, label)
        shape = stored_shape(group["X"]) if "X" in group else None
        return None if shape is None or len(shape) != 2 else _of(group["X"], shape)


def _of(elem: Any, shape: tuple[int, ...]) -> Layout:
    is_sparse = isinstance(elem, h5py.Group | zarr.Group)
    encoding = str(elem.attrs.get("encoding-type", elem.attrs.get("h5sparse_format", "")))
    values = elem["data"] if is_sparse else elem
    chunk, unit = values.chunks, getattr(values, "shards", None) or values.chunks
    per_row = values.shape[0] / max(1, shape[0]) if is_sparse else 1.0
    rows = shape[0] if chunk is None else min(shape[0], chunk[0] / max(per_row, 1e-9))
    return Layout(
        "dense" if not is_sparse else "csc" if "csc" in encoding else "csr",
        "HDF5" if isinstance(values, h5py.Dataset) else f"zarr {values.metadata.zarr_format}",
        (shape[0], shape[1]),
        sum(_stored_bytes(elem[part]) for part in ("data", "indices")) if is_sparse else _stored_bytes(elem),
        float(rows),
        None if is_sparse else shape[1] if chunk is None else min(chunk[1], shape[1]),
        math.prod(values.shape if chunk is None else chunk) * values.dtype.itemsize,
        _number(values.shape, chunk),
        _number(values.shape, unit),
        _codec(values),
    )


def _number(shape: tuple[int, ...], chunk: tuple[int, ...] | None) -> int | None:
    if chunk is None:
        return None
    return math.prod(-(-n // size) for n, size in zip(shape, chunk, strict=True))


def _stored_bytes(array: Any) -> int:
    return int(array.id.get_storage_size() if isinstance(array, h5py.Dataset) else array.nbytes_stored())


def _codec(values: Any) -> str | None:
    if isinstance(values, h5py.Dataset):
        return None if values.compression is None else str(values.compression)
    names = [getattr(codec, "codec_id", type(codec).__name__) for codec in values.compressors]
    return ", ".join(str(name).removesuffix("Codec").lower() for name in names) or None
