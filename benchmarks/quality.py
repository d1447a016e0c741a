"""Cost of a sketch in quality: mixing, label transfer and correction vectors, compared with all cells.

``python -m benchmarks.quality --json quality.json``. Data are simulated batches, and the real ones of
``--real``: the scmixology batches, by default those in $MNNDASK_DATA or ../shared/data; skipped if missing.
Prints a Markdown table of means over the sketches of ``--random-states``, ± the largest deviation from them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

from benchmarks.data import EFFECT
from benchmarks.report import benchmark
from mnndask import mnn_correct
from mnndask.core.cosine import cosine_lengths
from mnndask.datasets.simulated import simulate
from mnndask.metrics import embed, expected_same_batch, label_transfer, same_batch_fraction

DATA = Path(os.environ.get("MNNDASK_DATA", Path(__file__).parents[2] / "shared" / "data"))
ORDER = ["sc_celseq2_5cl_p3", "sc_celseq2_5cl_p2", "sc_celseq2_5cl_p1", "sc_celseq2", "sc_dropseq"]
RARE = 0.005  # a type with a smaller share of cells is rare
FULL = {
    "sizes": [20_000, 20_000, 20_000],
    "n_genes": 2000,
    "n_types": 18,
    "counts_per_gene": 0.25,
    "seed": 0,
    "sigmas": [1.0, 0.1],
    "sketch_sizes": [5000],
    "methods": ["mixed", "geometric", "random"],
    "random_states": [0],
    "real": DATA / "scmixology",
    "real_sketch_sizes": [100],
}
TOY = {
    "sizes": [150, 150, 150],
    "n_genes": 60,
    "counts_per_gene": 2.0,
    "sketch_sizes": [100],
    "real": Path("none"),
}
COLUMNS = {
    "data": "data",
    "sigma": "sigma",
    "cells": "fitted on",
    "seconds": "seconds",
    "same_batch": "same batch",
    "transfer": "label transfer",
    "transfer_rare": "of rare types",
    "error": "error of vectors",
    "cosine": "their cosine",
}


@dataclass
class Case:
    """Batches of one origin, with their labels and normalised values."""

    name: str
    batches: list[ad.AnnData]
    label: str
    sketch_sizes: list[int]
    subset: list[str] | None = None

    def __post_init__(self) -> None:
        self.labels = np.concatenate([b.obs[self.label].astype(str) for b in self.batches])
        sizes = [b.n_obs for b in self.batches]
        self.batch = np.repeat(np.arange(len(sizes)), sizes)
        _, codes, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        self.rare = (counts / len(codes) < RARE)[codes]
        genes = self.batches[0].var_names
        self.near = np.ones(len(genes), bool) if self.subset is None else genes.isin(self.subset)
        raw = np.concatenate([np.asarray(b.X[:, self.near].todense(), np.float32) for b in self.batches])
        self.normalised = raw / cosine_lengths(raw)[:, None].astype(np.float32)

    def corrected(self, **chosen: Any) -> tuple[np.ndarray, float]:
        """Corrected values of the genes used for distances, and the time of the call."""
        start = time.perf_counter()
        result, _, _ = mnn_correct(*self.batches, var_subset=self.subset, **chosen)
        return np.asarray(result.X[:, self.near]), time.perf_counter() - start

    def mixing(self, X: np.ndarray) -> dict[str, float | None]:
        embedding = embed(X)
        transfer = label_transfer(embedding, self.labels, self.batch)
        rare = transfer[self.rare]
        return {
            "same_batch": float(same_batch_fraction(embedding, self.batch).mean()),
            "transfer": float(np.nanmean(transfer)),
            "transfer_rare": float(np.nanmean(rare)) if np.isfinite(rare).any() else None,
        }


def compared(V: np.ndarray, against: np.ndarray) -> dict[str, float]:
    """Relative error and mean cosine of correction vectors; the cosine is over the cells that are moved."""
    lengths = np.linalg.norm(V, axis=1) * np.linalg.norm(against, axis=1)
    moved = lengths > 0
    cosines = np.einsum("ij,ij->i", V[moved], against[moved]) / lengths[moved]
    return {
        "error": float(np.linalg.norm(V - against) / np.linalg.norm(against)),
        "cosine": float(cosines.mean()),
    }


def over_sketches(drawn: list[dict[str, float | None]]) -> dict[str, Any]:
    """Means over sketches, and of several the largest deviation from it."""
    out: dict[str, Any] = {}
    for key in drawn[0]:
        known = [figures[key] for figures in drawn if figures[key] is not None]
        out[key] = float(np.mean(known)) if known else None
        if len(known) > 1 and key != "seconds":
            out[f"{key}_deviation"] = float(np.abs(np.subtract(known, out[key])).max())
    return out


def rows_of(
    case: Case, sigmas: list[float], methods: list[str], states: list[int]
) -> Iterator[dict[str, Any]]:
    evenly = float(np.nanmean(expected_same_batch(case.batch, case.labels)))
    yield {"data": case.name, "cells": "evenly mixed", "same_batch": evenly}
    yield {"data": case.name, "cells": "uncorrected"} | case.mixing(case.normalised)
    for sigma in sigmas:
        X, seconds = case.corrected(sigma=sigma, sketch_size=None)
        all_cells = X - case.normalised
        about = {"data": case.name, "sigma": sigma}
        yield about | {"cells": "all cells", "seconds": seconds} | case.mixing(X)
        for size in case.sketch_sizes:
            for method in methods:
                drawn = []
                for state in states:
                    chosen = {"sketch_size": size, "sketch_method": method, "random_state": state}
                    X, seconds = case.corrected(sigma=sigma, **chosen)
                    drawn.append(
                        {"seconds": seconds} | case.mixing(X) | compared(X - case.normalised, all_cells)
                    )
                yield about | {"cells": f"{size:,} a batch, {method}"} | over_sketches(drawn)


def cases(given: Any) -> Iterator[Case]:
    of = {"n_types": given.n_types, "counts_per_gene": given.counts_per_gene, "seed": given.seed}
    simulated = simulate(given.sizes, given.n_genes, len(given.sizes), batch_effect=EFFECT, **of)
    yield Case("simulated", simulated, "cell_type", given.sketch_sizes)
    if given.real.is_dir():
        real = [ad.read_h5ad(given.real / f"{name}.h5ad") for name in ORDER]
        subset = list(real[0].var_names[real[0].var["highly_variable"]])
        yield Case("scmixology", real, "cell_line", given.real_sketch_sizes, subset)


def table(rows: list[dict[str, Any]]) -> str:
    return table_of(rows, COLUMNS)


def table_of(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Markdown table of the given columns."""
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[_cell(row, key) for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: dict[str, Any], key: str) -> str:
    value, deviation = row.get(key), row.get(f"{key}_deviation")
    if value is None:
        return ""
    if isinstance(value, str | int) or key == "sigma":
        return str(value)
    shown = f"{value:.1f}" if key == "seconds" else f"{value:.3f}"
    return shown if deviation is None else f"{shown} ± {deviation:.3f}"


def run(given: Any) -> list[dict[str, Any]]:
    asked = given.sigmas, given.methods, given.random_states
    return [row for case in cases(given) for row in rows_of(case, *asked)]


def main(given: Sequence[str] | None = None) -> None:
    benchmark("quality", __doc__, run, FULL, TOY, given, show=table)


if __name__ == "__main__":
    main()
