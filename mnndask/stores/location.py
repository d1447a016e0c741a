"""Locations of stores: local paths, or URLs that fsspec supports."""

from __future__ import annotations

import errno
import os
import re
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
from zarr.storage import LocalStore

from mnndask.errors import InputError, InputNotFoundError, InputReadError, MNNError, RemoteError, first_line
from mnndask.stores.file_versions import is_stale
from mnndask.stores.plain_http import FORBIDDEN, HttpStore, http_aware
from mnndask.stores.removal import remove_objects, remove_tree
from mnndask.stores.retries import RetryingFileSystem, RetryingStore, http_status, is_temporary, out_of_reach

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
CACHES = {"simplecache", "filecache", "blockcache", "cached"}
ROOT_METADATA = ("zarr.json", ".zgroup", ".zarray")  # root metadata of a store
NO_PATH = (errno.ELOOP, errno.ENAMETOOLONG)  # of links that form a loop, and of names that are too long
USER = re.compile(r"(?<=://)[^/@]*@")


@dataclass(frozen=True)
class Location:
    """A local path or a URL.

    Parameters
    ----------
    given
        Path or URL as the user gave it.
    options
        Options that fsspec needs to open a URL. They may contain secrets and are never shown.
    """

    given: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls, given: str | os.PathLike[str] | Location, options: Mapping[str, Any] | None = None
    ) -> Location:
        """Return the location of a path or URL as users give it."""
        return given if isinstance(given, Location) else cls(os.fspath(given), options or {})

    def __fspath__(self) -> str:
        return self.given

    def __str__(self) -> str:
        return USER.sub("", self.given)

    def __repr__(self) -> str:
        return f"Location({str(self)!r})"

    @property
    def is_url(self) -> bool:
        """Whether this is a URL. One slash suffices, since ``Path`` replaces two slashes by one."""
        first, is_chain, _ = self.given.partition("::")
        return URL.match(self.given) is not None or (bool(is_chain) and first in available_protocols())

    @property
    def path(self) -> Path:
        """Local path, with the home directory expanded."""
        return Path(self.given).expanduser()

    @property
    def pure(self) -> PurePosixPath | Path:
        """Path from which names and suffixes are taken; ``a.zarr`` for ``zip::a.zarr.zip``."""
        if not self.is_url:
            return self.path
        links = self.given.split("::")
        named = next((i for i, link in enumerate(links) if _path_in(link)), 0)
        out = PurePosixPath(links[named].rstrip("/"))
        return out.with_suffix("") if named and PurePosixPath(out.stem).suffix else out

    def child(self, name: str) -> Location:
        """Location of `name` below this one."""
        return self._with_first(
            lambda link: (link if link.endswith("://") else f"{link.rstrip('/')}/") + name
        )

    @property
    def parent(self) -> Location:
        """Location that contains this one."""
        return self._with_first(lambda link: link.rstrip("/").rsplit("/", 1)[0])

    def _with_first(self, change: Callable[[str], str]) -> Location:
        """Change the path of the first link in a chain of file systems, after a cache, which has no path."""
        first, *others = self.given.split("::") if self.is_url else [self.given]
        at = 1 if others and first in CACHES else 0
        links = [first, *others]
        bare = others and not at and "://" not in first
        links[at] = change(f"{first}://" if bare else links[at])
        return Location("::".join(links), self.options)

    def filesystem(self, *, retries: bool = True) -> tuple[fsspec.AbstractFileSystem, str]:
        """Return the file system of the URL, and the path in it.

        With `retries`, requests that fail for now are made again.

        Raises
        ------
        InputError
            If fsspec does not support the URL, or a package that it needs is not installed.
        """
        try:
            filesystem, path = fsspec.url_to_fs(self.given, **self.options)
            if is_stale(filesystem):  # fsspec would use it again
                filesystem.clear_instance_cache()
                filesystem, path = fsspec.url_to_fs(self.given, **self.options)
        except ImportError as error:
            what = f"{self} cannot be reached: {error}."
            remedy = "Install the package that it names; for s3://: pip install 'mnndask[s3]'."
            raise InputError(what, remedy) from error
        except ValueError as error:
            what = f"{self} cannot be reached: {error}."
            remedy = "Give a local path, or a URL that fsspec supports, such as s3://bucket/a.zarr."
            raise InputError(what, remedy) from error
        return RetryingFileSystem(filesystem, str(self)) if retries else filesystem, path.rstrip("/")

    def exists(self) -> bool:
        """Whether the location exists."""
        with reaching(self):
            if not self.is_url:
                return _path_exists(self.path)
            filesystem, path = self.filesystem()
            if filesystem.exists(path):
                return True
            store = self.store(read_only=True)
            return isinstance(store, HttpStore) and _has_root_metadata(store)

    def remove(self) -> None:
        """Remove everything at the location, as far as possible."""
        if not self.is_url:
            remove_tree(self.path, ignore_errors=True)
            return
        with suppress(Exception):
            remove_objects(*self.filesystem(retries=False))

    def store(self, *, read_only: bool = False) -> Store:
        """Open the location as a zarr store."""
        if not self.is_url:
            # Workers may have another working directory.
            return LocalStore(self.path.absolute(), read_only=read_only)
        self.filesystem()  # explains what is wrong with a URL that fsspec does not support
        with reaching(self):
            options = dict(self.options)
            store = RetryingStore.from_url(self.given, storage_options=options, read_only=read_only)
            assert isinstance(store, RetryingStore)
            store.place = str(self)
            return http_aware(store) if read_only else store


def real_path(path: Path) -> Path:
    """Path without symbolic links; those that form a loop are left as they are."""
    return Path(os.path.realpath(path))  # Path.resolve raises on loops before Python 3.13


def _path_in(link: str) -> str:
    """Path in one link of a chain; empty for a protocol alone."""
    protocol, _, path = link.partition("://")
    return (
        path.strip("/") if path or link.endswith("://") else "" if protocol in available_protocols() else link
    )


def _path_exists(path: Path) -> bool:
    """Like ``Path.exists``, but raise if access is denied, where newer Pythons return False."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _has_root_metadata(store: HttpStore) -> bool:
    """Whether a store has root metadata; servers that list no folders cannot say whether a folder exists."""
    buffers = default_buffer_prototype()
    if any(sync(store.get(name, buffers)) is not None for name in ROOT_METADATA):
        return True
    store.check_allowed()
    return False


@contextmanager
def reaching(location: Location) -> Iterator[None]:
    """Raise errors of mnndask that explain why a URL cannot be reached or a path cannot be read."""
    try:
        yield
    except MNNError:
        raise
    except FileNotFoundError as error:
        what = f"{location} does not exist: {first_line(error)}."
        remedy = "Check the URL and its bucket." if location.is_url else "Check the path."
        raise InputNotFoundError(what, remedy) from error
    except Exception as error:
        if is_denied(error):
            raise access_denied(str(location), error) from error
        if getattr(error, "errno", None) in NO_PATH:
            what = f"{location} cannot be reached: {getattr(error, 'strerror', error)}."
            raise InputNotFoundError(what, "Check the path, and where its links point (ls -l).") from error
        if not is_remote(error):
            raise
        raise unreachable(str(location), error) from error


def unreachable(what: str, error: BaseException) -> RemoteError:
    """Error for a location that denies access or does not respond."""
    forbidden = getattr(error, "status", None) in FORBIDDEN
    if forbidden or isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        remedy = (
            "Check the credentials (storage_options, or variables such as AWS_PROFILE) and their permissions."
        )
        return RemoteError(f"Access to {what} is denied: {first_line(error)}.", remedy)
    if is_temporary(error):
        return out_of_reach(what, error)
    return RemoteError(
        f"{what} cannot be reached: {first_line(error)}.", "Check the network and the address, and try again."
    )


def innermost(error: BaseException) -> BaseException:
    """First error of a group, such as zarr raises for concurrent requests; any other error unchanged."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def is_denied(error: BaseException) -> bool:
    """Whether this machine denied access; denials by other machines have no error number."""
    return isinstance(error, PermissionError) and error.errno is not None


def access_denied(what: str, error: BaseException) -> InputReadError:
    """Error for an input on this machine that the user may not read."""
    return InputReadError(
        f"{what} cannot be read: {denied_file(error)}.",
        "Ask its owner for read permission (ls -l shows who has it), or for a copy that you may read.",
    )


def denied_file(error: BaseException | None) -> str:
    """Describe a denied access, with the name of the file if the error has it."""
    name = getattr(error, "filename", None)
    return f"permission denied{f' for {os.fsdecode(name)}' if isinstance(name, str | bytes) else ''}"


def is_remote(error: BaseException) -> bool:
    """Whether an error comes from access to another machine rather than from the data read there."""
    if is_denied(error):
        return False
    if isinstance(error, PermissionError | ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and http_status(error):
        return True  # s3fs raises other errors for what servers answer
    module = type(error).__module__.split(".")[0]
    return module in {"botocore", "aiobotocore", "aiohttp", "gcsfs", "azure"}
