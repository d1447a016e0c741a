"""Where stores are: local paths, or URLs of whatever fsspec reaches."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec import available_protocols
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

from mnndask.errors import InputError, InputNotFoundError, InputReadError, MNNError, RemoteError
from mnndask.stores.plain_http import FORBIDDEN, HttpStore, answering

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
CACHES = {"simplecache", "filecache", "blockcache", "cached"}
ROOTS = ("zarr.json", ".zgroup", ".zarray")  # metadata of a store's root
USER = re.compile(r"(?<=://)[^/@]*@")


@dataclass(frozen=True)
class Location:
    """A local path, or a URL.

    Parameters
    ----------
    given
        As the user gave it.
    options
        What fsspec needs to reach a URL; may hold secrets, and is never shown.
    """

    given: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls, given: str | os.PathLike[str] | Location, options: Mapping[str, Any] | None = None
    ) -> Location:
        """A path or URL as users give it."""
        return given if isinstance(given, Location) else cls(os.fspath(given), options or {})

    def __fspath__(self) -> str:
        return self.given

    def __str__(self) -> str:
        return USER.sub("", self.given)

    def __repr__(self) -> str:
        return f"Location({str(self)!r})"

    @property
    def is_url(self) -> bool:
        """Whether it is not a local path (``Path`` makes one slash of two)."""
        first, is_chain, _ = self.given.partition("::")
        return URL.match(self.given) is not None or (bool(is_chain) and first in available_protocols())

    @property
    def path(self) -> Path:
        """The local path."""
        return Path(self.given).expanduser()

    @property
    def pure(self) -> PurePosixPath | Path:
        """For names and suffixes. Of ``zip::a.zarr.zip``, what is in the archive is called ``a.zarr``."""
        if not self.is_url:
            return self.path
        links = self.given.split("::")
        named = next((i for i, link in enumerate(links) if _path_in(link)), 0)
        out = PurePosixPath(links[named].rstrip("/"))
        return out.with_suffix("") if named and PurePosixPath(out.stem).suffix else out

    def child(self, name: str) -> Location:
        """What is below it."""
        return self._with_first(
            lambda link: (link if link.endswith("://") else f"{link.rstrip('/')}/") + name
        )

    @property
    def parent(self) -> Location:
        """What it is in."""
        return self._with_first(lambda link: link.rstrip("/").rsplit("/", 1)[0])

    def _with_first(self, change: Callable[[str], str]) -> Location:
        """Another place in the same chain of file systems; caches have no places of their own."""
        first, *others = self.given.split("::") if self.is_url else [self.given]
        at = 1 if others and first in CACHES else 0
        links = [first, *others]
        bare = others and not at and "://" not in first
        links[at] = change(f"{first}://" if bare else links[at])
        return Location("::".join(links), self.options)

    def filesystem(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """What reaches the URL, and its path there.

        Raises
        ------
        InputError
            If fsspec knows no such place, or a package that it needs for it is missing.
        """
        try:
            filesystem, path = fsspec.url_to_fs(self.given, **self.options)
        except ImportError as error:
            what = f"{self} cannot be reached: {error}."
            raise InputError(what, "Install what it names; for s3://: pip install 'mnndask[s3]'.") from error
        except ValueError as error:
            what = f"{self} cannot be reached: {error}."
            raise InputError(
                what, "Give a local path, or a URL that fsspec knows, such as s3://bucket/a.zarr."
            ) from error
        return filesystem, path.rstrip("/")

    def exists(self) -> bool:
        """Whether something is there."""
        with reaching(self):
            if not self.is_url:
                return _is_there(self.path)
            filesystem, path = self.filesystem()
            if filesystem.exists(path):
                return True
            store = self.store(read_only=True)
            return isinstance(store, HttpStore) and _is_store(store)

    def remove(self) -> None:
        """Remove it and all below it, as far as that can be done."""
        if not self.is_url:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        with suppress(Exception):
            filesystem, path = self.filesystem()
            filesystem.rm(path, recursive=True)

    def store(self, *, read_only: bool = False) -> Store:
        """Zarr store that it is."""
        if not self.is_url:
            return LocalStore(self.path.absolute(), read_only=read_only)  # workers may be elsewhere
        self.filesystem()  # says what is wrong with a URL that fsspec does not know
        with reaching(self):
            store = FsspecStore.from_url(self.given, storage_options=dict(self.options), read_only=read_only)
            return answering(store) if read_only else store


def _path_in(link: str) -> str:
    """Path that one link of a chain names; a protocol alone names none."""
    protocol, _, path = link.partition("://")
    return (
        path.strip("/") if path or link.endswith("://") else "" if protocol in available_protocols() else link
    )


def _is_there(path: Path) -> bool:
    """As ``Path.exists``, which newer Pythons let deny that there is what may not be seen."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_store(store: HttpStore) -> bool:
    """Whether the metadata of a zarr store are there: of servers that list no folders, these say nothing."""
    buffers = default_buffer_prototype()
    if any(sync(store.get(name, buffers)) is not None for name in ROOTS):
        return True
    store.check_allowed()
    return False


def scratch_location(given: Mapping[str, Any]) -> Location | None:
    """Where the parameters of a correction say that scratch is; None for the system's folder."""
    return None if given["scratch"] is None else Location.of(given["scratch"], given["storage_options"])


@contextmanager
def reaching(location: Location) -> Iterator[None]:
    """Say in words why a URL cannot be reached, or a path be read."""
    try:
        yield
    except MNNError:
        raise
    except FileNotFoundError as error:
        what = f"{location} is not there: {first_line(error)}."
        remedy = "Check the URL, its bucket too." if location.is_url else "Check the path."
        raise InputNotFoundError(what, remedy) from error
    except Exception as error:
        if is_denied(error):
            raise denied(str(location), error) from error
        if not is_remote(error):
            raise
        raise unreachable(str(location), error) from error


def unreachable(what: str, error: BaseException) -> RemoteError:
    """Error of a place that denies access, or does not answer."""
    forbidden = getattr(error, "status", None) in FORBIDDEN
    if forbidden or isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        remedy = (
            "Check the credentials (storage_options, or variables such as AWS_PROFILE), and what they may do."
        )
        return RemoteError(f"Access to {what} is denied: {first_line(error)}.", remedy)
    return RemoteError(
        f"{what} cannot be reached: {first_line(error)}.", "Check the network and the address, and try again."
    )


def innermost(error: BaseException) -> BaseException:
    """First of the errors that a group holds, as where zarr asks for several parts at once; or the error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def is_denied(error: BaseException) -> bool:
    """Whether this machine does not allow what was tried; what denies it elsewhere has no error number."""
    return isinstance(error, PermissionError) and error.errno is not None


def denied(what: str, error: BaseException) -> InputReadError:
    """Error of an input on this machine that may not be read."""
    return InputReadError(
        f"{what} cannot be read: {denied_file(error)}.",
        "Have its owner let you read it (ls -l shows who may), or copy it to where you may.",
    )


def denied_file(error: BaseException | None) -> str:
    """What was denied, as far as the error tells."""
    name = getattr(error, "filename", None)
    return f"permission denied{f' for {os.fsdecode(name)}' if isinstance(name, str | bytes) else ''}"


def is_remote(error: BaseException) -> bool:
    """Whether an error comes from reaching another machine, rather than from what was read there."""
    if is_denied(error):
        return False
    module = type(error).__module__.split(".")[0]
    return isinstance(error, PermissionError | ConnectionError | TimeoutError) or module in {
        "botocore",
        "aiobotocore",
        "aiohttp",
        "gcsfs",
        "azure",
    }


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
