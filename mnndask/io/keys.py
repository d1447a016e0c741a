"""Keys of columns and elements in stores: one path component each, distinct regardless of case."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence

RESERVED = {"", ".", "..", "_index", "zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}

# zarr treats a backslash as a slash; file systems do not support the others.
INVALID_CHARACTERS = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]")
LONGEST = 200  # bytes; file systems allow 255, of which zarr and numbering need some


def storable_keys(tables: Sequence[Iterable[Hashable]]) -> list[list[str]]:
    """Return a storable key for each key of several tables or mappings.

    A key gets the same new name in all of them; a key that a table has twice gets two names. Keys that can be
    stored are unchanged and take precedence.
    """
    counted = [_counted(keys) for keys in tables]
    known = list(dict.fromkeys(key for keys in counted for key in keys))
    names: dict[tuple[Hashable, int], str] = {}
    taken: set[str] = set()
    for key, nth in known:
        if nth == 0 and isinstance(key, str) and _cleaned(key) == key and key.casefold() not in taken:
            names[key, nth] = str(key)
            taken.add(key.casefold())
    for key, nth in known:
        if (key, nth) not in names:
            names[key, nth] = name = _free(_cleaned(str(key)), taken)
            taken.add(name.casefold())
    return [[names[key] for key in keys] for keys in counted]


def _counted(keys: Iterable[Hashable]) -> list[tuple[Hashable, int]]:
    """Pair each key with the number of its previous occurrences."""
    seen: dict[Hashable, int] = {}
    out = []
    for key in keys:
        seen[key] = nth = seen.get(key, -1) + 1
        out.append((key, nth))
    return out


def _cleaned(key: str) -> str:
    key = INVALID_CHARACTERS.sub("_", key)
    key = key.encode()[:LONGEST].decode(errors="ignore")
    if key in RESERVED:
        key = key.replace(".", "_").lstrip("_") or "unnamed"
    return re.sub("^__", "_", key)  # zarr reserves names that start with two underscores


def _free(name: str, taken: set[str]) -> str:
    if name.casefold() not in taken:
        return name
    number = 1
    while f"{name}_{number}".casefold() in taken:
        number += 1
    return f"{name}_{number}"
