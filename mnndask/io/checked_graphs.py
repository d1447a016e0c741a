"""Lazy matrices that users opened: reads are replaced by our own, so that missing chunks are not zeros."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import zarr
from anndata import AnnData
from dask.array.core import getter, getter_inline, getter_nofancy
from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph

from mnndask.stores.hdf5 import open_hdf5
from mnndask.stores.lazy_matrix import lazy_matrix, path_of
from mnndask.stores.missing_chunks import check_annotation_chunks

GETTERS = (getter, getter_inline, getter_nofancy)  # functions with which da.from_array reads


def guarded(X: da.Array, label: str) -> da.Array:
    """Replace reads by anndata's ``read_lazy`` or ``dask.array.from_zarr`` in the graph of an array.

    The new layer has the same name and chunks. It refuses missing chunks (now, and when it is computed), and
    its errors name input, matrix and rows. All other layers are unchanged.

    Raises
    ------
    InputError
        If a store has missing chunks.
    """
    layers, dependencies = dict(X.dask.layers), dict(X.dask.dependencies)
    for name, layer in X.dask.layers.items():
        with _read_by(layer, layers) as stored:
            if stored is None:
                continue
            whose = f"{'' if name == X.name else 'the file of '}{label} ({path_of(stored)})"
            chunks = next(part.chunks for part in layer.io_deps.values())
            layers[name] = lazy_matrix(stored, whose, chunks=chunks, name=name).dask.layers[name]
            dependencies[name] = set()
    graph = HighLevelGraph(layers, dependencies)
    return da.Array(graph, X.name, X.chunks, meta=X._meta)


def check_lazy_tables(adata: AnnData, X: Any, slot: str, label: str, used: Collection[str]) -> None:
    """Refuse (or warn of) missing chunks of tables that ``read_lazy`` left in the store of a matrix.

    The matrix at `slot` identifies the store. See :func:`check_annotation_chunks` for what is refused.
    """
    layers = X.dask.layers if isinstance(X, da.Array) else {}
    lazy = [name for name in ("obs", "var") if hasattr(getattr(adata, name), "to_memory")]
    for layer in layers.values() if lazy else ():
        with _read_by(layer, layers) as stored:
            if isinstance(stored, zarr.Array | zarr.Group) and f"/{stored.path}".endswith(f"/{slot}"):
                root = zarr.open_group(stored.store, path=stored.path.removesuffix(slot).strip("/"), mode="r")
                for name in lazy:
                    check_annotation_chunks(root[name], f"{label} ({path_of(stored)})", used)


@contextmanager
def _read_by(layer: Any, layers: dict[str, Any]) -> Iterator[Any]:
    """Yield the stored matrix that a layer reads; None for any other layer."""
    stored, chunked = None, isinstance(layer, Blockwise) and len(layer.io_deps) == 1
    for argument, index in layer.indices if chunked else ():
        value = None if index is not None else _value(argument, layers)
        if isinstance(value, zarr.Array) and layer.task.func in GETTERS:
            stored = value
        elif isinstance(value, partial) and _name(value.func) == "make_dask_chunk":  # anndata's
            source, matrix = value.args
            if isinstance(source, Path):
                with open_hdf5(source) as file:
                    yield file[matrix]
                return
            stored = getattr(source, "group", source)
    yield stored if isinstance(stored, zarr.Array | zarr.Group) else None


def _value(argument: Any, layers: dict[str, Any]) -> Any:
    """Return an argument of a layer's function, also if another layer consists only of the argument."""
    key = getattr(argument, "key", None)
    other = layers.get(key) if isinstance(key, str) else None
    if other is not None and not isinstance(other, Blockwise) and len(other) == 1:
        argument = other[key]
    return getattr(argument, "value", argument)


def _name(function: Any) -> str | None:
    """Name of a function; None for other callables."""
    return getattr(function, "__name__", None)
