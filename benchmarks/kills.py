"""Kill the command at operations on files, and look at what is left and what becomes of it.

``python -m benchmarks.kills --kills 300 --json kills.json``. The command is killed before one of its
operations on files of the output (open for writing, rename, link, remove, create or remove a folder), chosen
at random. In half of the runs, the power goes as well: what was not synced is lost at random. A fault is an
output that opens but is not whole, an older output that is lost, a refusal that is not one clear line or
changes files, wrong values, or a file that is left in the end.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad

from benchmarks import killed_runs
from benchmarks.data import EFFECT
from benchmarks.report import benchmark
from mnndask.datasets.simulated import simulate

FULL = {"kills": 300, "seed": 0, "processes": 2}
TOY = {"kills": 4, "seed": 0, "processes": 2}

PATIENCE = 600  # seconds until a process counts as hanging

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["benchmarks.killed_runs"])


@dataclass(frozen=True)
class Scenario:
    """A command that is killed, and what is there before it.

    Parameters
    ----------
    options
        Its options.
    older
        Whether there is a complete older output.
    begun
        Options and place of an earlier kill: of the run that is continued or replaced. None if there is none.
    output
        The output, as given to the command.
    """

    options: list[str]
    older: bool = False
    begun: tuple[list[str], float] | None = None
    output: str = "out.zarr"


HALF, BETWEEN = 0.7, -1.0
SCENARIOS = {
    "write": Scenario([]),
    "replace": Scenario(["--overwrite"], older=True),
    "continue": Scenario(["--resume"], begun=([], HALF)),
    "continue a replacement": Scenario(["--resume"], older=True, begun=(["--overwrite"], HALF)),
    "replace an output and a part": Scenario(["--overwrite"], older=True, begun=(["--overwrite"], HALF)),
    "continue between the renames": Scenario(["--resume"], older=True, begun=(["--overwrite"], BETWEEN)),
    "replace between the renames": Scenario(["--overwrite"], older=True, begun=(["--overwrite"], BETWEEN)),
    "write objects": Scenario([], output="puts://{folder}/out.zarr"),
    "replace objects": Scenario(["--overwrite"], older=True, output="puts://{folder}/out.zarr"),
    "continue objects": Scenario(["--resume"], begun=([], HALF), output="puts://{folder}/out.zarr"),
}


@dataclass
class Tally:
    """Kills of one scenario, and what became of them."""

    kills: int = 0
    power_losses: int = 0
    clear_errors: int = 0
    right_values: int = 0
    faults: list[str] = field(default_factory=list)


def separately(function: Callable[..., None], *args: Any) -> int:
    """Call a function in a process that is forked from one that has only loaded the libraries."""
    process = PROCESSES.Process(target=function, args=args)
    process.start()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


class Kills:
    """Runs that are killed, in folders below one."""

    def __init__(self, folder: Path, names: Iterable[str], pool: ThreadPoolExecutor) -> None:
        self.folder, self.numbers = folder, itertools.count()
        self.templates = folder / "templates"
        self.templates.mkdir()
        for name, adata in zip("ab", simulate([60, 50], 40, 2, batch_effect=EFFECT), strict=True):
            adata = ad.AnnData(adata.X.toarray(), adata.obs, adata.var)
            adata.obs_names = [f"{name}{i}" for i in range(adata.n_obs)]
            adata.layers["twice"] = adata.X * 2
            adata.write_h5ad(self.templates / f"{name}.h5ad")
        for which, options in (("old", ["--sigma", "3"]), ("new", [])):
            made = self.copy("made")
            self.run(made, options, "out.zarr", None, None)
            (made / "out.zarr").rename(self.templates / f"{which}.zarr")
        names = list(names)
        self.before = dict(zip(names, pool.map(self.prepare, names), strict=True))

    def copy(self, name: str, source: Path | None = None) -> Path:
        """Return a new folder with the inputs, or a copy of one."""
        out = self.folder / f"{name}-{next(self.numbers)}"
        if source is not None:
            return Path(shutil.copytree(source, out))
        out.mkdir()
        for file in self.templates.glob("*.h5ad"):
            shutil.copy(file, out)
        return out

    def run(
        self, folder: Path, options: list[str], output: str, at: int | None, power: int | None
    ) -> int | None:
        """Run the command; return the number of its operations, None if it was killed."""
        counted = folder.with_suffix(".counted")
        place = output.format(folder=folder)
        status = separately(killed_runs.run, folder, options, place, at, power, counted)
        if at is not None and status == killed_runs.KILLED:
            return None
        assert status == 0, f"{options} in {folder}: status {status}"
        return int(counted.read_text())

    def prepare(self, name: str) -> tuple[Path, int]:
        """Return a folder as it is before the kill, and the number of operations of the run to be killed."""
        scenario = SCENARIOS[name]
        folder = self.copy(name.replace(" ", "-"))
        if scenario.older:
            shutil.copytree(self.templates / "old.zarr", folder / "out.zarr")
        if scenario.begun is not None:
            options, where = scenario.begun
            if where == BETWEEN:
                at: int | None = killed_runs.BETWEEN
            else:
                n = self.run(self.copy("counted", folder), options, scenario.output, None, None)
                assert n is not None
                at = int(where * n)
            assert self.run(folder, options, scenario.output, at, None) is None
        n = self.run(self.copy("counted", folder), scenario.options, scenario.output, None, None)
        assert n is not None
        return folder, n

    def kill(self, name: str, fraction: float, power: int | None) -> tuple[bool, dict[str, Any]]:
        """Kill a run; return whether it was, and what became of it."""
        scenario, (before, n) = SCENARIOS[name], self.before[name]
        folder = self.copy("killed", before)
        at = 1 + int(fraction * n)
        if self.run(folder, scenario.options, scenario.output, at, power) is not None:
            return False, {}  # there were fewer operations this time
        findings = folder.with_suffix(".json")
        place = scenario.output.format(folder=folder)
        status = separately(killed_runs.aftermath, folder, self.templates, place, scenario.older, findings)
        found = json.loads(findings.read_text()) if status == 0 else {"faults": [f"status {status}"]}
        where = f"killed at operation {at} of {n}{'' if power is None else f', power loss {power}'}"
        found["faults"] = [f"{where}: {fault}" for fault in found["faults"]]
        if not found["faults"]:
            shutil.rmtree(folder)
        return True, found


def run(given: Any) -> dict[str, Any]:
    random_ = random.Random(given.seed)
    tallies = {name: Tally() for name in SCENARIOS}
    plan = []
    for i in range(given.kills):
        name = list(SCENARIOS)[i % len(SCENARIOS)]
        on_disk = "objects" not in name
        power = random_.randrange(2**32) if on_disk and (i // len(SCENARIOS)) % 2 else None
        plan.append((name, random_.random(), power))
    with (
        tempfile.TemporaryDirectory(prefix="mnndask-kills-") as folder,
        ThreadPoolExecutor(given.processes) as pool,
    ):
        kills = Kills(Path(folder), dict.fromkeys(name for name, _, _ in plan), pool)
        outcomes = pool.map(lambda planned: kills.kill(*planned), plan)
        for (name, _, power), (killed, found) in zip(plan, outcomes, strict=True):
            if not killed:
                continue
            tally = tallies[name]
            tally.kills += 1
            tally.power_losses += power is not None
            tally.clear_errors += found.get("clear_errors", 0)
            tally.right_values += not found["faults"]
            tally.faults += found["faults"]
            for fault in found["faults"]:  # before all runs are done
                print(f"{name}: {fault}", file=sys.stderr, flush=True)
    return {name: vars(tally) for name, tally in tallies.items() if tally.kills}


def table(figures: dict[str, Any]) -> str:
    """Markdown table of what became of the kills."""
    columns = ("kills", "power_losses", "clear_errors", "right_values")
    rows = {name: [*(of[column] for column in columns), len(of["faults"])] for name, of in figures.items()}
    rows["all"] = [sum(of[i] for of in rows.values()) for i in range(5)]
    head = "| run | kills | of them with power loss | clear errors | right values in the end | faults |"
    lines = [head, "| --- | ---: | ---: | ---: | ---: | ---: |"]
    lines += [f"| {name} | {' | '.join(map(str, of))} |" for name, of in rows.items()]
    return "\n".join(
        [*lines, *(f"{name}: {fault}" for name, of in figures.items() for fault in of["faults"])]
    )


def main(given: Sequence[str] | None = None) -> None:
    benchmark("kills", __doc__, run, FULL, TOY, given, table)


if __name__ == "__main__":
    main()
