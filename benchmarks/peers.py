"""Time and memory of mnndask, scranpy, harmonypy, scanorama and mnnpy on the same data, in one run.

``python -m benchmarks.peers --peers-python PATH --mnnpy-python PATH --json peers.json``. The paths are those
of interpreters that can import scranpy, harmonypy and scanorama (default: this one), and mnnpy. Tools that
cannot be imported are skipped. Each correction is a process of its own. In each round, each tool runs once.
Ratios are taken within a round, and are medians over the rounds.

``small`` is 4,000 + 4,000 cells x 1,000 genes: mnndask in memory, on all cells, with variance adjustment.
``large`` is 200,000 cells x 2,000 genes in 4 batches: ``mnndask correct`` with default settings, which writes
its result, against peers in memory, which do not. mnnpy is not tried on more than ``--mnnpy-cells`` cells: it
needs hours.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import anndata as ad
import numpy as np

from benchmarks.data import stored
from benchmarks.memory import Limits, watched
from benchmarks.report import benchmark

SCRIPT = Path(__file__).with_name("peer_calls.py")
PEERS = ("scranpy", "harmonypy", "scanorama", "mnnpy")
GIVES = {"scranpy": "50 components", "harmonypy": "50 components"}
FULL = {
    "sizes": ["small", "large"],
    "peers": list(PEERS),
    "rounds": 3,
    "memory_limit": "2GB",
    "time_limit_s": 3600.0,
    "memory_cap_gb": 20.0,
    "mnnpy_cells": 20_000,
    "peers_python": None,
    "mnnpy_python": None,
    "data": None,
    "scratch": None,
}
TOY = {"sizes": ["toy", "toy_files"], "rounds": 1}


@dataclass(frozen=True)
class Size:
    """Simulated data, and whether mnndask works from files to a file rather than in memory."""

    n_cells: list[int]
    n_genes: int
    files: bool = False

    def __str__(self) -> str:
        n, n_batches = self.n_cells, len(self.n_cells)
        cells = " + ".join(f"{c:,}" for c in n) if n_batches == 2 else f"{sum(n):,} in {n_batches} batches"
        return f"{cells} × {self.n_genes:,}"


SIZES = {
    "small": Size([4000, 4000], 1000),
    "large": Size([50_000] * 4, 2000, files=True),
    "toy": Size([110, 90], 40),
    "toy_files": Size([80, 70, 60], 40, files=True),
}


def interpreters(given: Any) -> tuple[dict[str, Path], dict[str, Any], dict[str, str]]:
    """Interpreters and versions of the peers that can be imported, and why others are skipped."""
    found, versions, skipped = {}, {}, {}
    for name in given.peers:
        python = given.mnnpy_python if name == "mnnpy" else given.peers_python or Path(sys.executable)
        if python is None:
            skipped[name] = "no interpreter is given that can import it (--mnnpy-python)"
            continue
        try:
            asked = subprocess.run(
                [*alone(python), "about", name], capture_output=True, text=True, check=False
            )
        except OSError as error:
            skipped[name] = f"{python} cannot be run: {error.strerror}"
            continue
        if asked.returncode:
            skipped[name] = f"{python} cannot import it: {_last_line(asked.stderr)}"
            continue
        found[name], versions[name] = python, json.loads(_last_line(asked.stdout))
    return found, versions, skipped


def alone(python: Path) -> list[str | Path]:
    """Command that runs the script in an interpreter isolated from this package and its environment."""
    return [python.absolute(), "-I", SCRIPT]


@dataclass
class Comparison:
    """Runs of all tools on one data set."""

    size: Size
    peers: dict[str, Path]
    folder: Path
    given: Any

    def __post_init__(self) -> None:
        size = self.size
        kept = self.given.data and self.given.data / f"{sum(size.n_cells)}x{size.n_genes}"
        data = kept or self.folder / "data"
        self.paths = stored(data, size.n_cells, size.n_genes, len(size.n_cells))
        self.limits = Limits(self.given.time_limit_s, self.given.memory_cap_gb)
        self.arrays = dense(self.paths, self.folder) if "mnnpy" in self.peers else []

    def run(self) -> dict[str, Any]:
        """Figures of each tool, from rounds in which each tool that has not failed runs once."""
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("mnndask", *self.peers)}
        failed: dict[str, str] = {}
        for turn in range(self.given.rounds):
            for name in runs:
                if name in failed:
                    continue
                done = self.once(name)
                if isinstance(done, str):
                    failed[name] = done
                else:
                    runs[name].append(done)
                outcome = (
                    done if isinstance(done, str) else f"{done['process_s']:.1f} s, {done['peak_mb']:,.0f} MB"
                )
                print(f"{self.size}, round {turn + 1}: {name} {outcome}", file=sys.stderr, flush=True)
            if "mnndask" in failed:
                sys.exit(f"mnndask {failed['mnndask']}")
        return {
            name: summary(own, runs["mnndask"]) | ({"failed": failed[name]} if name in failed else {})
            for name, own in runs.items()
        }

    def once(self, name: str) -> dict[str, Any] | str:
        """Figures of one run, or a message that says why it did not finish."""
        figures, output = self.folder / "figures.json", self.folder / "corrected.zarr"
        figures.unlink(missing_ok=True)
        if name == "mnndask":
            command: list[Any] = [sys.executable, "-m", "benchmarks.peer_calls"]
            options = [self.given.memory_limit, output] if self.size.files else []
            command += ["mnndask_command" if self.size.files else "mnndask", figures, *options, *self.paths]
        else:
            inputs = self.arrays if name == "mnnpy" else self.paths
            command = [*alone(self.peers[name]), name, figures, *inputs]
        ended = watched(command, self.limits)
        shutil.rmtree(output, ignore_errors=True)
        if ended.exceeded:
            return f"{ended.exceeded}, with a peak of {ended.peak / 1e6:,.0f} MB until then"
        if ended.status:
            return f"failed with status {ended.status}: {_last_line(ended.said)}"
        parts = json.loads(figures.read_text())
        work = sum(parts.get(part, 0.0) for part in ("read_s", "pca_s", "correct_s"))
        return parts | {"process_s": ended.wall_s, "work_s": work, "peak_mb": ended.peak / 1e6}


def dense(paths: list[Path], folder: Path) -> list[Path]:
    """Save the batches as .npy files, which any version of NumPy reads."""
    arrays = [folder / f"{path.stem}.npy" for path in paths]
    for path, array in zip(paths, arrays, strict=True):
        np.save(array, ad.read_zarr(path).X.toarray())
    return arrays


COMPARED = ("process_s", "work_s", "correct_s", "peak_mb")


def summary(own: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds of a tool's figures, and of their ratios to mnndask's in the same round."""
    if not own:
        return {}
    paired = list(zip(own, base, strict=False))  # a tool that failed in a later round has fewer
    medians = {key: median(r[key] for r in own) for key in own[0] if key != "shape"}
    return {
        "shape": own[0]["shape"],
        "rounds": len(own),
        **{key: round(value, 1 if key == "peak_mb" else 6) for key, value in medians.items()},
        "times_mnndask": {key: round(median(r[key] / b[key] for r, b in paired), 3) for key in COMPARED},
    }


def run(given: Any) -> dict[str, Any]:
    for kind, asked, known in (("sizes", given.sizes, SIZES), ("peers", given.peers, PEERS)):
        if unknown := set(asked) - set(known):
            sys.exit(f"unknown {kind}: {', '.join(unknown)}; known: {', '.join(known)}")
    peers, versions, skipped = interpreters(given)
    figures: dict[str, Any] = {"versions": versions, "skipped": skipped, "sizes": {}}
    for name in given.sizes:
        size, tried = SIZES[name], dict(peers)
        untried = {}
        if sum(size.n_cells) > given.mnnpy_cells and tried.pop("mnnpy", None):
            untried["mnnpy"] = {"failed": f"not tried on more than {given.mnnpy_cells:,} cells: needs hours"}
        with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
            tools = Comparison(size, tried, Path(folder), given).run()
        figures["sizes"][name] = {"data": str(size), "tools": tools | untried}
    return figures


COLUMNS = (
    *("data", "tool", "gives", "process, s", "×", "read and correct, s", "×"),
    *("call alone, s", "×", "peak, MB", "×"),
)


def table(figures: dict[str, Any]) -> str:
    """Markdown table of figures and their ratios to mnndask's, with a row per size and tool; then notes."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    notes = [f"{name}: skipped, {why}" for name, why in figures["skipped"].items()]
    for size in figures["sizes"].values():
        for name, tool in size["tools"].items():
            if "shape" in tool:
                lines.append((size["data"], name, GIVES.get(name, "genes"), *_cells(tool)))
            if "failed" in tool:
                notes.append(f"{name} on {size['data']}: {tool['failed']}")
    return "\n".join([f"| {' | '.join(line)} |" for line in lines] + [""] * bool(notes) + notes)


def _cells(tool: dict[str, Any]) -> list[str]:
    shown = []
    for key in COMPARED:
        value = f"{tool[key]:,.0f}" if key == "peak_mb" else f"{tool[key]:,.2f}"
        shown += [value, f"{tool['times_mnndask'][key]:.2f}"]
    return shown


def _last_line(said: str) -> str:
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it said nothing")


def main(given: Sequence[str] | None = None) -> None:
    benchmark("peers", __doc__, run, FULL, TOY, given, show=table)


if __name__ == "__main__":
    main()
