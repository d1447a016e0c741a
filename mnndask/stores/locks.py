"""One writer per output: a file lock on a disk, a lease on an object store."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mnndask.errors import OutputExistsError
from mnndask.stores.location import Location, reaching

RENEWED_SECONDS = 20.0
STALE_SECONDS = 90.0  # clocks may differ by as much


@contextmanager
def only_writer(partial: Path) -> Iterator[None]:
    """Lock the output that is being written at `partial`. The lock is released however the process ends.

    Raises
    ------
    OutputExistsError
        If another process or thread is writing the output.
    """
    path = partial.with_name(f"{partial.name}.lock")
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        what = f"Another run is writing {partial}."
        raise OutputExistsError(what, "Wait for it, stop it, or write to another path.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file; elsewhere nobody else can have locked it yet
            path.unlink()
        lock.release()


class Lease:
    """Exclusive right to write the output at a URL; expires if it is not renewed for `STALE_SECONDS`."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.filesystem, path = location.filesystem()
        self.path = f"{path}.lock"
        self.owner = uuid.uuid4().hex

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold and renew the lease.

        Raises
        ------
        OutputExistsError
            If another run holds it.
        """
        with reaching(self.location):
            self._take()
        done = threading.Event()
        renewing = threading.Thread(target=self._renew_until, args=(done,), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()
            self._release()

    def check(self) -> None:
        """Raise if another run has taken the lease."""
        with reaching(self.location):
            if not self._owned():
                self._refuse()

    def _take(self) -> None:
        if self._put(mode="create"):
            return
        found = self._found()
        if found is not None and not found["stale"]:
            what = f"Another run, on {found['host']}, is writing {self.location}."
            remedy = f"Wait for it, or stop it. If it died, try again in {STALE_SECONDS:.0f} s."
            raise OutputExistsError(what, remedy)
        # If several runs find the lease stale, only one can replace it.
        if not (self._put(mode="create") if found is None else self._replace(found)):
            self._refuse()

    def _replace(self, found: dict[str, Any]) -> bool:
        if found["etag"]:
            return self._put(IfMatch=found["etag"])
        self.filesystem.rm_file(self.path)
        return self._put(mode="create")

    def _refuse(self) -> None:
        what = f"Another run has begun to write {self.location}."
        raise OutputExistsError(what, "Wait for it, stop it, or write to another place.")

    def _put(self, **how: Any) -> bool:
        """Write the lease under a condition; return whether it was met."""
        content = json.dumps({"owner": self.owner, "host": socket.gethostname(), "process": os.getpid()})
        try:
            self.filesystem.pipe_file(self.path, content.encode(), **how)
        except FileExistsError:
            return False
        except OSError as error:
            if "condition" in str(error):  # s3fs: "At least one of the pre-conditions ... did not hold"
                return False
            raise
        return self._owned()

    def _found(self) -> dict[str, Any] | None:
        self.filesystem.invalidate_cache(self.path)
        try:
            info = self.filesystem.info(self.path)
            content = json.loads(self.filesystem.cat_file(self.path))
        except FileNotFoundError:
            return None
        when = info.get("LastModified") or info.get("mtime") or info.get("created")
        age = (datetime.now(UTC) - when).total_seconds() if isinstance(when, datetime) else 0.0
        return {**content, "etag": info.get("ETag"), "stale": age > STALE_SECONDS}

    def _owned(self) -> bool:
        found = self._found()
        return found is not None and found["owner"] == self.owner

    def _renew_until(self, done: threading.Event) -> None:
        while not done.wait(RENEWED_SECONDS):
            try:
                if self._owned():
                    self._put()
            except Exception:  # the next renewal may succeed; writes raise if the store cannot be reached
                continue

    def _release(self) -> None:
        try:
            if self._owned():
                self.filesystem.rm_file(self.path)
        except Exception:  # the lease expires by itself
            return
