"""What `benchmarks.kills` does in other processes: run the command and die, or look at what is left."""

from __future__ import annotations

import io
import json
import os
import random
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import zarr
from fsspec.implementations.local import LocalFileSystem

import mnndask.engine.memory_budget
from mnndask.cli.main import main

KILLED = 99  # exit status
BETWEEN = -1  # kill before the second rename of --overwrite, rather than at a numbered operation
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link"}
CHUNK_BYTES = 10 * 40 * 8  # ten cells
WORDS = "correct a.h5ad b.h5ad -k 5 --n-components 6 --n-jobs 1"
MATRICES = {"X", "obsm/X_mnn"}  # chunk by chunk


class Puts(LocalFileSystem):
    """A folder in which files are written as objects are: as a whole."""

    protocol = "puts"

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **_: Any) -> None:
        path = self._strip_protocol(path)
        if mode == "create" and os.path.exists(path):
            raise FileExistsError(path)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        temporary = f"{path}.put"
        Path(temporary).write_bytes(value)
        os.rename(temporary, path)


fsspec.register_implementation("puts", Puts, clobber=True)


class Killer:
    """Counts operations on the files of outputs, and ends the process at one of them.

    Parameters
    ----------
    at
        Number of the operation, or BETWEEN; None only counts.
    power
        Seed of a power loss: contents of files that were not synced, and files whose folders were not, may
        be lost. None if the process alone ends.
    """

    def __init__(self, at: int | None, power: int | None) -> None:
        self.at, self.power, self.n = at, power, 0
        self.unsynced: set[str] = set()
        self.unnamed: set[str] = set()
        self.lock = threading.RLock()

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Notice an operation before it happens; an audit hook."""
        if event == "open":
            path, _, flags = args
            paths = [path] if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else []
        elif event in CHANGES:
            paths = [path for path in args if isinstance(path, str | os.PathLike)]
            within = event in {"os.remove", "os.rmdir"} and args[-1] != -1
            paths = [os.path.join(os.readlink(f"/proc/self/fd/{args[-1]}"), args[0])] if within else paths
        else:
            return
        paths = [os.path.abspath(path) for path in paths if isinstance(path, str | os.PathLike)]
        if paths and "out.zarr" in paths[0]:
            with self.lock:
                self.count(event, paths)

    def count(self, event: str, paths: list[str]) -> None:
        self.n += 1
        between = self.at == BETWEEN and event == "os.rename" and paths[0].endswith("out.zarr.partial")
        if self.n == self.at or between:
            if self.power is not None:
                self.lose(random.Random(self.power))
            os._exit(KILLED)
        if event == "open":
            self.unsynced.add(paths[0])
            self.unnamed.add(paths[0])
        elif event in {"os.rename", "os.link"}:
            for known in (self.unsynced, self.unnamed):
                moved = {path for path in known if f"{path}/".startswith(f"{paths[0]}/")}
                known |= {path.replace(paths[0], paths[1], 1) for path in moved}
                known -= moved
            self.unnamed.add(paths[1])

    def fsync(self, descriptor: int, original: Any = os.fsync) -> None:
        with self.lock:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            original(descriptor)
            self.unsynced.discard(path)
            self.unnamed -= {name for name in self.unnamed if os.path.dirname(name) == path}

    def lose(self, random_: random.Random) -> None:
        for path in sorted(self.unsynced | self.unnamed):
            if not os.path.isfile(path) or random_.random() < 0.5:
                continue
            if path in self.unnamed and not path.endswith(
                ".run.json"
            ):  # which has its old content or the new
                os.unlink(path)
            elif path in self.unsynced:
                os.truncate(path, random_.choice([0, os.path.getsize(path) // 2]))


def run(
    folder: Path, options: list[str], output: str, at: int | None, power: int | None, counted: Path
) -> None:
    """Run the command, and be killed; or write down the number of operations."""
    os.chdir(folder)
    killer = Killer(at, power)
    os.fsync = killer.fsync  # type: ignore[assignment]
    sys.addaudithook(killer)
    status, told = command(*options, output=output)
    counted.write_text(f"{killer.n}")
    assert status == 0, told


def command(*options: str, output: str) -> tuple[int, list[str]]:
    """Exit status of the command, and lines of errors."""
    expire_lease(output)
    mnndask.engine.memory_budget.CHUNK_BYTES = CHUNK_BYTES
    err = io.StringIO()
    with redirect_stderr(err), redirect_stdout(io.StringIO()):
        try:
            main([*WORDS.split(), "-q", "-o", output, *options])
        except SystemExit as end:
            status = end.code or 0
    return int(status), [line for line in err.getvalue().splitlines() if "warning: " not in line]


def expire_lease(output: str) -> None:
    """Wait for 90 s, as it were, after which the lease of a killed run is free."""
    if "://" in output:
        Path(f"{output.removeprefix('puts://')}.lock").unlink(missing_ok=True)


def values(path: Path) -> dict[str, Any]:
    """All arrays of a store."""
    root = zarr.open_group(path, mode="r")
    return {name: array[...] for name, array in root.members(max_depth=None) if isinstance(array, zarr.Array)}


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    if found.keys() != expected.keys():
        return False
    ours = [name for name in expected if name not in MATRICES and not name.startswith("uns/mnn")]
    exact = all(np.array_equal(found[name], expected[name]) for name in ours)
    return exact and all(np.abs(found[name] - expected[name]).max() <= 1e-10 for name in MATRICES)


class Aftermath:
    """What is left after a kill, and what becomes of it."""

    def __init__(self, folder: Path, templates: Path, output: str, *, older: bool) -> None:
        self.folder, self.output, self.older = folder, output, older
        self.expected = {which: values(templates / f"{which}.zarr") for which in ("old", "new")}
        self.faults: list[str] = []
        self.clear_errors = 0

    def which(self, name: str) -> str:
        """Which output is in a place, or nothing that opens; "half" is neither of them."""
        try:
            found = values(self.folder / name)
        except FileNotFoundError:
            return "nothing"
        except Exception:
            return "half"
        return next((which for which, expected in self.expected.items() if same(found, expected)), "half")

    def contents(self) -> dict[Path, Any]:
        paths = (path for path in self.folder.rglob("*") if not path.name.endswith(".lock"))
        return {path: path.is_file() and path.read_bytes() for path in paths}

    def check(self, what: str, ok: bool) -> None:
        if not ok:
            self.faults.append(what)

    def command(self, *options: str) -> int:
        """Run the command; a refusal is one line, and changes nothing."""
        before = self.contents()
        status, told = command(*options, output=self.output)
        if status:
            one_line = len(told) == 1 and told[0].startswith("mnndask: ")
            self.check(f"{options}: status {status}, {told[-3:]}", status == 2 and one_line)
            self.check(f"{options}: a refusal changed files", self.contents() == before)
            self.clear_errors += status == 2 and one_line
        return status

    def look(self) -> None:
        """Whatever opens is whole, and an older output or the new one is in place, or both are beside it."""
        found = {name: self.which(f"out.zarr{name}") for name in ("", ".partial", ".replaced")}
        self.check(f"half an output opens: {found}", "half" not in found.values())
        if self.older and self.output == "out.zarr":
            between = found[".partial"] == "new" and found[".replaced"] in self.expected
            self.check(f"no output is in place: {found}", found[""] != "nothing" or between)

    def go_on(self) -> None:
        """Do as users do: run the command again, and as it says."""
        if self.command():
            if self.which("out.zarr") == "new" and len(list(self.folder.glob("out.zarr*"))) == 1:
                return
            if self.command("--resume"):
                self.check("--overwrite failed", self.command("--overwrite") == 0)
        self.check(f"the output is {self.which('out.zarr')}", self.which("out.zarr") == "new")
        left = [path.name for path in self.folder.glob("out.zarr.*")]
        self.check(f"left: {left}", not left)


def aftermath(folder: Path, templates: Path, output: str, older: bool, findings: Path) -> None:
    """Write down what a kill left."""
    os.chdir(folder)
    after = Aftermath(folder, templates, output, older=older)
    after.look()
    after.go_on()
    findings.write_text(json.dumps({"faults": after.faults, "clear_errors": after.clear_errors}))
