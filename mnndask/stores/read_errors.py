"""What is said of a store that is there and cannot be read: only what is damaged is called so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mnndask.errors import InputReadError, MNNError, RemoteError
from mnndask.location import denied, innermost, is_denied, is_remote, unreachable
from mnndask.stores.hdf5 import is_locked, locked

WRITE_AGAIN = "Copy or write it again."


@contextmanager
def reading(label: str, name: str) -> Iterator[None]:
    """Name the input and the element in whatever reading it raises."""
    try:
        yield
    except (MNNError, MemoryError, Warning):
        raise
    except Exception as error:
        raise unreadable(label, f"{name} cannot be read", error) from error


def unreadable(label: str, problem: str, error: BaseException) -> InputReadError | RemoteError:
    """Error of an input that is there but cannot be read."""
    error = innermost(error)
    subject = problem.removesuffix(" cannot be read")
    place = f"{label}: {subject}"
    if is_denied(error):
        return denied(place, error)
    if is_remote(error):
        return unreachable(place, error)
    if is_locked(error):
        return locked(label, error)
    if (codec := unknown_codec(error)) is not None:
        what = f"{label} cannot be read: the codec {codec!r}, which {subject} names, is not installed here."
        return InputReadError(what, "Install the Python package that has it, wherever the store is read.")
    said = " ".join(f"{type(error).__name__}: {error}".split())
    what = f"{label} is damaged: {problem} ({said})."
    return InputReadError(what, WRITE_AGAIN)


def unknown_codec(error: BaseException | None) -> str | None:
    """Name of the codec that zarr or numcodecs does not know, if that is what an error says."""
    while error is not None:
        if type(error).__name__ == "UnknownCodecError":
            named = re.search(r"'+([^']+)'+", str(error))
            return named.group(1) if named else str(error)
        error = error.__cause__
    return None
