"""The command on damaged inputs, and ``info`` on damaged outputs: zarr of both formats, shards and ``.h5ad``.

``python -m benchmarks.fuzz --mutants 2000 --json fuzz.json``. Bytes are flipped, cut, swapped or removed, and
metadata and values edited. Each mutant is one of

- a clear error: exit status 2 and one line that names the damaged store, after no other output;
- right values: the output is that of the undamaged store;
- values as damaged: the output is that of the values which the store now contains according to anndata, as
  nothing stored (no checksum) could show that they were others; or a warning names the elements that differ;
- of HDF5: no answer, or much memory, and so does h5py alone when it reads the attributes of this file;
- a fault: anything else, such as a traceback, a crash, a hang, or much memory.

A mutant is determined by the seed and its number: ``--only 417`` runs it alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from benchmarks.report import benchmark

FULL = {"mutants": 2000, "seed": 0, "only": -1, "processes": 1, "timeout": 60}
TOY = {"mutants": 11}
HERE = Path(__file__).parents[1]
VERDICTS = ("clear error", "right values", "values as damaged", "of HDF5", "fault")
SILENT = "no answer in time"


def outcomes(folder: Path, seed: int, numbers: range, timeout: float) -> Iterator[dict[str, Any]]:
    """Run mutants in a process of its own, and in a new one after each that ended or stopped the process."""
    while numbers:
        at = -1
        for line in _lines(folder, seed, numbers, timeout):
            if "verdict" in line:
                yield line
                numbers = numbers[1:]
            at = line.get("number", at)
            if "ended" in line and at == (numbers[0] if numbers else None):
                verdict = "of HDF5" if line["ended"] == SILENT and _hangs(folder / "mutant") else "fault"
                yield {"number": at, "kind": "", "damage": "", "verdict": verdict, "detail": line["ended"]}
                numbers = numbers[1:]
            elif "ended" in line and numbers:
                raise RuntimeError(line["ended"])


def _lines(folder: Path, seed: int, numbers: range, timeout: float) -> Iterator[dict[str, Any]]:
    """Lines that a process prints; the last says how it ended."""
    script = [sys.executable, HERE / "tests" / "mutant_runs.py", folder]
    words = [*script, "--seed", seed, "--numbers", numbers.start, numbers.stop, numbers.step]
    env = os.environ | {"PYTHONPATH": str(HERE)}
    lines: Queue[str] = Queue()
    with subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, text=True, env=env) as process:
        reader = threading.Thread(target=lambda: [*map(lines.put, process.stdout or ()), lines.put("")])
        reader.start()
        try:
            while line := lines.get(timeout=timeout):
                yield json.loads(line)
            ended = f"the process ended with status {process.wait()}"
        except Empty:
            ended = SILENT
        finally:
            process.kill()
            reader.join()
    yield {"ended": ended}


def _hangs(folder: Path) -> bool:
    """Whether h5py alone does not return from reading the attributes of a file."""
    for path in folder.glob("*.h5ad"):
        try:
            words = [sys.executable, HERE / "tests" / "hdf5_alone.py", path]
            subprocess.run(words, timeout=20, capture_output=True)
        except subprocess.TimeoutExpired:
            return True
    return False


def run(given: Any) -> dict[str, Any]:
    numbers = range(given.mutants) if given.only < 0 else range(given.only, given.only + 1)
    done: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:

        def work(i: int) -> None:
            folder = Path(scratch) / str(i)
            folder.mkdir()
            for outcome in outcomes(folder, given.seed, numbers[i :: given.processes], given.timeout):
                done.append(outcome)
                if outcome["verdict"] == "fault":
                    print(json.dumps(outcome), file=sys.stderr, flush=True)
                if len(done) % 100 == 0:
                    print(f"{len(done)} of {len(numbers)} mutants", file=sys.stderr, flush=True)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(given.processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if len(done) != len(numbers):
        what = f"{len(numbers) - len(done)} mutants were not run"
        raise RuntimeError(what)
    faults = sorted((one for one in done if one["verdict"] == "fault"), key=lambda one: one["number"])
    table = {kind: Counter(o["verdict"] for o in done if o["kind"] == kind) for kind in _kinds(done)}
    return {"table": table, "faults": faults, "only": done if given.only >= 0 else []}


def _kinds(done: list[dict[str, Any]]) -> list[str]:
    return sorted({one["kind"] for one in done})


def show(figures: dict[str, Any]) -> str:
    """Table of the figures."""
    rows = [["store", "mutants", *VERDICTS]]
    rows += [
        [kind or "(ended)", sum(counts.values()), *(counts.get(verdict, 0) for verdict in VERDICTS)]
        for kind, counts in figures["table"].items()
    ]
    rows.append(["all", *(sum(row[i] for row in rows[1:]) for i in range(1, len(rows[0])))])
    lines = ["  ".join(f"{cell!s:<{18 if i else 16}}" for i, cell in enumerate(row)).rstrip() for row in rows]
    return "\n".join([*lines, *(json.dumps(one, indent=1) for one in figures["only"])])


def main(given: Sequence[str] | None = None) -> None:
    benchmark("fuzz", __doc__, run, FULL, TOY, given, show)


if __name__ == "__main__":
    main()
