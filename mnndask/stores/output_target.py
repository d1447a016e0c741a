"""Where an output is written and how it is completed: renamed on a disk, root last on an object store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from zarr.abc.store import Store

from mnndask.errors import InputError, InputNotFoundError
from mnndask.stores.disk_space import Space
from mnndask.stores.file_target import FileTarget
from mnndask.stores.local_target import LocalTarget, decoded
from mnndask.stores.location import Location, reaching
from mnndask.stores.locks import Lease
from mnndask.stores.removal import METADATA, remove_objects
from mnndask.stores.retries import RetryingStore


class Target(Protocol):
    """Destination of an output."""

    @property
    def growing(self) -> str:
        """Path or URL of the unfinished output, for messages."""

    @property
    def record_name(self) -> str:
        """Path or URL of the record of the run that writes it, for messages."""

    @property
    def remote(self) -> bool:
        """Whether requests are slow, so that few requests and large objects are preferable."""

    def exists(self) -> bool:
        """Whether the output exists."""

    def space(self, *continued: str) -> Space | None:
        """Return the space for it; None if that cannot be told.

        What is there makes way, but for matrices of these names, which are continued.
        """

    def unfinished(self) -> bool:
        """Whether an unfinished output exists."""

    def only_writer(self) -> AbstractContextManager[None]:
        """Prevent other runs from writing the output."""

    def check_ours(self) -> None:
        """Raise if another run has become the writer."""

    def store(self, *, read_only: bool = False) -> Store:
        """Store of the unfinished output."""

    def record(self) -> Any:
        """Return the record of the run that began the unfinished output; None if there is none."""

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record of the run."""

    def clear(self) -> None:
        """Remove an unfinished output and its record."""

    def sweep(self) -> None:
        """Remove incomplete files that a killed writer left."""

    def settle(self, *, finish: bool) -> None:
        """Finish or undo the replacement during which a run was stopped."""

    def finish(self, *, overwrite: bool) -> None:
        """Move the complete output to its destination and remove the record."""

    def check_older(self, *, proceed: bool, ours: bool) -> None:
        """Refuse to write where there is an older output, unless it is `ours` and we `proceed`."""

    def check(self, inputs: Sequence[Location]) -> None:
        """Refuse a destination that cannot be written, or that is, contains or is inside an input."""


def target_of(output: Location) -> Target:
    """Return the destination that the path or URL of a store names.

    Raises
    ------
    InputError
        If it does not end in .zarr.
    """
    if output.pure.suffix != ".zarr":
        what = f"The output {output} does not end in .zarr."
        raise InputError(what, "Outputs are zarr stores: give a path such as corrected.zarr.")
    return RemoteTarget(output) if output.is_url else LocalTarget(output.path)


def store_or_file(output: Location) -> Target:
    """Return the destination that the path or URL of a store names, or the path of an ``.h5ad`` file."""
    is_file = output.pure.suffix == ".h5ad" and not output.is_url
    return FileTarget(output.path) if is_file else target_of(output)


class RemoteTarget:
    """A store at a URL, written in place. It cannot be opened before its root metadata is written, last."""

    remote = True

    def __init__(self, location: Location) -> None:
        self.location = location
        self.filesystem, self.path = location.filesystem()
        self.run = f"{self.path}.run.json"
        self.lease = Lease(location)

    def __str__(self) -> str:
        return str(self.location)

    @property
    def growing(self) -> str:
        """URL of the unfinished output, for messages."""
        return str(self.location)

    @property
    def record_name(self) -> str:
        """URL of the record, for messages."""
        return f"{self.location}.run.json"

    def exists(self) -> bool:
        """Whether the output exists, or any other store that can be opened."""
        return any(name in METADATA for name in self._names())

    def unfinished(self) -> bool:
        """Whether an unfinished output exists."""
        names = self._names()
        return bool(names) and not any(name in METADATA for name in names)

    def _names(self) -> list[str]:
        """Names that are now directly below the URL, whichever process wrote them."""
        with reaching(self.location):
            self.filesystem.invalidate_cache(self.path)
            try:
                return [str(path).rsplit("/", 1)[-1] for path in self.filesystem.ls(self.path, detail=False)]
            except FileNotFoundError:
                return []

    def only_writer(self) -> AbstractContextManager[None]:
        """Lease the output, visibly to other runs."""
        return self.lease.held()

    def check_ours(self) -> None:
        """Raise if another run has taken the lease."""
        self.lease.check()

    def store(self, *, read_only: bool = False) -> Store:
        """Store of the unfinished output; what this run writes there is written while it has the lease."""
        store = self.location.store(read_only=read_only)
        if isinstance(store, RetryingStore):
            store.before_write = self.lease.still_held
        return store

    def record(self) -> Any:
        """Return the record of the run that began the unfinished output; None if there is none."""
        with reaching(self.location):
            self.filesystem.invalidate_cache(self.run)
            try:
                return decoded(self.filesystem.cat_file(self.run))
            except FileNotFoundError:
                return None

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record of the run."""
        with reaching(self.location):
            self.filesystem.pipe_file(self.run, json.dumps(record).encode())

    def clear(self) -> None:
        """Remove everything at the URL; the record first, so that nothing is continued in what is left."""
        with reaching(self.location):
            self.lease.keep()
            self._remove_record()
            remove_objects(self.filesystem, self.path)

    def _remove_record(self) -> None:
        self.filesystem.invalidate_cache(self.run)
        if self.filesystem.exists(self.run):
            self.filesystem.rm_file(self.run)

    def space(self, *continued: str) -> None:
        """Return nothing: object stores do not say what space they have."""

    def sweep(self) -> None:
        """Do nothing: objects are written atomically."""

    def check(self, inputs: Sequence[Location]) -> None:
        """Refuse a destination that cannot be written, or that is, contains or is inside an input."""
        for source in (location for location in inputs if location.is_url):
            given = source.filesystem()[1]
            if f"{given}/".startswith(f"{self.path}/") or f"{self.path}/".startswith(f"{given}/"):
                what = f"The output {self.location} is, contains or is inside the input {source}."
                raise InputError(what, "Write to another place; --overwrite does not override this.")
        with reaching(self.location):
            bucket = self.path.split("/")[0]
            if "/" in self.path and not self.filesystem.exists(bucket) and not self._names():
                what = f"The bucket of the output {self.location} does not exist."
                raise InputNotFoundError(what, "Create it first, or check its name.")

    def check_older(self, *, proceed: bool, ours: bool) -> None:
        """Do nothing: nothing is renamed."""

    def settle(self, *, finish: bool) -> None:
        """Do nothing: nothing is renamed."""

    def finish(self, *, overwrite: bool) -> None:
        """Remove the record: the store is already at its destination."""
        with reaching(self.location):
            self._remove_record()
