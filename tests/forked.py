"""Programs in processes of their own, forked from one that has loaded the libraries that mnndask imports.

Loading them takes longer than most of the programs do. Nothing of mnndask is loaded there, nor is anything
started: a program imports it as it would anywhere. What a fresh interpreter shows (which modules a program
loads itself, how the command starts) needs one.
"""

from __future__ import annotations

import atexit
import gc
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from functools import cache
from importlib import import_module

LIBRARIES = ["anndata", "click", "dask.array", "distributed", "distributed.cli.dask_worker", "h5py", "numba"]
LIBRARIES += ["scipy.linalg", "sklearn.decomposition", "sklearn.neighbors", "tqdm", "xarray", "zarr"]


class Process:
    """A program that runs, like `subprocess.Popen`; it prints into files, or into given descriptors."""

    def __init__(self, program, *words, cwd=None, env=None, stdout=None, stderr=None):
        self._out, self._err = _unnamed_file(self), _unnamed_file(self)
        request = {
            "program": program,
            "words": ["-c", *map(str, words)],
            "cwd": str(cwd or os.getcwd()),
            "path": [place for place in sys.path if place],
            "env": dict(os.environ | (env or {})),
        }
        self._told, told = os.pipe()
        files = [self._out if stdout is None else stdout, self._err if stderr is None else stderr]
        data = pickle.dumps(request)
        socket.send_fds(_server(), [len(data).to_bytes(8, "big")], [*files, told])
        _server().sendall(data)
        os.close(told)
        self.returncode = None
        self.pid = int(self._answer())

    def _answer(self):
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(self._told, 1)
            assert part, "the server of processes has ended"
            line += part
        return line.decode()

    def poll(self, seconds=0):
        ready = select.poll()
        ready.register(self._told, select.POLLIN)
        if self.returncode is None and ready.poll(1000 * seconds):
            self.returncode = int(self._answer())
            os.close(self._told)
        return self.returncode

    def wait(self, timeout=60):
        if self.poll(timeout) is None:
            raise subprocess.TimeoutExpired(self.pid, timeout)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=60):
        self.wait(timeout)
        return self.stdout, self.stderr

    @property
    def stdout(self):
        return self._printed(self._out)

    @property
    def stderr(self):
        return self._printed(self._err)

    @staticmethod
    def _printed(file):
        return os.pread(file, os.fstat(file).st_size, 0).decode()


def _unnamed_file(owner):
    """The descriptor of a file that goes with its owner."""
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    weakref.finalize(owner, os.close, fd)
    return fd


def run(program, *words, check=True, **options):
    """Run a program to its end."""
    done = Process(program, *words, **options)
    done.wait()
    assert not check or done.returncode == 0, done.stderr
    return done


@cache
def _server():
    """The connection to this process's server: it ends when that is closed."""
    ours, theirs = socket.socketpair()
    with theirs:
        fd = theirs.fileno()
        words = [sys.executable, __file__, str(fd)]
        env = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # a process that forks has no other threads
        server = subprocess.Popen(words, pass_fds=[fd], cwd="/", env=env, stdin=subprocess.DEVNULL)
    atexit.register(lambda: (ours.close(), server.wait()))
    return ours


# ---------------------------------------------------------------- in the server


def serve(end):
    """Answer requests until there are no more; in a child, give the program that it has to run."""
    sys.path[:] = [place for place in sys.path if place != os.path.dirname(os.path.abspath(__file__))]
    for name in LIBRARIES:
        import_module(name)
    gc.freeze()
    while True:
        header, fds, _, _ = socket.recv_fds(end, 8, 3)
        if not header:
            return None
        data = b""
        size = int.from_bytes(header, "big")
        while len(data) < size:
            data += end.recv(size - len(data))
        if not os.fork():
            end.close()
            return follow(pickle.loads(data), fds)
        for fd in fds:
            os.close(fd)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def follow(request, fds):
    """Start the program, and tell its ID and status; in the program's own process, give it."""
    os.setsid()  # signals to the tests' group are not for it
    *files, told = fds
    pid = os.fork()
    if pid:
        os.write(told, f"{pid}\n".encode())
        for fd in files:
            os.close(fd)
        os.write(told, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
        os._exit(0)
    os.close(told)
    for place, fd in enumerate(files, start=1):
        os.dup2(fd, place)
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv, sys.path[:] = request["words"], request["path"]
    import_module("dask").config.refresh()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return request["program"]


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        todo = serve(connection)
    if todo is not None:
        exec(compile(todo, "<string>", "exec"), {"__name__": "__main__"})
