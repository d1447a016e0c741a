"""Where an output grows, and how it becomes whole: beside its place on a disk, in it on an object store."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Protocol

from zarr.abc.store import Store

from mnndask.errors import KEPT, InputError, InputNotFoundError, OutputError, OutputExistsError
from mnndask.lease import Lease
from mnndask.location import Location, denied_file, reaching
from mnndask.writer import only_writer

ROOTS = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")


class Target(Protocol):
    """Where an output is to be."""

    @property
    def growing(self) -> str:
        """Where it grows, for messages."""

    @property
    def remote(self) -> bool:
        """Whether each request takes its time: few of them, and large objects, are better than many."""

    def exists(self) -> bool:
        """Whether there is an output."""

    def unfinished(self) -> bool:
        """Whether there is a part of one."""

    def only_writer(self) -> AbstractContextManager[None]:
        """Hold what keeps others from writing it."""

    def check_ours(self) -> None:
        """Raise if another run has become the one that writes it."""

    def store(self, *, read_only: bool = False) -> Store:
        """Store in which it grows."""

    def clear(self) -> None:
        """Remove what there is of an unfinished output."""

    def sweep(self) -> None:
        """Remove what a writer that was killed left half written."""

    def finish(self, *, overwrite: bool) -> None:
        """Put what is complete into its place."""

    def check(self, inputs: Sequence[Location]) -> None:
        """Refuse a place that cannot be written, or that an input is, holds or lies in."""


def target_of(output: Location) -> Target:
    """What an output path or URL means.

    Raises
    ------
    InputError
        If it does not end in .zarr.
    """
    if output.pure.suffix != ".zarr":
        what = f"The output {output} does not end in .zarr."
        raise InputError(what, "Results are written as zarr stores: give a path such as corrected.zarr.")
    return RemoteTarget(output) if output.is_url else LocalTarget(output.path)


class LocalTarget:
    """A local store, which grows in ``<path>.partial`` and is renamed when complete."""

    remote = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = partial_of(path)
        self.older = path.with_name(path.name + ".replaced")

    def __str__(self) -> str:
        return str(self.path)

    @property
    def growing(self) -> str:
        """Where it grows, for messages."""
        return str(self.partial)

    def exists(self) -> bool:
        """Whether there is an output."""
        return self.path.exists()

    def unfinished(self) -> bool:
        """Whether there is a part of one."""
        return self.partial.exists()

    def only_writer(self) -> AbstractContextManager[None]:
        """Hold a file lock."""
        return only_writer(self.partial)

    def check_ours(self) -> None:
        """Nothing takes a file lock."""

    def store(self, *, read_only: bool = False) -> Store:
        """Store in which it grows."""
        return Location.of(self.partial).store(read_only=read_only)

    def clear(self) -> None:
        """Remove what there is of an unfinished output."""
        if self.partial.exists():
            _remove(self.partial)

    def sweep(self) -> None:
        """Remove the files that zarr had not yet renamed when its process was killed."""
        for half in self.partial.rglob("*.partial"):
            half.unlink()

    def check(self, inputs: Sequence[Location]) -> None:
        """Refuse a place that cannot be written, or that an input is, holds or lies in."""
        target, partial = self.path.resolve(), self.partial.resolve()
        for source in (location for location in inputs if not location.is_url):
            real = source.path.resolve()
            if partial == real or partial in real.parents:
                what = f"The output {self.path} grows in {partial}, where the input {source} lies."
                raise InputError(what, "Write to another path, or rename the input.")
            if target == real or target in real.parents or real in target.parents:
                relation = "is" if target == real else "contains" if target in real.parents else "is inside"
                what = f"The output {self.path} {relation} the input {source}."
                raise InputError(what, "Write to another path; --overwrite does not lift this.")
        _check_folder(target.parent)
        if self.older.exists():
            what = f"An older output, {self.older}, exists: a run was stopped while it replaced {self.path}."
            raise OutputExistsError(what, f"Rename it to {self.path}, or remove it.")

    def finish(self, *, overwrite: bool) -> None:
        """Rename it into place; one that it replaces goes only after."""
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
                warnings.warn(message, UserWarning, stacklevel=5)


class RemoteTarget:
    """A store at a URL, which grows in its place: it opens only once its root is written, last of all."""

    remote = True

    def __init__(self, location: Location) -> None:
        self.location = location
        self.filesystem, self.path = location.filesystem()
        self.lease = Lease(location)

    def __str__(self) -> str:
        return str(self.location)

    @property
    def growing(self) -> str:
        """Where it grows, for messages."""
        return str(self.location)

    def exists(self) -> bool:
        """Whether there is an output, or anything that opens."""
        return any(name in ROOTS for name in self._names())

    def unfinished(self) -> bool:
        """Whether there is a part of one."""
        names = self._names()
        return bool(names) and not any(name in ROOTS for name in names)

    def _names(self) -> list[str]:
        """Of what is directly below it now, whoever wrote it."""
        with reaching(self.location):
            self.filesystem.invalidate_cache(self.path)
            try:
                return [str(path).rsplit("/", 1)[-1] for path in self.filesystem.ls(self.path, detail=False)]
            except FileNotFoundError:
                return []

    def only_writer(self) -> AbstractContextManager[None]:
        """Hold a lease that others see."""
        return self.lease.held()

    def check_ours(self) -> None:
        """Raise if another run has taken the lease."""
        self.lease.check()

    def store(self, *, read_only: bool = False) -> Store:
        """Store in which it grows."""
        return self.location.store(read_only=read_only)

    def clear(self) -> None:
        """Remove what is there; its root first, so that it does not open without the rest."""
        with reaching(self.location):
            names = self._names()
            for name in set(names) & set(ROOTS):
                self.filesystem.rm_file(f"{self.path}/{name}")
            if names:
                self.filesystem.rm(self.path, recursive=True)

    def sweep(self) -> None:
        """An object is there whole, or not at all."""

    def check(self, inputs: Sequence[Location]) -> None:
        """Refuse a place that cannot be written, or that an input is, holds or lies in."""
        for source in (location for location in inputs if location.is_url):
            given = source.filesystem()[1]
            if f"{given}/".startswith(f"{self.path}/") or f"{self.path}/".startswith(f"{given}/"):
                what = f"The output {self.location} is, contains or is inside the input {source}."
                raise InputError(what, "Write to another place; --overwrite does not lift this.")
        with reaching(self.location):
            bucket = self.path.split("/")[0]
            if "/" in self.path and not self.filesystem.exists(bucket):
                what = f"The bucket of the output {self.location} does not exist."
                raise InputNotFoundError(what, "Create it first, or check its name.")

    def finish(self, *, overwrite: bool) -> None:
        """Nothing is left to do."""


def partial_of(path: Path) -> Path:
    """Where the store at a local path grows."""
    return path.with_name(path.name + ".partial")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which nothing can be made."""
    with suppress(PermissionError):  # of a folder above
        if not folder.is_dir():
            what = f"The folder of the output, {folder}, does not exist."
            raise InputNotFoundError(what, "Create it first.")
    effective = os.access in os.supports_effective_ids
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        what = f"Nothing can be made in the folder of the output, {folder}"
        raise not_allowed(what)


def not_allowed(what: str, error: BaseException | None = None) -> OutputError:
    """Error of an output on this machine that may not be written."""
    return OutputError(
        f"{what}: {denied_file(error)}.",
        "Write to another place, or have its owner let you write there (ls -ld shows who may).",
    )
