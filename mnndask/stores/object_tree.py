"""Fitted values in a zarr group: arrays, and one attribute that describes their structure. Never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray

from mnndask.stores.location import Location
from mnndask.stores.scratch import ScratchStore, StoredMatrix
from mnndask.stores.whole_store import WholeStore

ARRAY_CHUNK_BYTES = 2**25
Kinds: TypeAlias = Mapping[str, type[Any]]  # dataclasses by name


def write_tree(value: Any, folder: Location, kinds: Kinds) -> None:
    """Write dataclasses among `kinds`, arrays, numbers, strings, and containers of these.

    Stored matrices are referred to, not copied. An object that occurs twice is written once; an array that
    is the first rows of another is not written again.
    """
    group = zarr.open_group(folder.store(), mode="a", zarr_format=3)
    group.attrs["tree"] = _Writer(group, kinds).node(value)


def read_tree(folder: Location, kinds: Kinds) -> Any:
    """Read a value written by :func:`write_tree`; raise if it is being removed."""
    group = zarr.open_group(WholeStore(folder.store(read_only=True), frozenset(), frozenset()), mode="r")
    return _Reader(group, folder.options, kinds).value(group.attrs["tree"])


class _Writer:
    def __init__(self, group: zarr.Group, kinds: Kinds) -> None:
        self.group, self.kinds = group, kinds
        self.nodes: dict[int, tuple[Any, Any]] = {}  # by id, with the object, so that its id is not reused

    def node(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if id(value) not in self.nodes:
            number = len(self.nodes)
            self.nodes[id(value)] = value, number
            return {"number": number, **self._describe(value, number)}
        return {"same": self.nodes[id(value)][1]}

    def _describe(self, value: Any, number: int) -> dict[str, Any]:
        match value:
            case np.ndarray():
                return self._array(value, number)
            case np.dtype():
                return {"dtype": value.str}
            case list() | tuple():
                return {type(value).__name__: [self.node(part) for part in value]}
            case dict():
                return {"dict": [[self.node(key), self.node(part)] for key, part in value.items()]}
            case StoredMatrix():
                return {"stored": value.place.given}
        name = type(value).__name__
        if not is_dataclass(value) or self.kinds.get(name) is not type(value):
            what = f"{name} cannot be stored"
            raise TypeError(what)
        return {"kind": name, "fields": {f.name: self.node(getattr(value, f.name)) for f in fields(value)}}

    def _array(self, array: NDArray[Any], number: int) -> dict[str, Any]:
        base = array.base
        if _is_first_rows(array, base):
            return {"first": len(array), "of": self.node(base)}
        stored = self.group.create_array(
            str(number),
            shape=array.shape,
            dtype=array.dtype,
            chunks=_chunks(array) or "auto",
            compressors=None,
            config={"write_empty_chunks": True},
        )
        stored[...] = array
        return {"array": str(number)}


def _chunks(array: NDArray[Any]) -> tuple[int, ...]:
    """Shape of chunks of whole rows; at least 1 along each axis, even for an empty array."""
    if not array.ndim:
        return ()
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    rows = min(len(array), ARRAY_CHUNK_BYTES // row_bytes)
    return tuple(max(1, n) for n in (rows, *array.shape[1:]))


def _is_first_rows(array: NDArray[Any], base: Any) -> bool:
    """Whether an array is a view of the first rows of another."""
    return (
        isinstance(base, np.ndarray)
        and array.ndim == base.ndim > 0
        and array.shape[1:] == base.shape[1:]
        and array.strides == base.strides
        and array.dtype == base.dtype
        and array.ctypes.data == base.ctypes.data
    )


class _Reader:
    def __init__(self, group: zarr.Group, options: Mapping[str, Any], kinds: Kinds) -> None:
        self.group, self.options, self.kinds = group, options, kinds
        self.values: dict[int, Any] = {}

    def value(self, node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if "same" in node:
            return self.values[node["same"]]
        self.values[node["number"]] = out = self._build(node)
        return out

    def _build(self, node: dict[str, Any]) -> Any:
        match node:
            case {"array": name}:
                array = self.group[name]
                assert isinstance(array, zarr.Array)
                return np.asarray(array[...])
            case {"first": n, "of": base}:
                return self.value(base)[:n]
            case {"dtype": name}:
                return np.dtype(name)
            case {"list": parts}:
                return [self.value(part) for part in parts]
            case {"tuple": parts}:
                return tuple(self.value(part) for part in parts)
            case {"dict": items}:
                return {self.value(key): self.value(part) for key, part in items}
            case {"stored": name}:
                place = Location(name, self.options)
                array = zarr.open_array(place.store(read_only=True), mode="r")
                return StoredMatrix.of(array, ScratchStore.at(place.parent), place)
            case {"kind": name, "fields": parts}:
                return self.kinds[name](**{key: self.value(part) for key, part in parts.items()})
        what = f"unknown node {node}"
        raise ValueError(what)
