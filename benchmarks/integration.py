"""Corrections compared by the measures of others, and by those of mnndask.

``python -m benchmarks.integration --json integration.json``. Sets are simulated, in which batches partly mix
before correction; ``--data FILES --label COLUMN`` adds a given one, a file for each batch, the reference
first. ``--sets given`` is that one alone; ``--earlier`` adds the rows of runs of other sets or seeds.
Measures are scib-metrics' own functions (total: 0.6 × the mean of isolated to cLISI + 0.4 × that of BRAS to
PCR, as in its Benchmarker) and mnndask's. Methods and measures whose library cannot be imported are skipped.
Methods that return genes are measured in 50 components of these. ``large`` is corrected with the recommended
settings fitted on sketches, too, and measured on some of its cells.

Prints Markdown tables: means over seeds ± the standard deviation, and the mean over simulated sets.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.integration_data import GIVEN, LARGE, Labelled, given_set, simulated, simulated_sets
from benchmarks.integration_methods import METHODS, Method, Runs, sketched, why_not
from benchmarks.integration_scores import SCIB, ours, scib
from benchmarks.quality import table_of
from benchmarks.report import benchmark

SMALL_SETS = [name for name in simulated_sets(1, 1.0) if name != LARGE]
FULL = {
    "sets": [GIVEN, *SMALL_SETS, LARGE],
    "methods": list(METHODS),
    "seeds": [0, 1, 2],
    "n_genes": 1000,
    "scale": 1.0,
    "sketch_sizes": [400, 1000, 4000],
    "scored_cells": 3000,
    "data": [],
    "label": "cell_type",
    "earlier": [],
}
TOY = {"sets": ["2 batches", LARGE], "seeds": [0, 1], "n_genes": 120, "scale": 0.02, "sketch_sizes": [60]}
ON_LARGE = ("uncorrected", "recommended, embedding", "harmonypy")
OF_SCIB = {
    **{"total": "total", "bio": "bio", "batch": "batch", "isolated": "isolated", "nmi": "NMI", "ari": "ARI"},
    **{"silhouette": "silhouette", "clisi": "cLISI", "bras": "BRAS", "ilisi": "iLISI"},
    **{"graph_clisi": "graph cLISI", "graph_ilisi": "graph iLISI"},
    **{"kbet": "kBET", "connectivity": "connectivity", "pcr": "PCR"},
}
OURS = {
    **{"lisi": "LISI", "batches_among_30": "batches among 30", "same_batch": "same batch"},
    **{"accuracy": "accuracy", "transfer": "transfer", "kept": "neighbours kept"},
    **{"cpu_seconds": "CPU s", "mb": "MB"},
}
OVERALL = "mean of simulated"


def methods_on(name: str, given: Any, skipped: dict[str, str]) -> dict[str, Method]:
    chosen = {key: METHODS[key] for key in given.methods if METHODS[key].needs not in skipped}
    if name == LARGE:
        chosen = {key: method for key, method in chosen.items() if key in ON_LARGE}
        chosen |= {f"recommended, {n:,} a batch": sketched(n) for n in given.sketch_sizes}
    return chosen


def scored(data: Labelled, seed: int, given: Any, skipped: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Measures of all methods on one set with one seed."""
    runs, n = Runs(data, seed), len(data.batch)
    rng = np.random.default_rng(seed)
    rows = (
        np.sort(rng.choice(n, given.scored_cells, replace=False)) if n > given.scored_cells else np.arange(n)
    )
    batch, labels = data.batch[rows], data.labels[rows]
    for name, method in methods_on(data.name, given, skipped).items():
        found, taken = runs.of(method)
        after, before = found.after[rows], found.before[rows]
        measured = ours(after, before, batch, labels) | taken
        if SCIB not in skipped:
            measured |= scib(after, data.uncorrected[rows], batch, labels)
        # All figures, so that those of a run that is stopped are not lost.
        shown = ", ".join(f"{key} {value:.3f}" for key, value in measured.items())
        print(f"{data.name}, seed {seed}: {name}: {shown}", file=sys.stderr, flush=True)
        yield {"set": data.name, "seed": seed, "method": name, "gives": method.gives} | measured


def over_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the standard deviations from them."""
    out = {key: rows[0][key] for key in ("set", "method", "gives")}
    for key in {**OF_SCIB, **OURS}:
        known = [row[key] for row in rows if key in row]
        if known:
            out[key] = float(np.mean(known))
            if len(known) > 1 and key not in {"cpu_seconds", "mb"}:
                out[f"{key}_deviation"] = float(np.std(known, ddof=1))
    return out


def over_sets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each method and seed, the mean over the sets on which all methods were run."""
    keys = [key for key in {**OF_SCIB, **OURS} if key in rows[0]]
    out = []
    for method, seed in dict.fromkeys((row["method"], row["seed"]) for row in rows):
        own = [row for row in rows if (row["method"], row["seed"]) == (method, seed)]
        means = {key: float(np.mean([row[key] for row in own])) for key in keys}
        out.append(own[0] | {"set": OVERALL} | means)
    return out


def summarised(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each set and method, and at the start those of the mean over simulated sets."""
    small = [row for row in rows if row["set"] in SMALL_SETS]
    both = [*(over_sets(small) if len({row["set"] for row in small}) > 1 else []), *rows]
    of = dict.fromkeys((row["set"], row["method"]) for row in both)
    return [over_seeds([row for row in both if (row["set"], row["method"]) == key]) for key in of]


def run(given: Any) -> dict[str, Any]:
    for kind, asked, known in (("sets", given.sets, FULL["sets"]), ("methods", given.methods, METHODS)):
        if unknown := set(asked) - set(known):
            sys.exit(f"unknown {kind}: {', '.join(unknown)}; known: {', '.join(known)}")
    if given.sets == [GIVEN] and not given.data:
        sys.exit("--sets given: no files; name them with --data")
    libraries = list(dict.fromkeys([*(m.needs for m in METHODS.values() if m.needs), SCIB]))
    skipped = {name: why for name in libraries if (why := why_not(name))}
    given_data = given_set(given.data, given.label) if given.data else None
    rows = [row for path in given.earlier for row in json.loads(path.read_text())["figures"]["rows"]]
    few = Runs(simulated(SMALL_SETS[0], 0, 120, 0.1), 0)
    for method in methods_on(SMALL_SETS[0], given, skipped).values():
        few.of(method)  # compiles, and loads libraries
    for name in given.sets:
        for seed in given.seeds:
            if name != GIVEN:
                rows += scored(simulated(name, seed, given.n_genes, given.scale), seed, given, skipped)
            elif given_data:
                rows += scored(given_data, seed, given, skipped)
    versions = {name: version(name.replace("_", "-")) for name in libraries if name not in skipped}
    return {"versions": versions, "skipped": skipped, "rows": rows, "summary": summarised(rows)}


def table(figures: dict[str, Any]) -> str:
    """Markdown tables of scib-metrics' measures and of mnndask's, a pair for each set."""
    lines = [f"{name}: skipped, {why}" for name, why in figures["skipped"].items()]
    lines.append(", ".join(f"{name} {number}" for name, number in figures["versions"].items()))
    for name in dict.fromkeys(row["set"] for row in figures["summary"]):
        rows = [row for row in figures["summary"] if row["set"] == name]
        measured = [OF_SCIB] * ("total" in rows[0]) + [OURS]
        for columns in measured:
            lines += ["", f"{name}:", "", table_of(rows, {"method": "method", "gives": "gives"} | columns)]
    return "\n".join(line for line in lines)


def main(given: Sequence[str] | None = None) -> None:
    benchmark("integration", __doc__, run, FULL, TOY, given, show=table)


if __name__ == "__main__":
    main()
