"""Record of a run, stored beside its unfinished output so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from mnndask._version import __version__
from mnndask.errors import InputError
from mnndask.stores.location import Location, reaching
from mnndask.stores.plain_http import HttpStore

TAGS = ("ETag", "mtime", "LastModified", "created", "CRC")  # of a file's version, in order of preference


@dataclass(frozen=True)
class ResumeRecord:
    """Everything on which the result of a run depends.

    Parameters
    ----------
    record
        Version, inputs and parameters: strings, numbers, and containers of them.
    """

    record: dict[str, Any]

    @classmethod
    def of(cls, inputs: Sequence[Location], parameters: Mapping[str, Any]) -> ResumeRecord:
        """Describe a run. Files of the inputs are listed, not read."""
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
            If the runs differ; the message names the differences.
        """
        found = list(_differences(record, self.record))
        if found:
            what = f"The unfinished output {where} belongs to another run: {'; '.join(found)}."
            raise InputError(what, "Give the inputs and options of that run, or start over with --overwrite.")


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if then["version"] != now["version"]:
        yield f"mnndask was {then['version']} and is now {now['version']}"
    if len(then["inputs"]) != len(now["inputs"]):
        yield f"it had {len(then['inputs'])} inputs, and this run has {len(now['inputs'])}"
    for old, new in zip(then["inputs"], now["inputs"], strict=False):
        if old["files"] != new["files"]:
            yield f"input {new['name']} differs from {old['name']} of that run"
    for key in sorted({*then["parameters"], *now["parameters"]}):
        old, new = (_short(side["parameters"].get(key)) for side in (then, now))
        if then["parameters"].get(key) != now["parameters"].get(key):
            yield f"{key} was {old} and is now {new}"


def _short(value: Any) -> str:
    return "not given" if value is None else repr(value) if len(repr(value)) < 60 else "other values"


def _fingerprint(location: Location) -> dict[str, str]:
    """Return the name of an input, and a digest of the names, sizes and times (or tags) of its files."""
    digest = hashlib.sha256()
    for entry in sorted(_files(location)):
        digest.update(repr(entry).encode())
    return {"name": str(location), "files": digest.hexdigest()}


def _documents(store: HttpStore) -> Iterator[tuple[str, ...]]:
    """Digests of the metadata of a store whose files cannot be listed."""
    for name in ("zarr.json", ".zmetadata", ".zgroup", ".zattrs"):
        value = sync(store.get(name, default_buffer_prototype()))
        if value is not None:
            yield name, hashlib.sha256(value.to_bytes()).hexdigest()


def _files(location: Location) -> Iterator[tuple[str, ...]]:
    if location.is_url:
        with reaching(location):
            store = location.store(read_only=True)
            if isinstance(store, HttpStore):  # may not list folders or sizes
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
