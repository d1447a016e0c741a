"""The command on damaged stores. Each is a clear error, or its output is what the store still says.

``python tests/mutant_runs.py FOLDER --seed 0 --numbers 0 500 3`` runs mutants 0, 3, 6, ... and prints
lines of JSON before and after each. ``benchmarks.fuzz`` starts it and watches over it.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import psutil
from mutant_stores import KINDS, write, write_corrected
from mutants import mutate
from stored_truth import absent_arrays, differing, reread_summary, rewritten, unsound_sparse

from mnndask.cli.main import main

CORRECTED = ("corrected-zarr", "corrected-h5ad")  # read by info; the others are inputs
OPTIONS = ((), ("--restrict", "used"), ("--layer", "twice"), ("--hvg-key", "hvg"), ("--save-raw",))
MEMORY = 2**31  # that the command believes to be there
MOST_MEMORY, MOST_SECONDS = 2**30, 20  # of one run that is not a fault; seconds of processors
ERROR, RIGHT, STORED, OF_HDF5 = "clear error", "right values", "values as damaged", "of HDF5"
FAULT = "fault"

Done = namedtuple("Done", "status out err")


@dataclass(frozen=True)
class Outcome:
    """What the command made of one mutant."""

    number: int
    kind: str
    damage: str
    verdict: str
    detail: str = ""


def command(*words) -> Done:
    """Run the command in this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(list(map(str, words)))
        except SystemExit as end:
            status = end.code or 0
    return Done(status, out.getvalue(), err.getvalue())


class Mutants:
    """Damaged stores, each determined by a seed and its number."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.sound = cache(self._sound)
        self.expected = cache(self._expected)

    def run(self, number: int) -> Outcome:
        """Damage a store, run the command on it, and judge."""
        rng = np.random.default_rng([self.seed, number])
        kinds = (*KINDS, *CORRECTED)
        kind = kinds[number % len(kinds)]
        here = self.folder / "mutant"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        paths = list(self.sound(kind))
        at = int(rng.integers(len(paths)))
        sound, mutant = paths[at], here / paths[at].name
        (shutil.copytree if sound.is_dir() else shutil.copyfile)(sound, mutant)
        paths[at] = mutant
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            damage = f"{mutant.name}: {mutate(mutant, rng)}"
        if kind in CORRECTED:
            verdict = self._of_info(kind, mutant)
        else:
            verdict = self._of_correct(kind, paths, mutant, OPTIONS[int(rng.integers(len(OPTIONS)))])
        return Outcome(number, kind, damage, *verdict)

    def _sound(self, kind: str) -> list[Path]:
        folder = self.folder / kind
        folder.mkdir(exist_ok=True)
        if kind not in CORRECTED:
            return write(folder, kind)
        return [write_corrected(folder, kind, self.expected("csr", ()))]

    def _expected(self, layout: str, options: tuple[str, ...]) -> Path:
        """Output of undamaged inputs, which is the same for all kinds of stores."""
        kind = next(kind for kind in KINDS if kind.endswith(layout))
        out = self.folder / kind / f"out{''.join(options)}.zarr"
        if not out.exists():  # the same folder may have been used before
            done = correct(self.sound(kind), out, options)
            assert done.status == 0, done.err
        return out

    def _of_correct(self, kind, paths, mutant, options):
        out = mutant.with_name("out.zarr")
        before = {path.name for path in mutant.parent.iterdir()}
        done = correct(paths, out, options)
        left = {path.name for path in mutant.parent.iterdir()} - before
        if done.status != 0 or left != {"out.zarr"}:
            kept = {"out.zarr.partial", "out.zarr.run.json"} if "out.zarr.partial" in done.err else set()
            return judged_error(done, mutant, left - kept)
        if (problem := unclear(done)) is not None:
            return FAULT, problem
        changed = differing(out, self.expected(kind.split("-")[1], options))
        if not changed:
            return RIGHT, ""
        said = all(is_named(name, done.err) for name in changed)
        if (wrong := unsound_sparse(mutant)) is not None and not said:
            return FAULT, f"inconsistent {wrong} was accepted, and changed {changed}"
        sound = self.sound(kind)[[path.name for path in paths].index(mutant.name)]
        unsaid = [name for name in absent_arrays(mutant, sound) if not is_named(name, done.err)]
        if unsaid:
            return FAULT, f"chunks of {unsaid} are absent, of which nothing was said"
        return self._judged_values(kind, paths, mutant, options, done, changed)

    def _judged_values(self, kind, paths, mutant, options, done, changed):
        """Compare with the output of what anndata reads in the damaged store."""
        out, again = mutant.with_name("out.zarr"), mutant.with_name("again")
        again.mkdir()
        try:
            clean = rewritten(mutant, again / mutant.name, kind)
        except Exception as error:
            said = all(is_named(name, done.err) for name in changed)
            return (STORED, "said") if said else (FAULT, f"{changed} differ; anndata: {error!r:.200}")
        paths = [clean if path == mutant else path for path in paths]
        redone = correct(paths, again / "out.zarr", options)
        if redone.status != 0:
            return FAULT, f"accepted, but not as anndata reads it: {redone.err}"
        changed = [name for name in differing(out, again / "out.zarr")]
        changed = [name for name in changed if not is_named(name, done.err)]
        return (FAULT, f"{changed} differ from what anndata reads") if changed else (STORED, "")

    def _of_info(self, kind, mutant):
        done, sound = command("info", mutant), self._said(kind)
        if done.status != 0:
            return judged_error(done, mutant, set())
        if (problem := unclear(done)) is not None:
            return FAULT, problem
        said = done.out.replace(str(mutant), "")
        if said == sound:
            return RIGHT, ""
        return (STORED, "") if done.out == reread_summary(mutant) else (FAULT, f"said {done.out!r}")

    def _said(self, kind: str) -> str:
        [path] = self.sound(kind)
        return command("info", path).out.replace(str(path), "")


def correct(paths, out, options) -> Done:
    return command("correct", *paths, "-k", 5, "--n-jobs", 1, *options, "-o", out)


def judged_error(done: Done, mutant: Path, left: set[str]) -> tuple[str, str]:
    """Whether an error is one line that names the damaged store, and nothing is left behind."""
    last = (done.err.strip().splitlines() or [""])[-1]
    if done.status != 2:
        return FAULT, f"exit {done.status}: {done.err[-600:]}"
    if (problem := unclear(done)) is not None:
        return FAULT, problem
    if str(mutant) not in last:
        return FAULT, f"does not name the store: {last}"
    if done.out or left:
        return FAULT, f"left {sorted(left)}, said {done.out!r}"
    return ERROR, last


def is_named(element: str, text: str) -> bool:
    """Whether an element, such as ``obs/depth``, is named in a warning, also as ``obs['depth']``."""
    slot, _, key = element.partition("/")
    return element in text or f"{slot}[{key!r}" in text or f"{slot}.{key}" in text


def unclear(done: Done) -> str | None:
    """Lines that are not the command's own, or name no cause."""
    foreign = [line for line in done.err.splitlines() if not line.startswith("mnndask: ")]
    return f"foreign lines: {foreign[:3]}" if foreign else None


# ---------------------------------------------------------------- as a program


def watched(mutants: Mutants, number: int) -> Outcome:
    """Run a mutant; more time or memory than is reasonable is a fault."""
    process = psutil.Process()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start, before = time.process_time(), process.memory_info().rss
    outcome = mutants.run(number)
    seconds, grown = time.process_time() - start, _peak() - before
    if seconds > MOST_SECONDS or grown > MOST_MEMORY:
        detail = f"{seconds:.1f} s, {grown / 1e6:,.0f} MB; {outcome.verdict} {outcome.detail}"
        known = outcome.verdict == ERROR and taken_by_hdf5(mutants.folder / "mutant") > MOST_MEMORY
        return Outcome(number, outcome.kind, outcome.damage, OF_HDF5 if known else FAULT, detail)
    return outcome


def taken_by_hdf5(folder: Path) -> int:
    """Bytes that h5py alone takes to read the attributes of damaged files."""
    script = [sys.executable, Path(__file__).with_name("hdf5_alone.py")]
    done = [subprocess.run([*script, path], capture_output=True, text=True) for path in folder.glob("*.h5ad")]
    return max((int(one.stdout or 0) for one in done), default=0)


def _peak() -> int:
    """Peak of the memory of this process since it was last reset."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def confine() -> None:
    """Have this process fail, rather than its machine, when it asks for much more memory than it may."""
    free = psutil.virtual_memory()._replace(total=MEMORY, available=MEMORY)
    psutil.virtual_memory = lambda: free
    with suppress(ImportError, OSError):
        import resource

        limit = psutil.Process().memory_info().vms + 8 * MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--numbers", type=int, nargs=3, required=True)
    given = parser.parse_args()
    mutants = Mutants(given.folder, given.seed)
    warnings.simplefilter("ignore")
    confine()
    for number in range(*given.numbers):
        print(json.dumps({"number": number}), flush=True)
        print(json.dumps(asdict(watched(mutants, number))), flush=True)


if __name__ == "__main__":
    run()
