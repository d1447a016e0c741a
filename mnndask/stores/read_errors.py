"""Errors for stores that exist but cannot be read; only damaged stores are reported as damaged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mnndask.errors import InputReadError, MNNError, RemoteError
from mnndask.stores.hdf5 import is_locked, locked_error
from mnndask.stores.location import access_denied, innermost, is_denied, is_remote, unreachable

WRITE_AGAIN = "Copy or write it again."


@contextmanager
def reading(label: str, name: str) -> Iterator[None]:
    """Name the input and the element in errors raised while reading."""
    try:
        yield
    except (MNNError, Warning):
        raise
    except MemoryError as error:
        what = (
            f"{label} cannot be read: there is not enough memory for {name.rstrip(',')}.\n"
            "Free memory; if so little is stored that it should fit, the input is damaged: write it again."
        )
        raise MemoryError(what) from error
    except Exception as error:
        raise unreadable(label, f"{name} cannot be read", error) from error


def unreadable(label: str, problem: str, error: BaseException) -> InputReadError | RemoteError:
    """Error for an input that exists but cannot be read."""
    error = innermost(error)
    if isinstance(error, InputReadError | RemoteError):  # which already says so
        return error
    subject = problem.removesuffix(" cannot be read")
    place = f"{label}: {subject}"
    if is_denied(error):
        return access_denied(place, error)
    if is_remote(error):
        return unreachable(place, error)
    if is_locked(error):
        return locked_error(label, error)
    if (codec := unknown_codec(error)) is not None:
        what = f"{label} cannot be read: the codec {codec!r}, which {subject} uses, is not installed here."
        remedy = "Install the Python package that provides it, on every machine that reads the store."
        return InputReadError(what, remedy)
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    what = f"{label} is damaged: {problem} ({cause})."
    return InputReadError(what, WRITE_AGAIN)


def unknown_codec(error: BaseException | None) -> str | None:
    """Return the name of the codec that zarr or numcodecs lacks; None if an error has another cause."""
    while error is not None:
        if type(error).__name__ == "UnknownCodecError":
            named = re.search(r"'+([^']+)'+", str(error))
            return named.group(1) if named else str(error)
        error = error.__cause__
    return None
