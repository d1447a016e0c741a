"""How distances in principal components change quality, by number of components and sigma.

``python -m benchmarks.components --json components.json``. Data are simulated batches and the scmixology
batches, as in :mod:`benchmarks.quality`; all cells are used for fitting. Measures use 30 neighbours in 20
components of the uncorrected and the corrected cells together. Prints a Markdown table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import DATA, Case, cases, compared, table_of
from benchmarks.report import benchmark
from mnndask.metrics import contraction, embed, label_transfer, lisi, mixing_by_batch, neighbors_kept

FULL = {
    "sizes": [4000, 4000, 4000],
    "n_genes": 2000,
    "n_types": 18,
    "counts_per_gene": 0.25,
    "seed": 0,
    "sigmas": [1.0, 0.1],
    "n_components": [20, 50, 100],
    "sketch_sizes": [0],
    "real": DATA / "scmixology",
    "real_sketch_sizes": [0],
}
TOY = {"sizes": [120, 120], "n_genes": 60, "counts_per_gene": 2.0, "n_components": [5], "real": Path("none")}
COLUMNS = {
    "data": "data",
    "sigma": "sigma",
    "components": "components",
    "seconds": "seconds",
    "same_batch": "same batch",
    "worst": "worst batch, × expected",
    "lisi": "batches around a cell",
    "kept": "neighbours kept",
    "contraction": "radius after / before",
    "transfer": "label transfer",
    "cosine": "cosine of vectors",
}


def measures_of(case: Case, X: np.ndarray) -> dict[str, float]:
    """Mixing of the batches, and how far each batch kept its own structure."""
    n = len(X)
    both = embed(np.concatenate([case.normalised, X]))
    before, after = both[:n], both[n:]
    mixing = mixing_by_batch(after, case.batch, labels=case.labels)
    return {
        "same_batch": float(np.average(mixing["observed"], weights=mixing["cells"])),
        "worst": float(mixing["ratio"].iloc[0]),
        "lisi": float(lisi(after, case.batch).mean()),
        "kept": float(np.nanmean(neighbors_kept(before, after, case.batch))),
        "contraction": float(np.nanmedian(contraction(before, after, case.batch))),
        "transfer": float(np.nanmean(label_transfer(after, case.labels, case.batch))),
    }


def rows_of(case: Case, sigmas: list[float], numbers: list[int]) -> Iterator[dict[str, Any]]:
    yield {"data": case.name, "components": "uncorrected"} | measures_of(case, case.normalised)
    for sigma in sigmas:
        by_genes = None
        for n in (None, *numbers):
            X, seconds = case.corrected(sigma=sigma, sketch_size=None, n_components=n)
            V = X - case.normalised
            row = {"data": case.name, "sigma": sigma, "components": str(n or "genes"), "seconds": seconds}
            row |= measures_of(case, X)
            if by_genes is None:
                by_genes = V
            else:
                row |= compared(V, by_genes)
            yield row


def run(given: Any) -> list[dict[str, Any]]:
    return [row for case in cases(given) for row in rows_of(case, given.sigmas, given.n_components)]


def main(given: Sequence[str] | None = None) -> None:
    benchmark("components", __doc__, run, FULL, TOY, given, show=lambda rows: table_of(rows, COLUMNS))


if __name__ == "__main__":
    main()
