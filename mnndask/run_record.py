"""What a run was asked to do, kept with an unfinished output so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from mnndask import __version__
from mnndask.errors import InputError
from mnndask.location import Location, reaching
from mnndask.stores.plain_http import HttpStore

RUN = "mnndask-run"  # group of an unfinished output that holds the record
TAGS = ("ETag", "mtime", "LastModified", "created", "CRC")  # of a file, whichever the place knows
ANNOTATED = "annotated"  # its attribute that is there once all but X is written


@dataclass(frozen=True)
class Run:
    """A run, as far as its result depends on it.

    Parameters
    ----------
    record
        Version, inputs and parameters: strings, numbers, and containers of them.
    """

    record: dict[str, Any]

    @classmethod
    def of(cls, inputs: Sequence[Location], parameters: Mapping[str, Any]) -> Run:
        """Describe a run; of inputs, lists their files and reads none."""
        known = {key: value for key, value in parameters.items() if value is not None}
        record = {
            "version": __version__,
            "inputs": [_fingerprint(location) for location in inputs],
            "parameters": json.loads(json.dumps(known, default=str)),
        }
        return cls(record)

    def check_same(self, record: Mapping[str, Any], where: str) -> None:
        """Refuse to continue another run.

        Raises
        ------
        InputError
            Naming the differences.
        """
        found = list(_differences(record, self.record))
        if found:
            what = f"The unfinished output {where} is another run's: {'; '.join(found)}."
            raise InputError(what, "Give what that run was given, or start anew with --overwrite.")


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if then["version"] != now["version"]:
        yield f"mnndask was {then['version']}, and is {now['version']}"
    if len(then["inputs"]) != len(now["inputs"]):
        yield f"it had {len(then['inputs'])} inputs, and this has {len(now['inputs'])}"
    for old, new in zip(then["inputs"], now["inputs"], strict=False):
        if old["files"] != new["files"]:
            yield f"input {new['name']} is not {old['name']} as it was"
    for key in sorted({*then["parameters"], *now["parameters"]}):
        old, new = (_short(side["parameters"].get(key)) for side in (then, now))
        if then["parameters"].get(key) != now["parameters"].get(key):
            yield f"{key} was {old}, and is {new}"


def _short(value: Any) -> str:
    return "not given" if value is None else repr(value) if len(repr(value)) < 60 else "other values"


def _fingerprint(location: Location) -> dict[str, str]:
    """Name of an input, and a digest of its files' names, sizes and times (or tags)."""
    digest = hashlib.sha256()
    for entry in sorted(_files(location)):
        digest.update(repr(entry).encode())
    return {"name": str(location), "files": digest.hexdigest()}


def _documents(store: HttpStore) -> Iterator[tuple[str, ...]]:
    """What the metadata say of a store of whose files nothing is known."""
    for name in ("zarr.json", ".zmetadata", ".zgroup", ".zattrs"):
        value = sync(store.get(name, default_buffer_prototype()))
        if value is not None:
            yield name, hashlib.sha256(value.to_bytes()).hexdigest()


def _files(location: Location) -> Iterator[tuple[str, ...]]:
    if location.is_url:
        with reaching(location):
            store = location.store(read_only=True)
            if isinstance(store, HttpStore):  # which may list no folders, and knows no sizes
                yield from _documents(store)
                return
            filesystem, path = location.filesystem()
            found = filesystem.find(path, detail=True)
        for name, info in found.items():
            tag = next((str(info[tag]) for tag in TAGS if info.get(tag)), "None")
            yield name.removeprefix(path), str(info.get("size")), tag
        return
    local = location.path
    with reaching(location):
        for file in local.rglob("*") if local.is_dir() else [local]:
            if file.is_file():
                status = file.stat()
                yield str(file.relative_to(local)), str(status.st_size), str(status.st_mtime_ns)
