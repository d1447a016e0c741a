"""What damaged stores still say, read without mnndask."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import zarr
from anndata.io import read_elem
from mutant_stores import write_one

from mnndask.cli.look import summary
from mnndask.io.record import Record

METADATA = {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}
CLOSE = 1e-6


def files(store: Path) -> dict[str, bytes]:
    return {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}


def differing(store: Path, other: Path) -> list[str]:
    """Elements (``obs/depth``, ``X``) of two outputs that differ in more than rounding."""
    one, two = files(store), files(other)
    changed = {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
    changed = {name for name in changed if "/" in name and not name.startswith("uns/mnn/")}
    # The tables' own documents name their columns.
    names = {"/".join(name.split("/")[: 1 if name.startswith("X/") else 2]) for name in changed}
    names -= {f"{table}/{document}" for table in ("obs", "var") for document in METADATA}
    roots = [zarr.open_group(path, mode="r") for path in (store, other)]
    return sorted(name for name in names if not _same(*(root.get(name) for root in roots)))


def _same(one, two) -> bool:
    if one is None or two is None or type(one) is not type(two):
        return False
    if isinstance(one, zarr.Group):
        if set(one) != set(two) or dict(one.attrs) != dict(two.attrs):
            return False
        return all(_same(one[key], two[key]) for key in one)
    one, two = np.asarray(one[...]), np.asarray(two[...])
    if one.dtype.kind != "f" or two.dtype.kind != "f" or one.shape != two.shape:
        return one.dtype == two.dtype and np.array_equal(one, two)
    return np.allclose(one, two, rtol=CLOSE, atol=CLOSE * np.nanmax(np.abs(two), initial=0), equal_nan=True)


def opened(store: Path):
    """Root of a store."""
    return h5py.File(store, "r") if store.is_file() else zarr.open_group(store, mode="r")


def unsound_sparse(store: Path) -> str | None:
    """First sparse matrix whose pointers, indices and values disagree."""
    root = opened(store)
    places = [
        "X",
        "raw/X",
        *(f"{slot}/{key}" for slot in ("layers", "obsm", "obsp") for key in root.get(slot, ())),
    ]
    for place in places:
        group = root.get(place)
        if not isinstance(group, h5py.Group | zarr.Group):
            continue
        kind = str(group.attrs.get("encoding-type"))
        if kind not in ("csr_matrix", "csc_matrix"):
            continue
        shape = [int(n) for n in group.attrs["shape"]]
        rows, columns = shape if kind == "csr_matrix" else shape[::-1]
        pointers, indices = (np.asarray(group[part][...], float) for part in ("indptr", "indices"))
        n = group["data"].shape[0]
        agree = len(pointers) == rows + 1 and pointers[0] == 0 and pointers[-1] == n == len(indices)
        agree = agree and (np.diff(pointers) >= 0).all() and ((indices >= 0) & (indices < columns)).all()
        if not agree:
            return place
    return None


def absent_arrays(mutant: Path, sound: Path) -> list[str]:
    """Arrays of a zarr store of which a file is gone, while their metadata is there; flags may be absent."""
    if mutant.is_file():
        return []
    root, out = opened(mutant), set()
    for file in sound.rglob("*"):
        name = file.relative_to(sound)
        if file.is_dir() or file.name in METADATA or (mutant / name).is_file():
            continue
        for parent in name.parents:
            array = root.get(str(parent)) if str(parent) != "." else None
            if isinstance(array, zarr.Array) and array.dtype.kind != "b":
                out.add(str(parent))
    return sorted(out)


def rewritten(mutant: Path, path: Path, kind: str) -> Path:
    """Write what anndata reads in a damaged store as a sound one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = ad.read_h5ad(mutant) if mutant.is_file() else ad.read_zarr(mutant)
        write_one(adata, path, *kind.split("-"))
    return path


def reread_summary(store: Path) -> str | None:
    """What info says of a record that anndata reads; None if it reads none."""
    root = opened(store)
    try:
        shape = tuple(len(read_elem(root[name])) for name in ("obs", "var"))
        record = Record.from_uns(read_elem(root["uns/mnn"]), str(store))
        return "\n".join(summary(record, shape, str(store))) + "\n"
    except Exception:
        return None
