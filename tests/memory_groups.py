"""A control group with little memory, in which tests run commands, where this machine allows it."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mnndask._cgroups import V1, groups

LIMIT_FILE = {V1: "memory.limit_in_bytes"}  # else memory.max
ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


@contextmanager
def memory_group(n_bytes):
    """Words that run the command after them in a group below this process's own; else the test is skipped."""
    with _new_folder(n_bytes) as folder:
        scope = ["systemd-run", "--user", "--scope", "--quiet", f"-pMemoryMax={n_bytes}", "-pMemorySwapMax=0"]
        for words in ([] if folder is None else ["sh", "-c", ENTER, str(folder)], scope):
            if words and _runs(words):
                yield words
                return
        pytest.skip("no control group can be made here, nor a scope of systemd")


@contextmanager
def _new_folder(n_bytes):
    folder = None
    for group in groups("memory")[:1]:
        folder = Path(group.folder) / f"mnndask-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / LIMIT_FILE.get(group.version, "memory.max")).write_text(str(n_bytes))
        except OSError:
            break
    try:
        yield folder
    finally:
        if folder is not None:
            with suppress(OSError):
                folder.rmdir()


def _runs(words):
    with suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run([*words, "true"], capture_output=True, check=False, timeout=20).returncode == 0
    return False
