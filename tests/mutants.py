"""Damaged copies of stores, each determined by a generator of random numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import zarr

NUMBERS = (0, 1, -1, 2, 7, 10**3, 10**6, 10**9, 10**12, 2**31, 2**63, 2**64, -(10**12), 0.5, 1e300)
WORDS = ("", "|O", "<i4", ">f8", "<f4", "float64", "int8", "string", "array", "csr_matrix", "csc_matrix")
WORDS += ("categorical", "dataframe", "dict", "zstd", "gzip", "blosc", "bytes", "é\x00/..", "_index")
WORDS += ("x" * 300,)


def mutate(path: Path, rng: np.random.Generator) -> str:
    """Damage a store in one way that the generator draws; return what was done."""
    if path.is_file():
        return _mutate_hdf5(path, rng) if rng.random() < 0.4 else _mutate_bytes(path, rng, in_hdf5=True)
    ways = (_mutate_json, _mutate_chunk, _mutate_files, _mutate_values)
    return ways[rng.choice(len(ways), p=(0.4, 0.25, 0.2, 0.15))](path, rng)


# ---------------------------------------------------------------- bytes


def _mutate_bytes(file: Path, rng, *, in_hdf5=False) -> str:
    """Change the bytes of a file."""
    data = bytearray(file.read_bytes())
    n = len(data)
    if n == 0:
        file.write_bytes(rng.bytes(20))
        return f"{file.name}: noise"
    # Of an HDF5 file, the first bytes are superblock and root, and most of the others headers.
    last = min(n, 2048) if in_hdf5 and rng.random() < 0.3 else n
    at, size = int(rng.integers(last)), int(min(n, 2 ** rng.integers(8)))
    way = str(rng.choice(["flip", "flip", "flip", "noise", "zero", "cut", "swap", "grow", "drop"]))
    other = int(rng.integers(n))
    if way == "flip":
        for _ in range(size := int(rng.integers(1, 5))):
            data[int(rng.integers(at, min(n, at + 64)))] ^= 1 << int(rng.integers(8))
    elif way == "noise":
        data[at : at + size] = rng.bytes(len(data[at : at + size]))
    elif way == "zero":
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif way == "cut":
        del data[at:]
    elif way == "swap":
        size = min(size, n - max(at, other), abs(at - other))
        data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
    elif way == "grow":
        data[at:at] = rng.bytes(size)
    else:
        del data[at : at + size]
    file.write_bytes(data)
    return f"{way} {size} at {at} of {n} bytes"


def _chunks(path: Path) -> list[Path]:
    known = {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name not in known)


def _pick_chunk(path: Path, rng) -> Path:
    """Draw a chunk, of the matrix as often as of anything else."""
    chunks = _chunks(path)
    of_matrix = [file for file in chunks if file.relative_to(path).parts[0] in ("X", "layers")]
    chunks = of_matrix if of_matrix and rng.random() < 0.5 else chunks
    return chunks[int(rng.integers(len(chunks)))]


def _mutate_chunk(path: Path, rng) -> str:
    file = _pick_chunk(path, rng)
    return f"{file.relative_to(path)}: {_mutate_bytes(file, rng)}"


def _mutate_files(path: Path, rng) -> str:
    """Remove, empty, replace or swap files."""
    file, other = _pick_chunk(path, rng), _pick_chunk(path, rng)
    near = sorted(file.parent.glob("*"))
    other = near[int(rng.integers(len(near)))] if rng.random() < 0.5 else other
    other = other if other.is_file() else file
    way = str(rng.choice(["remove", "empty", "replace", "swap", "metadata", "element", "folder"]))
    name, second = file.relative_to(path), other.relative_to(path)
    if way == "remove":
        file.unlink()
    elif way == "empty":
        file.write_bytes(b"")
    elif way == "replace":
        file.write_bytes(other.read_bytes())
        return f"{name} replaced by {second}"
    elif way == "swap":
        one, two = file.read_bytes(), other.read_bytes()
        file.write_bytes(two)
        other.write_bytes(one)
        return f"{name} swapped with {second}"
    elif way == "metadata":
        documents = _documents(path)
        file = documents[int(rng.integers(len(documents)))]
        if rng.random() < 0.5:
            return f"{file.relative_to(path)}: {_mutate_bytes(file, rng)}"
        file.unlink()
    elif way == "element":
        part = path.joinpath(*name.parts[: 1 if rng.random() < 0.3 else 2])
        part = part if part.is_dir() else part.parent
        shutil.rmtree(part)
        return f"{part.relative_to(path)}: element removed"
    else:
        file.unlink()
        file.mkdir()
    return f"{file.relative_to(path)}: {way}"


# ---------------------------------------------------------------- metadata


def _documents(path: Path) -> list[Path]:
    names = {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}
    return sorted(file for file in path.rglob("*") if file.name in names)


def _mutate_json(path: Path, rng) -> str:
    """Edit metadata: of the whole store, which readers prefer, or of a member, without those of the store."""
    documents = _documents(path)
    root = [file for file in documents if file.parent == path]
    consolidated = next(file for file in (path / ".zmetadata", path / "zarr.json") if file.exists())
    if rng.random() < 0.6:
        file = consolidated
    else:
        file = documents[int(rng.integers(len(documents)))]
        if file not in root:
            _forget(consolidated)
    document = json.loads(file.read_text())
    done = _edit(document, rng)
    file.write_text(json.dumps(document))
    return f"{file.relative_to(path)}: {done}"


def _forget(consolidated: Path) -> None:
    """Remove the metadata of members from that of the root."""
    if consolidated.name == ".zmetadata":
        consolidated.unlink()
        return
    document = json.loads(consolidated.read_text())
    document.pop("consolidated_metadata", None)
    consolidated.write_text(json.dumps(document))


def _places(node, trail=()):
    """All places in a document: the container, the key, and the way to it."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items):
        yield node, key, (*trail, str(key))
        yield from _places(value, (*trail, str(key)))


def _edit(document, rng) -> str:
    places = list(_places(document)) or [(document, "added", ("added",))]
    matrix = [p for p in places if any(key.split("/")[0] in ("X", "layers", "obs", "raw") for key in p[2])]
    places = matrix if matrix and rng.random() < 0.5 else places
    node, key, trail = places[int(rng.integers(len(places)))]
    old = node.get(key) if isinstance(node, dict) else node[key]
    if rng.random() < 0.15 and old is not None:
        del node[key]
        new = "removed"
    else:
        node[key] = new = _another(old, rng)
    return f"{'.'.join(trail)}: {json.dumps(old)[:60]} becomes {json.dumps(new)[:60]}"


def _another(old, rng):
    """Another value, mostly of the same type."""
    if rng.random() < 0.15:
        return [None, 3, "text", {}, [], True, [1, 2], {"a": 1}][int(rng.integers(8))]
    if isinstance(old, bool):
        return not old
    if isinstance(old, int | float):
        near = (old + 1, old - 1, old * 2, old * 10**9, -old)
        return [*near, *near, *NUMBERS][int(rng.integers(2 * len(near) + len(NUMBERS)))]
    if isinstance(old, str):
        return WORDS[int(rng.integers(len(WORDS)))]
    if isinstance(old, list):
        if not old or rng.random() < 0.2:
            return [*old, 1]
        return old[:-1] if rng.random() < 0.5 else old[::-1]
    return None


# ---------------------------------------------------------------- values, as programs write them


def _mutate_values(path: Path, rng) -> str:
    """Overwrite values of an array of a zarr store."""
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    arrays = sorted(name for name, member in root.members(max_depth=None) if isinstance(member, zarr.Array))
    return _overwrite(root, arrays, rng)


def _overwrite(root, arrays, rng) -> str:
    pointers = [name for name in arrays if name.endswith(("indptr", "indices", "codes"))]
    arrays = pointers if pointers and rng.random() < 0.6 else arrays
    name = arrays[int(rng.integers(len(arrays)))]
    array = root[name]
    if not array.ndim or not array.size or array.dtype.kind not in "iufb":
        return f"{name}: nothing done"
    at = tuple(int(rng.integers(n)) for n in array.shape)
    old = array[at]
    with np.errstate(all="ignore"):
        new = _another(float(old), rng) if rng.random() < 0.8 else 1e6
        value = float(new) if isinstance(new, int | float) else np.nan
        limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
        if limits is not None:
            value = int(np.clip(np.nan_to_num(value), float(limits.min), float(limits.max) / 2))
        array[at] = np.asarray(value).astype(array.dtype)
    return f"{name}[{at}]: {old} becomes {value}"


def _mutate_hdf5(path: Path, rng) -> str:
    """Edit a file as programs do: attributes, values, elements removed, replaced or resized."""
    with h5py.File(path, "a") as file:
        names: list[str] = []
        file.visit(names.append)
        arrays = [name for name in names if isinstance(file[name], h5py.Dataset)]
        name = names[int(rng.integers(len(names)))]
        way = str(rng.choice(["values", "values", "attribute", "attribute", "remove", "replace", "resize"]))
        if way == "values":
            return _overwrite(file, arrays, rng)
        if way == "attribute":
            return _edit_attribute(file[name], rng)
        if way == "remove":
            del file[name]
            return f"{name}: removed"
        name = arrays[int(rng.integers(len(arrays)))]
        attributes = dict(file[name].attrs)
        if way == "replace":
            other = arrays[int(rng.integers(len(arrays)))]
            values = file[other][()]
        else:
            other, old = "another size", np.atleast_1d(file[name][()])
            values = old[:-1] if rng.random() < 0.5 else np.concatenate([old, old])
        del file[name]
        file[name] = values
        file[name].attrs.update(attributes)
        return f"{name}: replaced by {other}"


def _edit_attribute(item, rng) -> str:
    keys = sorted(item.attrs)
    if not keys:
        return f"{item.name}: nothing done"
    key = keys[int(rng.integers(len(keys)))]
    old = item.attrs[key]
    if rng.random() < 0.2:
        del item.attrs[key]
        return f"{item.name}, attribute {key}: removed"
    if isinstance(old, np.ndarray) and old.dtype.kind in "iu" and old.size:
        new = old.astype(np.int64)
        new[int(rng.integers(len(new)))] = rng.choice([-1, 0, 1, 2, 7, 31, 10**6, 10**12, 2**62])
    elif isinstance(old, np.ndarray):
        new = old[:-1]
    else:
        new = WORDS[int(rng.integers(len(WORDS)))].replace("\x00", "")
    item.attrs[key] = new
    return f"{item.name}, attribute {key}: {str(old)[:40]} becomes {str(new)[:40]}"
