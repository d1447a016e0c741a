"""Folders of a process that is killed before it can remove them: a small process beside it does so.

SIGTERM, as job schedulers send it, ends Python at once, and nothing catches SIGKILL. A library should not
change what signals do. The process beside it waits at the end of a pipe, which closes when this one ends.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

_PROGRAM = """
import json, os, shutil, signal, sys, time
for name in {"SIGINT", "SIGTERM", "SIGHUP"} & set(dir(signal)):  # they are sent to all processes of a job
    signal.signal(getattr(signal, name), signal.SIG_IGN)
folders = set()
for line in sys.stdin:
    kept, folder = json.loads(line)
    (folders.add if kept else folders.discard)(folder)
for _ in range(5):  # workers may still write there
    for folder in filter(os.path.lexists, folders):
        shutil.rmtree(folder, ignore_errors=True)
    if not any(map(os.path.lexists, folders)):
        break
    time.sleep(1)
"""


class _Beside:
    """The process beside this one. It starts with the first folder."""

    def __init__(self) -> None:
        self.guard = threading.RLock()  # garbage may be collected, and a folder with it, while it is held
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe = -1

    def start(self, folder: Path) -> None:
        """Start the process, unless it runs."""
        if self.process is not None:
            return
        if not sys.executable:  # an embedded interpreter
            raise FileNotFoundError
        read, self.pipe = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM],
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder.anchor,
                start_new_session=True,
            )
        except OSError:
            os.close(self.pipe)
            raise
        finally:
            os.close(read)

    def say(self, folder: Path, *, is_there: bool) -> None:
        """Say that a folder is to be removed if this process dies, or no longer."""
        with self.guard, suppress(OSError):  # without that process, the folder of a killed one stays
            self.start(folder)
            os.write(self.pipe, json.dumps([is_there, str(folder)]).encode() + b"\n")

    def end(self) -> None:
        """End the process, which removes what is still there."""
        if self.process is not None:
            os.close(self.pipe)
            self.pipe = -1  # its number may be another file's from now on
            self.process.wait()


_beside = _Beside()


def removed_if_killed(folder: Path) -> None:
    """Have a folder removed when this process dies, however it does."""
    _beside.say(folder.absolute(), is_there=True)


def removed(folder: Path) -> None:
    """Forget a folder that is gone."""
    _beside.say(folder.absolute(), is_there=False)


@atexit.register
def _at_exit() -> None:
    _beside.end()


def _in_forked_process() -> None:
    """Leave the process to the parent. It waits for all that have its pipe open."""
    global _beside
    parents, _beside = _beside, _Beside()
    if parents.process is not None:
        parents.process.returncode = 0  # it is not this process's to wait for
        os.close(parents.pipe)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)
