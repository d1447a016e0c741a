"""One writer for each output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnndask.errors import OutputExistsError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def only_writer(partial: Path) -> Iterator[None]:
    """Hold the lock of the output that grows at `partial`; it goes with the process, however that ends.

    Raises
    ------
    OutputExistsError
        If another process, or thread, is writing it.
    """
    if fcntl is None:
        yield
        return
    lock = partial.with_name(partial.name + ".lock")
    file = _locked(lock, partial)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before the lock is released: nobody else has one on it
        os.close(file)


def _locked(lock: Path, partial: Path) -> int:
    while True:
        file = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(file, lock):
                return file
        except BlockingIOError as error:
            os.close(file)
            what = f"Another run is writing {partial}."
            raise OutputExistsError(what, "Wait for it, stop it, or write to another path.") from error
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # the file of a writer that has just ended, and removed it


def _same(file: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), lock.stat())
    except FileNotFoundError:
        return False
