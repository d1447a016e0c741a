"""One writer for each output on an object store: a lease, beside it, that is renewed and goes stale."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from mnndask.errors import OutputExistsError
from mnndask.location import Location, reaching

RENEWED_SECONDS = 20.0
STALE_SECONDS = 90.0  # also how far clocks may be apart


class Lease:
    """The right to write the output at a URL; another run may take it once it was not renewed for long."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.filesystem, path = location.filesystem()
        self.path = f"{path}.lock"
        self.owner = uuid.uuid4().hex

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it.

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
            self._give_back()

    def check(self) -> None:
        """Raise if another run has taken it."""
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
        # Of several that find it stale, one replaces what it found.
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
        """Write the lease, on conditions; whether they held."""
        told = json.dumps({"owner": self.owner, "host": socket.gethostname(), "process": os.getpid()})
        try:
            self.filesystem.pipe_file(self.path, told.encode(), **how)
        except FileExistsError:
            return False
        except OSError as error:
            if "condition" in str(error):  # as s3fs puts it: at least one of the pre-conditions did not hold
                return False
            raise
        return self._owned()

    def _found(self) -> dict[str, Any] | None:
        self.filesystem.invalidate_cache(self.path)
        try:
            info = self.filesystem.info(self.path)
            told = json.loads(self.filesystem.cat_file(self.path))
        except FileNotFoundError:
            return None
        when = info.get("LastModified") or info.get("mtime") or info.get("created")
        age = (datetime.now(UTC) - when).total_seconds() if isinstance(when, datetime) else 0.0
        return {**told, "etag": info.get("ETag"), "stale": age > STALE_SECONDS}

    def _owned(self) -> bool:
        found = self._found()
        return found is not None and found["owner"] == self.owner

    def _renew_until(self, done: threading.Event) -> None:
        while not done.wait(RENEWED_SECONDS):
            try:
                if self._owned():
                    self._put()
            except Exception:  # the next time may do; writes tell of a place that is gone
                continue

    def _give_back(self) -> None:
        try:
            if self._owned():
                self.filesystem.rm_file(self.path)
        except Exception:  # it goes stale
            return
