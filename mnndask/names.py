"""Names in an AnnData that would become paths: none may lead out of the store that they are written to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anndata import AnnData

from mnndask.errors import InputError
from mnndask.sources import layer_names


def check_names(adata: AnnData) -> None:
    """Refuse names that zarr cannot store, or that could be taken for a way out of the store.

    Raises
    ------
    InputError
        Naming the first.
    """
    for where, name in _names(adata):
        if not name or any(part in {"", ".", ".."} for part in name.replace("\\", "/").split("/")):
            what = f"{where} holds the name {name!r}, under which nothing can be stored."
            raise InputError(what, "Rename it, or remove it.")


def _names(adata: AnnData) -> Iterator[tuple[str, str]]:
    for table in ("obs", "var"):
        yield from ((table, str(name)) for name in getattr(adata, table))
    yield from (("layers", name) for name in layer_names(adata))
    for slot in ("obsm", "obsp", "varm", "varp"):
        yield from ((slot, str(name)) for name in getattr(adata, slot))
    yield from _nested("uns", adata.uns)


def _nested(where: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        yield where, str(name)
        if isinstance(value, Mapping) and not hasattr(value, "to_memory"):
            yield from _nested(f"{where}[{name!r}]", value)
