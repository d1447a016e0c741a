"""Where an output is written and how it is completed: renamed on a disk, root last on an object store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Protocol

from zarr.abc.store import Store

from mnndask.errors import KEPT, InputError, InputNotFoundError, OutputError, OutputExistsError, warn
from mnndask.stores.location import Location, denied_file, reaching, real_path
from mnndask.stores.locks import Lease, only_writer

ROOT_KEYS = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")


class Target(Protocol):
    """Destination of an output."""

    @property
    def growing(self) -> str:
        """Path or URL of the unfinished output, for messages."""

    @property
    def remote(self) -> bool:
        """Whether requests are slow, so that few requests and large objects are preferable."""

    def exists(self) -> bool:
        """Whether the output exists."""

    def unfinished(self) -> bool:
        """Whether an unfinished output exists."""

    def only_writer(self) -> AbstractContextManager[None]:
        """Prevent other runs from writing the output."""

    def check_ours(self) -> None:
        """Raise if another run has become the writer."""

    def store(self, *, read_only: bool = False) -> Store:
        """Store of the unfinished output."""

    def clear(self) -> None:
        """Remove an unfinished output."""

    def sweep(self) -> None:
        """Remove incomplete files that a killed writer left."""

    def finish(self, *, overwrite: bool) -> None:
        """Move the complete output to its destination."""

    def check(self, inputs: Sequence[Location]) -> None:
        """Refuse a destination that cannot be written, or that is, contains or is inside an input."""


def target_of(output: Location) -> Target:
    """Return the destination that an output path or URL names.

    Raises
    ------
    InputError
        If it does not end in .zarr.
    """
    if output.pure.suffix != ".zarr":
        what = f"The output {output} does not end in .zarr."
        raise InputError(what, "Outputs are zarr stores: give a path such as corrected.zarr.")
    return RemoteTarget(output) if output.is_url else LocalTarget(output.path)


class LocalTarget:
    """A local store, written to ``<path>.partial`` and renamed when complete."""

    remote = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = partial_of(path)
        self.older = path.with_name(path.name + ".replaced")

    def __str__(self) -> str:
        return str(self.path)

    @property
    def growing(self) -> str:
        """Path of the unfinished output, for messages."""
        return str(self.partial)

    def exists(self) -> bool:
        """Whether the output exists."""
        return self.path.exists()

    def unfinished(self) -> bool:
        """Whether an unfinished output exists."""
        return self.partial.exists()

    def only_writer(self) -> AbstractContextManager[None]:
        """Lock a file while the output is written."""
        return only_writer(self.partial)

    def check_ours(self) -> None:
        """Do nothing: no other run can take over a file lock."""

    def store(self, *, read_only: bool = False) -> Store:
        """Store of the unfinished output."""
        return Location.of(self.partial).store(read_only=read_only)

    def clear(self) -> None:
        """Remove an unfinished output."""
        if self.partial.exists():
            _remove(self.partial)

    def sweep(self) -> None:
        """Remove the temporary files that zarr had not yet renamed when its process was killed."""
        for temporary in self.partial.rglob("*.partial"):
            temporary.unlink()

    def check(self, inputs: Sequence[Location]) -> None:
        """Refuse a destination that cannot be written, or that is, contains or is inside an input."""
        target, partial = real_path(self.path), real_path(self.partial)
        for source in (location for location in inputs if not location.is_url):
            real = real_path(source.path)
            if partial == real or partial in real.parents:
                what = f"The output {self.path} is first written to {partial}, where the input {source} is."
                raise InputError(what, "Write to another path, or rename the input.")
            if target == real or target in real.parents or real in target.parents:
                relation = "is" if target == real else "contains" if target in real.parents else "is inside"
                what = f"The output {self.path} {relation} the input {source}."
                raise InputError(what, "Write to another path; --overwrite does not override this.")
        _check_folder(target.parent)
        if self.older.exists():
            what = f"An older output, {self.older}, exists: a run was stopped while replacing {self.path}."
            raise OutputExistsError(what, f"Rename it to {self.path}, or remove it.")

    def finish(self, *, overwrite: bool) -> None:
        """Rename the output to its final path, and only then remove an older output that it replaces."""
        replaced = overwrite and self.path.exists()
        try:
            if replaced:
                os.replace(self.path, self.older)
            os.replace(self.partial, self.path)
        except OSError as error:
            error.add_note(f"{KEPT} {self.partial}, which is complete: rename it.")
            if replaced and self.older.exists():
                os.replace(self.older, self.path)
            raise
        if replaced:
            try:
                _remove(self.older)
            except OSError as error:
                message = (
                    f"{self.path} is complete, but the older output, now {self.older}, could not be removed: "
                    f"{error.strerror or error}.\nRemove it."
                )
                warn(message)


class RemoteTarget:
    """A store at a URL, written in place. It cannot be opened before its root metadata is written, last."""

    remote = True

    def __init__(self, location: Location) -> None:
        self.location = location
        self.filesystem, self.path = location.filesystem()
        self.lease = Lease(location)

    def __str__(self) -> str:
        return str(self.location)

    @property
    def growing(self) -> str:
        """URL of the unfinished output, for messages."""
        return str(self.location)

    def exists(self) -> bool:
        """Whether the output exists, or any other store that can be opened."""
        return any(name in ROOT_KEYS for name in self._names())

    def unfinished(self) -> bool:
        """Whether an unfinished output exists."""
        names = self._names()
        return bool(names) and not any(name in ROOT_KEYS for name in names)

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
        """Store of the unfinished output."""
        return self.location.store(read_only=read_only)

    def clear(self) -> None:
        """Remove everything at the URL; root metadata first, so that an incomplete store cannot be opened."""
        with reaching(self.location):
            names = self._names()
            for name in set(names) & set(ROOT_KEYS):
                self.filesystem.rm_file(f"{self.path}/{name}")
            if names:
                self.filesystem.rm(self.path, recursive=True)

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
            if "/" in self.path and not self.filesystem.exists(bucket):
                what = f"The bucket of the output {self.location} does not exist."
                raise InputNotFoundError(what, "Create it first, or check its name.")

    def finish(self, *, overwrite: bool) -> None:
        """Do nothing: the store is already at its destination."""


def partial_of(path: Path) -> Path:
    """Path at which a local store is written until it is complete."""
    return path.with_name(path.name + ".partial")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which no files can be created."""
    with suppress(PermissionError):  # for a parent folder
        if not folder.is_dir():
            what = f"The folder of the output, {folder}, does not exist."
            raise InputNotFoundError(what, "Create it first.")
    effective = os.access in os.supports_effective_ids
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        what = f"Nothing can be created in the folder of the output, {folder}"
        raise not_allowed(what)


def not_allowed(what: str, error: BaseException | None = None) -> OutputError:
    """Error for an output on this machine that the user may not write."""
    return OutputError(
        f"{what}: {denied_file(error)}.",
        "Write to another place, or ask its owner for write permission (ls -ld shows who has it).",
    )
