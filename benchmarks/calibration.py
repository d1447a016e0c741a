"""Random splits of one batch, whose cells should stay, and batch effects of known size, which should go.

``python -m benchmarks.calibration --json calibration.json``. A simulated batch, and each of the files of
``--data FILES --label COLUMN``, is split at random, and its parts are corrected as if they were batches. Then
an effect is added to one half of its cells: the simulated one, or the mean difference of the next file, type
by type. Measures, in 50 components of the cells before correction:

- displacement: how far cells moved, as a multiple of the distance to their nearest neighbour. The first part,
  which MNN methods never move, counts for the other methods only.
- rank: median change of the ranks of a cell's 30 nearest neighbours; kept: share of them that stay among 30.
- clusters: adjusted Rand index of k-means clusters before and after.
- genes: of those that differ between types before or after (Welch's t-test, 5 % false discoveries), the
  share that do both times.
- factor: the mean by which vectors were shrunk; no effect: share of merges of which the verdict says so.
- left: share of the squared length of an added effect that the correction left.

Methods whose library cannot be imported are skipped. Prints Markdown tables of means over batches and seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.calibration_measures import changes, components_of, effect_left, in_scale, same_markers
from benchmarks.calibration_methods import METHODS, REFINED, Method
from benchmarks.calibration_sets import SIMULATED, SIZES, SPLITS, OneBatch, given, simulated
from benchmarks.integration_methods import why_not
from benchmarks.quality import table_of
from benchmarks.report import benchmark
from mnndask.diagnostics.effect import LEAST_EFFECT

FULL = {
    "splits": list(SPLITS),
    "effects": list(SIZES),
    "methods": list(METHODS),
    "seeds": list(range(10)),
    "n_cells": 2000,
    "n_genes": 1000,
    "data": [],
    "label": "cell_type",
}
TOY = {"seeds": [0], "splits": ["halves", "3 parts"], "effects": ["all"], "n_cells": 240, "n_genes": 120}
SPLIT = {
    "displacement": "displacement",
    "rank": "rank",
    "kept": "kept",
    "clusters": "clusters",
    "genes": "genes",
    "factor": "factor",
    "no_effect": "no effect",
}
EFFECT = {"left": "left", "factor": "factor", "no_effect": "no effect"}


def scored(batch: OneBatch, part: np.ndarray, size: float, method: Method, seed: int) -> dict[str, float]:
    """Measures of one method on the parts of a batch, of which the second has an effect of this size."""
    X = batch.shifted(size, part == 1)
    with_ = in_scale(X, method.scale)
    space = components_of(with_, seed)
    before = space.transform(with_)
    with redirect_stdout(sys.stderr):  # libraries print
        found = method.run(X, part, before, seed)
    after = space.transform(found.values) if method.in_genes else found.values
    verdicts = [factor for factor in found.factors if np.isfinite(factor)]
    out = {}
    if verdicts:
        out = {"factor": np.mean(verdicts), "no_effect": np.mean(np.less(verdicts, LEAST_EFFECT))}
    if size:
        states = space.transform(in_scale(batch.X, method.scale)), before, after
        return out | {"left": effect_left(states, batch.types, part == 1)}
    moving = part > 0 if method.keeps_first else np.ones(len(part), bool)
    out |= changes(before, after, moving, batch.types)
    if method.in_genes:
        out["genes"] = same_markers(with_, found.values, batch.types)
    return out


def of_batch(batch: OneBatch, seed: int, asked: Any, skipped: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Rows of all splits, effects and methods."""
    tried = [("split", name, SPLITS[name], 0.0) for name in asked.splits]
    tried += [("effect", name, SPLITS["halves"], SIZES[name]) for name in asked.effects]
    source = SIMULATED if batch.name == SIMULATED else "given"
    for kind, name, shares, size in tried:
        part = batch.parts(shares, seed)
        for key in asked.methods:
            if METHODS[key].needs in skipped:
                continue
            try:
                measured = scored(batch, part, size, METHODS[key], seed)
            except Exception as error:  # of other libraries, on parts of few cells
                if METHODS[key].needs is None:
                    raise
                print(f"{batch.name}, {name}: {key} failed: {error!r}", file=sys.stderr, flush=True)
                continue
            row = {"source": source, "batch": batch.name, "seed": seed, "kind": kind, "of": name}
            shown = ", ".join(f"{measure} {value:.3f}" for measure, value in measured.items())
            print(f"{batch.name}, seed {seed}, {name}: {key}: {shown}", file=sys.stderr, flush=True)
            yield row | {"method": key} | {measure: float(value) for measure, value in measured.items()}


def run(asked: Any) -> dict[str, Any]:
    for kind, chosen, known in (
        ("splits", asked.splits, SPLITS),
        ("effects", asked.effects, SIZES),
        ("methods", asked.methods, METHODS),
    ):
        if unknown := set(chosen) - set(known):
            sys.exit(f"unknown {kind}: {', '.join(unknown)}; known: {', '.join(known)}")
    libraries = dict.fromkeys(method.needs for method in METHODS.values() if method.needs)
    skipped = {name: why for name in libraries if (why := why_not(name))}
    files = list(given(asked.data, asked.label))
    rows: list[dict[str, Any]] = []
    for seed in asked.seeds:
        for batch in [*files, simulated(asked.n_cells, asked.n_genes, seed)]:
            rows += of_batch(batch, seed, asked, skipped)
    versions = {name: version(name) for name in libraries if name not in skipped}
    return {"versions": versions, "skipped": skipped, "rows": rows}


def means(rows: list[dict[str, Any]], by: Sequence[str], measures: dict[str, str]) -> list[dict[str, Any]]:
    """Means of rows that agree in some columns."""
    out = []
    for key in dict.fromkeys(tuple(row[name] for name in by) for row in rows):
        own = [row for row in rows if tuple(row[name] for name in by) == key]
        known = {m: [row[m] for row in own if m in row] for m in measures}
        out.append(dict(zip(by, key, strict=True)) | {m: float(np.mean(v)) for m, v in known.items() if v})
    return out


def table(figures: dict[str, Any]) -> str:
    lines = [f"{name}: skipped, {why}" for name, why in figures["skipped"].items()]
    lines.append(", ".join(f"{name} {number}" for name, number in figures["versions"].items()))
    splits = [row for row in figures["rows"] if row["kind"] == "split"]
    effects = [row for row in figures["rows"] if row["kind"] == "effect"]
    refined = [row for row in splits if row["method"] == REFINED]
    for title, rows, by, measures in (
        ("Random splits", splits, ("source", "method"), SPLIT),
        (f"Random splits, {REFINED}", refined, ("source", "of"), SPLIT),
        ("Effects on one half of the cells", effects, ("source", "method", "of"), EFFECT),
    ):
        if rows:
            columns = {name: name for name in by} | measures
            lines += ["", f"{title}:", "", table_of(means(rows, by, measures), columns)]
    return "\n".join(lines)


def main(asked: Sequence[str] | None = None) -> None:
    benchmark("calibration", __doc__, run, FULL, TOY, asked, show=table)


if __name__ == "__main__":
    main()
