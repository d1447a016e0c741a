"""Real dask clusters of several processes on this machine, which are always stopped at the end."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress

import forked
import psutil

RUN = """
import runpy, sys
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def environment():
    """In which a process, and those that it starts, find whatever this one can import now."""
    return {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "10",
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",  # looks at each thread 100 times a second
    }


class Cluster:
    """A scheduler and workers of one thread each, each in a process of its own."""

    def __init__(self, folder, n_workers=2, *, protocol=(), worker=("--memory-limit", "1GB"), env=None):
        self.folder, self.env = folder, environment() | (env or {})
        self.file = folder / "scheduler.json"
        self.processes = [
            self._run(
                "dask_scheduler",
                "--port",
                "0",
                "--dashboard-address",
                "127.0.0.1:0",
                "--host",
                "127.0.0.1",
                *protocol,
            )
        ]
        for i in range(n_workers):
            place = ("--local-directory", str(folder / f"worker{i}"), "--host", "127.0.0.1")
            options = ("--nworkers", "1", "--nthreads", "1", "--no-dashboard", *place, *worker)
            self.processes.append(self._run("dask_worker", *options, *protocol))
        self.address = self._address()

    def _run(self, module, *options):
        words = [f"distributed.cli.{module}", "--scheduler-file", self.file, *options]
        with (self.folder / f"{module}.log").open("ab") as log:
            return forked.Process(RUN, *words, env=self.env, stdout=log.fileno(), stderr=log.fileno())

    def _address(self):
        for _ in range(600):
            if self.file.exists():
                try:
                    return json.loads(self.file.read_text())["address"]
                except json.JSONDecodeError:
                    pass
            if self.scheduler.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError((self.folder / "dask_scheduler.log").read_text())

    @property
    def scheduler(self):
        return self.processes[0]

    def stop(self):
        for process in reversed(self.processes):
            for child in _tree(process.pid):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.wait()


def _tree(pid):
    try:
        process = psutil.Process(pid)
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def cluster(folder, *args, **options):
    folder.mkdir(exist_ok=True)
    running = Cluster(folder, *args, **options)
    try:
        yield running
    finally:
        running.stop()


def worker_pids(client):
    """Process IDs of the workers."""
    return set(client.run(os.getpid).values())


def kill(pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
