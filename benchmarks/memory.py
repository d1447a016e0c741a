"""Time and memory of commands, over the whole tree of their processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parents[1]
INTERVAL_S = 0.05
# The command as its script runs it, but of the package that this folder lies beside.
MNNDASK = ("-c", "from mnndask.cli import main; main()")
HOW = f"every {INTERVAL_S * 1000:.0f} ms, over the command's process and all below it: " + (
    "resident minus shared pages of each (anonymous memory), plus the largest process's shared pages"
    if sys.platform == "linux"
    else "unique set size of each"
    if sys.platform == "darwin"
    else "resident pages of each"
)


def tree_bytes(pid: int) -> int:
    """Memory that a process and all its descendants take now; pages that they share count once."""
    own, shared = 0, [0]
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            if sys.platform == "darwin":
                own += process.memory_full_info().uss
                continue
            info = process.memory_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended meanwhile
            continue
        shared.append(getattr(info, "shared", 0))
        own += info.rss - shared[-1]
    return own + max(shared)


class Sampler:
    """Watches the memory of a process tree from another thread while it is open."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, tree_bytes(self.pid))
            if self._stop.wait(INTERVAL_S):
                return


@cache
def after_import() -> dict[str, float]:
    """Memory of a process that has imported mnndask's command and done nothing, and the time that takes."""
    code = "import sys, mnndask.cli; print('ready', flush=True); sys.stdin.read()"
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "mnndask cannot be imported"
        took = time.perf_counter() - start
        taken = tree_bytes(process.pid)
    return {"mb": round(taken / 1e6, 1), "s": round(took, 2)}


def measured(command: Sequence[Any]) -> dict[str, float]:
    """Run a Python command (what follows ``python``) to its end; its time and memory."""
    before = after_import()
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=HERE, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            with Sampler(process.pid) as sampler:
                # wait4 also tells the processor time of this child alone.
                _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            sys.exit(f"{' '.join(map(str, command))} ended with status {process.returncode}:\n{said.read()}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(sampler.peak / 1e6, 1),
        "after_import_mb": before["mb"],
        "peak_above_import_mb": round(sampler.peak / 1e6 - before["mb"], 1),
        "import_s": before["s"],
        "largest_process_max_rss_mb": round(usage.ru_maxrss * unit / 1e6, 1),
    }
