"""Speed-up of two threads over one, in the whole call, in application and in a plain matrix product.

``python -m benchmarks.threads --json threads.json``. Rounds are interleaved, and ratios are taken within a
round, because a machine's speed drifts, ratios less so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.data import EFFECT
from benchmarks.report import benchmark, seconds
from mnndask import MNNCorrector, mnn_correct
from mnndask.datasets.simulated import simulate

FULL = {"sizes": [4000, 4000], "n_genes": 2000, "rounds": 5}
TOY = {"sizes": [100, 80], "n_genes": 50, "rounds": 2}


def product(X: np.ndarray, threads: int) -> None:
    with threadpool_limits(threads, user_api="blas"):
        X @ X.T


def run(given: Any) -> dict[str, Any]:
    batches = [
        b.X.toarray() for b in simulate(given.sizes, given.n_genes, len(given.sizes), batch_effect=EFFECT)
    ]
    X = np.concatenate(batches)
    half = [range(len(batch) // 2) for batch in batches]
    fitted = MNNCorrector(restrict=half).fit(batches)
    rest = [batch[len(batch) // 2 :] for batch in batches]
    todo: dict[str, Callable[[int], Any]] = {
        "mnn_correct": lambda n: mnn_correct(*batches, n_jobs=n),
        "application": lambda n: fitted.set_params(n_jobs=n).transform(rest),
        "matrix_product": lambda n: product(X, n),
    }
    times: dict[str, dict[int, list[float]]] = {name: {1: [], 2: []} for name in todo}
    for function in todo.values():  # first calls load and allocate
        function(1)
    for _ in range(given.rounds):
        for name, function in todo.items():
            for n in (1, 2):
                times[name][n].append(seconds(lambda f=function, n=n: f(n)))
    figures: dict[str, Any] = {}
    for name, of in times.items():
        figures[name] = {f"{n}_threads_s": round(median(of[n]), 4) for n in (1, 2)}
        ratios = [one / two for one, two in zip(of[1], of[2], strict=True)]
        figures[name]["speed_up"] = round(median(ratios), 3)
    return figures


def main(given: Sequence[str] | None = None) -> None:
    benchmark("threads", __doc__, run, FULL, TOY, given)


if __name__ == "__main__":
    main()
