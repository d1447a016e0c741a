"""Calibration of verdicts: simulated sets that are mixed, left apart and over-corrected.

``python -m benchmarks.verdicts --json verdicts.json``. Sets differ in sizes, numbers of batches and types
that batches lack. What became of a batch is also measured with the true types, which verdicts do not know:
separation, the share of neighbours from the batch around its own cells minus that around cells of the same
types in the batches before it (0: mixed, 1: apart), and merged, the loss in the share of a cell's neighbours
in its batch that have its type. Prints a Markdown table. A set is right if all its verdicts are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anndata as ad
import numpy as np

from benchmarks.data import EFFECT
from benchmarks.quality import table_of
from benchmarks.report import benchmark
from mnndask import mnn_correct
from mnndask.datasets.simulated import simulate
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.diagnostics.verdict import verdicts
from mnndask.metrics import label_agreement, same_batch_fraction

FULL = {"sets": 10, "seed": 0, "n_genes": 400, "scale": 1.0}
TOY = {"sets": 1, "n_genes": 100, "scale": 0.5}
COLUMNS = {
    "kind": "sets",
    "data": "data",
    "parameters": "parameters",
    "verdicts": "verdicts",
    "separation": "separation, by types",
    "merged": "merged, by types",
    "right": "right",
}
Batches = list[ad.AnnData]


def without(batches: Batches, batch: int, *types: int) -> Batches:
    """The batches, one of which lacks some types."""
    names = [f"type{t}" for t in types]
    return [b[~b.obs["cell_type"].isin(names)].copy() if i == batch else b for i, b in enumerate(batches)]


def with_effects_by_type(batches: Batches, seed: int) -> Batches:
    """The batches, the last of which has a batch effect of its own on each cell type."""
    last, rng = batches[-1].copy(), np.random.default_rng(seed)
    types = last.obs["cell_type"].cat.codes.to_numpy()
    effects = np.exp(rng.normal(0, 0.8, (types.max() + 1, last.n_vars)))
    last.X = last.X.expm1().multiply(effects[types]).log1p().tocsr()
    return [*batches[:-1], last]


def data_of(n_genes: int, scale: float) -> dict[str, Callable[[int], Batches]]:
    """Simulated sets by name, each a function of the seed."""

    def simulated(sizes: Sequence[int], n_types: int = 6) -> Callable[[int], Batches]:
        cells = [max(30, int(n * scale)) for n in sizes]
        return lambda seed: simulate(
            cells, n_genes, len(cells), n_types=n_types, batch_effect=EFFECT, seed=seed
        )

    two, four = simulated([700, 500]), simulated([500, 450, 400, 350], 10)
    return {
        "2 batches": two,
        "2 of unequal size": simulated([900, 150]),
        "the smaller first": simulated([150, 900]),
        "4 batches of 10 types": four,
        "4 small batches": simulated([180, 160, 140, 120]),
        "the first lacks 2 types": lambda seed: without(two(seed), 0, 0, 3),
        "the second lacks 2 types": lambda seed: without(two(seed), 1, 0, 3),
        "each lacks one type": lambda seed: without(without(two(seed), 0, 0), 1, 1),
        "effects by type": lambda seed: with_effects_by_type(two(seed), seed),
        "the first is of one type": lambda seed: without(two(seed), 0, 1, 2, 3, 4, 5),
    }


def cases(kind: str, number: int) -> tuple[str, dict[str, Any]]:
    """Data and parameters of a set."""
    usual = (
        "2 batches",
        "2 of unequal size",
        "4 batches of 10 types",
        "the first lacks 2 types",
        "the second lacks 2 types",
        "the smaller first",
        "each lacks one type",
        "4 small batches",
    )
    if kind == "mixed as expected":
        options = ({"sigma": 0.1, "n_components": 20}, {"n_components": 20}, {"sigma": 0.1})[number % 3]
        return usual[number % len(usual)], options
    if kind == "still apart":
        if number % 3 == 2:
            return "effects by type", {}
        return usual[number % len(usual)], ({"svd_dim": 60}, {"k": 1})[number % 3]
    all_cells, many = {"k": 10_000, "sigma": 0.05}, {"k": 200, "sigma": 0.05}
    return (
        ("2 batches", all_cells),
        ("the first is of one type", many),
        ("the second lacks 2 types", all_cells),
        ("4 batches of 10 types", all_cells),
        ("the first is of one type", all_cells),
    )[number % 5]


def by_types(cells: RecordedCells) -> Iterator[tuple[float, float]]:
    """Separation and loss of agreement of each batch but the reference, with the true types."""
    sample, types = cells.sample, np.asarray(cells.column("cell_type"))
    codes = cells.batches.codes
    for b in range(1, len(cells.batches.categories)):
        side = codes[codes <= b] == b
        kind, where = types[codes <= b], sample["after"][codes <= b]
        k = min(30, len(where) // 10)
        own = same_batch_fraction(where, side, k)
        parts = []
        for one in np.unique(kind):
            new, ref = own[(kind == one) & side], own[(kind == one) & ~side]
            if min(len(new), len(ref)) > 2:
                parts.append((new.mean() + ref.mean() - 1, min(len(new), len(ref))))
        values, weights = np.array(parts).T if parts else ([np.nan], [1])
        separation = np.average(values, weights=weights)
        states = [sample[state][codes == b] for state in ("before", "after")]
        agreed = [label_agreement(s, types[codes == b], min(20, len(s) // 5)).mean() for s in states]
        yield float(separation), float(agreed[0] - agreed[1])


def judged(kind: str, number: int, given: Any) -> dict[str, Any]:
    """Correct a set and compare the verdicts with what was done to it."""
    name, options = cases(kind, number)
    batches = data_of(given.n_genes, given.scale)[name](given.seed + number)
    corrected, _, _ = mnn_correct(*batches, **options)
    uns = corrected.uns["mnn"]
    found = verdicts(uns["steps"], uns.get("mixing"), uns["parameters"])
    separation, merged = zip(*by_types(RecordedCells.of(corrected)), strict=True)
    return {
        "kind": kind,
        "data": name,
        "parameters": ", ".join(f"{key}={value}" for key, value in options.items()),
        "verdicts": ", ".join(verdict.outcome for verdict in found),
        "separation": " ".join(f"{value:.2f}" for value in separation),
        "merged": " ".join(f"{value:.2f}" for value in merged),
        "right": "yes" if all(verdict.outcome == kind for verdict in found) else "NO",
    }


def run(given: Any) -> list[dict[str, Any]]:
    kinds = ("mixed as expected", "still apart", "over-corrected")
    return [judged(kind, number, given) for kind in kinds for number in range(given.sets)]


def shown(rows: list[dict[str, Any]]) -> str:
    counts = {
        kind: [row["right"] for row in rows if row["kind"] == kind] for kind in {r["kind"]: 0 for r in rows}
    }
    lines = [f"{kind}: {right.count('yes')} of {len(right)} right" for kind, right in counts.items()]
    return "\n".join([table_of(rows, COLUMNS), "", *lines])


def main(given: Sequence[str] | None = None) -> None:
    benchmark("verdicts", __doc__, run, FULL, TOY, given, show=shown)


if __name__ == "__main__":
    main()
