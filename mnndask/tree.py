"""Fitted values as a zarr group: arrays, and one attribute that says how they hang together. Never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from mnndask.chunk_corrector import ChunkCorrector
from mnndask.kernels.components import Components
from mnndask.kernels.distances import Points, Stacked
from mnndask.kernels.low_rank import LowRank
from mnndask.location import Location
from mnndask.model import CorrectionModel, MergeStep
from mnndask.runstore import RunStore, StoredMatrix
from mnndask.spaces import GeneSpaces

KINDS = {
    kind.__name__: kind
    for kind in (
        ChunkCorrector,
        Components,
        CorrectionModel,
        GeneSpaces,
        LowRank,
        MergeStep,
        Points,
        Stacked,
    )
}
CHUNK_BYTES = 2**25


def write_tree(value: Any, folder: Location) -> None:
    """Write dataclasses of ``KINDS``, containers of them, arrays, numbers and strings.

    Matrices of run stores stay where they are. What is there twice is written once; likewise matrices that
    are the first rows of another.
    """
    group = zarr.open_group(folder.store(), mode="a", zarr_format=3)
    group.attrs["tree"] = _Writer(group).node(value)


def read_tree(folder: Location) -> Any:
    """Read what :func:`write_tree` wrote."""
    group = zarr.open_group(folder.store(read_only=True), mode="r")
    return _Reader(group, folder.options).value(group.attrs["tree"])


class _Writer:
    def __init__(self, group: zarr.Group) -> None:
        self.group = group
        self.nodes: dict[int, tuple[Any, Any]] = {}  # by identity, with what keeps that from being reused

    def node(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if id(value) not in self.nodes:
            number = len(self.nodes)
            self.nodes[id(value)] = value, number
            return {"number": number, **self._described(value, number)}
        return {"same": self.nodes[id(value)][1]}

    def _described(self, value: Any, number: int) -> dict[str, Any]:
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
        if not is_dataclass(value) or KINDS.get(name) is not type(value):
            what = f"{name} cannot be stored"
            raise TypeError(what)
        return {"kind": name, "fields": {f.name: self.node(getattr(value, f.name)) for f in fields(value)}}

    def _array(self, array: NDArray[Any], number: int) -> dict[str, Any]:
        whole = array.base
        if _starts(array, whole):
            return {"first": len(array), "of": self.node(whole)}
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
    """Some whole rows; no chunk may have a length of 0, even of an array that has."""
    if not array.ndim:
        return ()
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    rows = min(len(array), CHUNK_BYTES // row_bytes)
    return tuple(max(1, n) for n in (rows, *array.shape[1:]))


def _starts(array: NDArray[Any], whole: Any) -> bool:
    """Whether an array is the first rows of another one."""
    return (
        isinstance(whole, np.ndarray)
        and array.ndim == whole.ndim > 0
        and array.shape[1:] == whole.shape[1:]
        and array.strides == whole.strides
        and array.dtype == whole.dtype
        and array.ctypes.data == whole.ctypes.data
    )


class _Reader:
    def __init__(self, group: zarr.Group, options: Mapping[str, Any]) -> None:
        self.group, self.options = group, options
        self.values: dict[int, Any] = {}

    def value(self, node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if "same" in node:
            return self.values[node["same"]]
        self.values[node["number"]] = out = self._made(node)
        return out

    def _made(self, node: dict[str, Any]) -> Any:
        match node:
            case {"array": name}:
                array = self.group[name]
                assert isinstance(array, zarr.Array)
                return np.asarray(array[...])
            case {"first": n, "of": whole}:
                return self.value(whole)[:n]
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
                return StoredMatrix.of(array, RunStore.at(place.parent), place)
            case {"kind": name, "fields": parts}:
                return KINDS[name](**{key: self.value(part) for key, part in parts.items()})
        what = f"unknown node {node}"
        raise ValueError(what)
