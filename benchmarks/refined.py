"""What refined pairs cost: a fit with them over the same fit without.

``python -m benchmarks.refined --json refined.json``. All cells of two batches in memory are fitted, in
components and, with ``--in-genes 1``, in genes. Time is that of the processor, on all threads, which other
work on the machine hardly changes. Fits with and without take turns, and ratios are taken within a round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.report import benchmark
from mnndask import RECOMMENDED, MNNCorrector
from mnndask.datasets.simulated import BATCH_EFFECT, simulate

FULL = {"sizes": [20_000, 20_000], "n_genes": 2000, "n_types": 12, "rounds": 3, "in_genes": 0, "n_jobs": 1}
TOY = {"sizes": [120, 100], "n_genes": 80, "n_types": 4, "rounds": 2, "in_genes": 1}


def cpu_seconds(batches: Sequence[Any], options: dict[str, Any]) -> float:
    start = time.process_time()
    MNNCorrector(sketch_size=None, diagnostics=False, **options).fit(batches)
    return time.process_time() - start


def run(given: Any) -> dict[str, Any]:
    usual = {"n_types": given.n_types, "counts_per_gene": 0.5}
    made = simulate(given.sizes, given.n_genes, len(given.sizes), **usual, batch_effect=BATCH_EFFECT)
    batches = [batch.X.toarray() for batch in made]
    spaces = {"components": {}} | ({"genes": {"n_components": None}} if given.in_genes else {})
    figures = {}
    for name, space in spaces.items():
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(given.rounds):
            for refine in times:
                options = {**RECOMMENDED, **space, "refine": refine, "n_jobs": given.n_jobs}
                times[refine].append(cpu_seconds(batches, options))
        ratios = [with_ / without for without, with_ in zip(times[False], times[True], strict=True)]
        figures[name] = {
            "without_cpu_s": round(median(times[False]), 2),
            "refined_cpu_s": round(median(times[True]), 2),
            "ratio": round(median(ratios), 2),
            "ratios": [round(ratio, 2) for ratio in ratios],
        }
    return figures


def main(given: Sequence[str] | None = None) -> None:
    benchmark("refined", __doc__, run, FULL, TOY, given)


if __name__ == "__main__":
    main()
