"""Time and memory of commands, over their whole process tree."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parents[1]
INTERVAL_S = 0.05
# The command as its script runs it, but from the package beside this folder.
MNNDASK = ("-c", "from mnndask.cli.main import main; main()")
HOW = f"every {INTERVAL_S * 1000:.0f} ms, over the command's process and all below it: " + (
    "resident minus shared pages of each process (anonymous memory; pages shared by forks are divided among "
    "them), plus the largest process's shared pages"
    if sys.platform == "linux"
    else "unique set size of each"
    if sys.platform == "darwin"
    else "resident pages of each"
)


def tree_bytes(pid: int) -> int:
    """Memory that a process and all its descendants use now. Shared pages count once."""
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
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended in the meantime
            continue
        shared.append(getattr(info, "shared", 0))
        divided = _divided_bytes(process.pid) if len(processes) > 1 else None
        own += info.rss - shared[-1] if divided is None else divided
    return own + max(shared)


def _divided_bytes(pid: int) -> int | None:
    """Anonymous memory of a process, with shared pages divided among forks; None if unavailable."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # not Linux, or ended in the meantime
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:")), None)


def kill_tree(pid: int) -> None:
    """Kill a process and all its descendants, and wait for the descendants.

    The parent of the process waits for the process itself.
    """
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        below = root.children(recursive=True)
        for process in (root, *below):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(below, timeout=5)


@dataclass(frozen=True)
class Limits:
    """Limits beyond which a command is killed."""

    seconds: float
    gb: float

    def exceeded(self, seconds: float, taken: int) -> str | None:
        if seconds > self.seconds:
            return f"exceeded {self.seconds:g} s"
        return f"exceeded {self.gb:g} GB" if taken > 1e9 * self.gb else None


class Sampler:
    """Watches the memory of a process tree from another thread, and kills the tree if it exceeds limits."""

    def __init__(self, pid: int, limits: Limits | None = None) -> None:
        self.pid = pid
        self.limits = limits
        self.peak = 0
        self.exceeded: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        start = time.perf_counter()
        while True:
            self.peak = max(self.peak, tree_bytes(self.pid))
            if self.limits:
                self.exceeded = self.limits.exceeded(time.perf_counter() - start, self.peak)
                if self.exceeded:
                    return kill_tree(self.pid)
            if self._stop.wait(INTERVAL_S):
                return


@cache
def after_import() -> dict[str, float]:
    """Memory of a process that has imported mnndask's command and done nothing, and the import time."""
    code = "import sys, mnndask.cli.main; print('ready', flush=True); sys.stdin.read()"
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
    """Run a Python command (what follows ``python``) to its end, and return its time and memory."""
    before = after_import()
    ended = watched([sys.executable, *command])
    if ended.status != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with status {ended.status}:\n{ended.said}")
    return {
        "wall_s": round(ended.wall_s, 2),
        "cpu_s": round(ended.cpu_s, 2),
        "peak_mb": round(ended.peak / 1e6, 1),
        "after_import_mb": before["mb"],
        "peak_above_import_mb": round(ended.peak / 1e6 - before["mb"], 1),
        "import_s": before["s"],
        "largest_process_max_rss_mb": round(ended.max_rss / 1e6, 1),
    }


@dataclass(frozen=True)
class Ended:
    """A finished command: exit status, printed text, and usage (bytes, seconds)."""

    status: int
    said: str
    exceeded: str | None
    wall_s: float
    cpu_s: float
    peak: int
    max_rss: int


def watched(command: Sequence[Any], limits: Limits | None = None) -> Ended:
    """Run a command to its end, or until it exceeds its limits."""
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen([*map(str, command)], cwd=HERE, stdout=said, stderr=subprocess.STDOUT)
        try:
            with Sampler(process.pid, limits) as sampler:
                # wait4 also gives the processor time of this child alone.
                _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        return Ended(
            status=process.returncode,
            said=said.read(),
            exceeded=sampler.exceeded,
            wall_s=wall,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak=sampler.peak,
            max_rss=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        )
