"""An output on this machine: written beside its destination, and renamed when complete."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from zarr.abc.store import Store

from mnndask._text import printable
from mnndask.errors import KEPT, InputError, InputNotFoundError, OutputError, OutputExistsError, warn
from mnndask.stores.contents import is_whole
from mnndask.stores.disk_space import Space
from mnndask.stores.durable import replace_file, sync_folder
from mnndask.stores.location import Location, denied_file, real_path
from mnndask.stores.locks import only_writer
from mnndask.stores.removal import METADATA, remove_tree

TEMPORARY = "*.????????????????????????????????.partial"  # as zarr names what it has yet to rename
HEX = frozenset("0123456789abcdef")


class LocalTarget:
    """A local store, written to ``<path>.partial`` and renamed when complete.

    The record of the run that writes it is a file beside it, ``<path>.run.json``. An older output is renamed
    to ``<path>.replaced`` for the moment in which the new one takes its place.
    """

    remote = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = partial_of(path)
        self.older = path.with_name(path.name + ".replaced")
        self.run = path.with_name(path.name + ".run.json")

    def __str__(self) -> str:
        return str(self.path)

    @property
    def growing(self) -> str:
        """Path of the unfinished output, for messages."""
        return str(self.partial)

    @property
    def record_name(self) -> str:
        """Path of the record, for messages."""
        return str(self.run)

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

    def record(self) -> Any:
        """Return the record of the run that began the unfinished output; None if there is none."""
        try:
            return decoded(self.run.read_bytes())
        except FileNotFoundError:
            return None

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record of the run."""
        replace_file(self.run, json.dumps(record).encode())

    def clear(self) -> None:
        """Remove an unfinished output, its record first, so that nothing is continued in what is left."""
        for file in (self.run, partial_of(self.run)):
            file.unlink(missing_ok=True)
        if self.partial.exists():
            sync_folder(self.path.parent)
            remove_tree(self.partial)
        sync_folder(self.path.parent)

    def sweep(self) -> None:
        """Remove the temporary files that zarr had not yet renamed when its process was killed."""
        for temporary in self.partial.rglob(TEMPORARY):
            if HEX.issuperset(temporary.name.split(".")[-2]) and temporary.is_file():
                temporary.unlink()

    def space(self, *continued: str) -> Space:
        """Return the space for it; what is there makes way, but for matrices of these names, if given."""
        return Space.of(self.partial, *continued)

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

    def check_older(self, *, proceed: bool, ours: bool) -> None:
        """Refuse to write where there is an older output, unless it is `ours` to replace, and to `proceed`.

        Whatever has no root metadata beside an output is what is left of an older one that was being removed.
        """
        if not self.older.exists() or (self.path.exists() and not proceed):
            return
        if proceed and (ours or (self.path.exists() and not _opens(self.older))):
            return
        raise self._older_error()

    def _older_error(self) -> OutputExistsError:
        """Say which of the stores that a stopped run has left is what."""
        free = not self.path.exists()
        keep = f"rename it to {self.path}" if free else "give it another name"
        if not _opens(self.older):
            what = f"{self.older} exists, which is no complete store: it may have been removed in part."
            return OutputExistsError(what, "Remove it, unless it contains anything that you need.")
        if not is_whole(_opened(self.older)):
            what = (
                f"An older output, {self.older}, exists, but lacks values: it was removed in part, or "
                "its writer omitted zeros."
            )
            return OutputExistsError(what, f"Remove it; or, if you know it to be complete, {keep}.")
        if free and self._is_new_whole():
            what = (
                f"A run was stopped while it replaced {self.path}: {self.partial} is the new output, "
                f"{self.older} the older one, and both are complete."
            )
            remedy = (
                "To have the new one, continue that run with --resume, or rename it; to keep the older one, "
                f"rename it to {self.path}. Replace both: --overwrite, or overwrite=True in Python."
            )
            return OutputExistsError(what, remedy)
        what = f"A complete older output, {self.older}, exists: a run was stopped while replacing it."
        return OutputExistsError(what, f"To keep it, {keep}; else remove it.")

    def _is_new_whole(self) -> bool:
        return self.partial.exists() and is_whole(_opened(self.partial))

    def settle(self, *, finish: bool) -> None:
        """Finish or undo the replacement during which a run was stopped, so that an output is in its place.

        It is the new one if it is complete and `finish`, else the older one, until the new one is continued.
        """
        if not self.older.exists():
            return
        if self.path.exists():
            remove_tree(self.older)
        elif finish and self._is_new_whole():
            self.finish(overwrite=True)
        elif _opens(self.older):
            os.replace(self.older, self.path)
            sync_folder(self.path.parent)

    def finish(self, *, overwrite: bool) -> None:
        """Rename the output to its final path, and only then remove an older output that it replaces."""
        replaced = overwrite and self.path.exists()
        try:
            if replaced:
                os.replace(self.path, self.older)
            os.replace(self.partial, self.path)
        except BaseException as error:
            if self.partial.exists():
                error.add_note(printable(f"{KEPT} {self.partial}, which is complete: rename it."))
            if replaced and self.older.exists() and not self.path.exists():
                os.replace(self.older, self.path)
            raise
        sync_folder(self.path.parent)
        if overwrite and self.older.exists():
            try:
                remove_tree(self.older)
            except OSError as error:
                what = (
                    f"{self.path} is complete, but the older output, now {self.older}, could not be removed: "
                    f"{error.strerror or error}."
                )
                warn(what, "Remove it.")
        self.run.unlink(missing_ok=True)


def decoded(record: bytes) -> Any:
    """Content of a record; "" if it is none of ours."""
    try:
        return json.loads(record)
    except ValueError:
        return ""


def _opened(path: Path) -> Store:
    return Location.of(path).store(read_only=True)


def _opens(path: Path) -> bool:
    return any((path / name).exists() for name in METADATA)


def partial_of(path: Path) -> Path:
    """Path at which a local store is written until it is complete."""
    return path.with_name(path.name + ".partial")


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
