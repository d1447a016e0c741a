"""One writer per output: a file lock on a disk, a lease on an object store."""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from mnndask.errors import OutputExistsError
from mnndask.stores.location import Location, reaching
from mnndask.stores.retries import retried_here

RENEWED_SECONDS = 20.0
SURE_SECONDS = 45.0  # after a renewal; later, a lease is renewed before the next write
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


_renewed: dict[str, float] = {}  # when this process last renewed the lease of each owner
_renewing = threading.Lock()


def now() -> float:
    """Seconds of a clock that goes on while this machine sleeps or this process is stopped."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() if clock is None else time.clock_gettime(clock)


class Lease:
    """Exclusive right to write the output at a URL; expires if it is not renewed for `STALE_SECONDS`.

    Copies in other processes, such as those of tasks on a cluster, have the same owner and renew it too.
    """

    def __init__(self, location: Location, owner: str | None = None) -> None:
        self.location = location
        self.filesystem, path = location.filesystem(retries=False)
        self.path = f"{path}.lock"
        self.owner = owner or uuid.uuid4().hex

    def __reduce__(self) -> tuple[type[Lease], tuple[Location, str]]:
        return Lease, (self.location, self.owner)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold and renew the lease.

        Raises
        ------
        OutputExistsError
            If another run holds it.
        """
        start = now()
        with reaching(self.location):
            retried_here(str(self.location), self._take)
        _renewed[self.owner] = start
        done = threading.Event()
        renewing = threading.Thread(target=self._renew_until, args=(done,), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()
            self._release()
            _renewed.pop(self.owner, None)

    def check(self) -> None:
        """Raise if another run has taken the lease."""
        with reaching(self.location):
            if not retried_here(str(self.location), self._owned):
                self._refuse()

    async def still_held(self) -> None:
        """Raise if another run has taken the lease; asks the store only if the last renewal is long ago."""
        if not self._is_sure():
            await asyncio.to_thread(self.keep)

    def keep(self) -> None:
        """Renew the lease if that is due; raise if another run has taken it.

        It may have while this process was stopped or its machine was asleep.
        """
        with _renewing, reaching(self.location):
            if not self._is_sure():
                retried_here(str(self.location), self._renew)

    def _is_sure(self) -> bool:
        return now() - _renewed.get(self.owner, -math.inf) < SURE_SECONDS

    def _renew(self) -> None:
        start, found = now(), self._found()
        if found is None or found["owner"] != self.owner:
            _renewed.pop(self.owner, None)  # whoever writes next asks, and is refused
            self._refuse()
        # Only if it has not changed meanwhile; another copy of this lease may have renewed it.
        if not self._put(**({"IfMatch": found["etag"]} if found["etag"] else {})):
            _renewed.pop(self.owner, None)
            self._refuse()
        _renewed[self.owner] = start

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

    def _refuse(self) -> NoReturn:
        what = f"Another run has begun to write {self.location}."
        raise OutputExistsError(what, "Wait for it, stop it, or write to another place.")

    def _put(self, **how: Any) -> bool:
        """Write the lease under a condition; return whether it is ours then.

        A condition is not met either if a try succeeded whose answer was lost.
        """
        content = {"owner": self.owner, "host": socket.gethostname(), "process": os.getpid()}
        content["renewal"] = uuid.uuid4().hex  # so that each has a tag of its own
        try:
            self.filesystem.pipe_file(self.path, json.dumps(content).encode(), **how)
        except FileExistsError:
            pass
        except OSError as error:
            if "condition" not in str(error):  # s3fs: "At least one of the pre-conditions ... did not hold"
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
            with suppress(Exception), _renewing:  # the next may succeed; who writes is told what is wrong
                self._renew()

    def _release(self) -> None:
        """Remove the lease if that is possible now; otherwise it expires by itself."""
        with suppress(Exception):
            if self._owned():
                self.filesystem.rm_file(self.path)
