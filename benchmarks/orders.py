"""Orders and trees of merges: how simulated batches mix in each, and what stays of an effect of condition.

``python -m benchmarks.orders --json orders.json``. Batches lack types at random. In the nested design, donors
of ten studies have batch effects of their own beside those of their studies, and half of each donor's cells
have a condition. Prints a Markdown table.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np

from benchmarks.quality import table_of
from benchmarks.report import benchmark
from mnndask import RECOMMENDED, mnn_correct
from mnndask._typing import Floats
from mnndask.core.cosine import cosine_lengths
from mnndask.datasets.simulated import simulate
from mnndask.metrics import label_agreement, label_transfer, lisi, same_batch_fraction

NESTED = "nested"
N_TYPES, N_MISSING, N_COMPONENTS = 10, 2, 50
BATCH_EFFECT, STUDY_EFFECT, CONDITION_EFFECT = 0.4, 0.3, 0.6
CONDITION_GENES = 0.05  # share of genes that the condition changes
FULL = {
    "n_batches": [8, 20, 50],
    "cells": 200,
    "studies": 10,
    "donors": 8,
    "n_genes": 1000,
    "seeds": [0, 1, 2],
}
TOY = {"n_batches": [3], "cells": 40, "studies": 2, "donors": 2, "n_genes": 60, "seeds": [0]}
ORDERS: dict[str, dict[str, Any]] = {
    "given": {},
    "auto": {"mnn_order": "auto"},
    "share": {"mnn_order": "share"},
    "tree": {"mnn_order": "tree"},
}
IN_STUDIES: dict[str, dict[str, Any]] = {
    f"{name}, in studies first": options | {"batch_key": ["study", "donor"]}
    for name, options in ORDERS.items()
    if name in ("given", "tree")
}
COLUMNS = {
    "set": "set",
    "order": "order",
    "lisi": "iLISI",
    "same_batch": "same batch",
    "transfer": "transfer",
    "agreement": "agreement",
    "fold_changes": "fold changes kept",
    "warned": "confounding warned of",
    "seconds": "s",
}


@dataclass
class Simulated:
    """Labelled batches in one AnnData."""

    name: str
    adata: ad.AnnData
    orders: dict[str, dict[str, Any]]


def apart(n_batches: int, cells: int, n_genes: int, seed: int) -> Simulated:
    """Batches that lack some types each."""
    rng = np.random.default_rng([seed, n_batches])
    effect = {"n_types": N_TYPES, "counts_per_gene": 1.0}
    batches = simulate(cells * n_batches, n_genes, n_batches, batch_effect=BATCH_EFFECT, seed=seed, **effect)
    kept = []
    for i, batch in enumerate(batches):
        missing = [f"type{t}" for t in rng.choice(N_TYPES, N_MISSING, replace=False)]
        kept.append(batch[~batch.obs["cell_type"].isin(missing)].copy())
        kept[-1].obs["donor"] = f"d{i}"
    return Simulated(f"{n_batches} batches", ad.concat(kept, index_unique="-"), ORDERS)


def nested(studies: int, donors: int, cells: int, n_genes: int, seed: int) -> Simulated:
    """Donors of several studies, with effects of both, and a condition of half of each donor's cells."""
    rng = np.random.default_rng([seed, studies, donors])
    whole = apart(studies * donors, cells, n_genes, seed).adata
    donor = whole.obs["donor"].str[1:].astype(int).to_numpy()
    study = rng.permutation(studies * donors)[donor] % studies
    ill = rng.random(whole.n_obs) < 0.5
    X = whole.X.toarray()
    X += rng.normal(0, STUDY_EFFECT, (studies, n_genes)).astype(X.dtype)[study]
    changed = rng.permutation(n_genes)[: max(1, int(CONDITION_GENES * n_genes))]
    X[np.ix_(ill, changed)] += X.dtype.type(CONDITION_EFFECT)
    whole.X = np.maximum(X, 0)
    whole.obs["study"] = [f"s{s}" for s in study]
    whole.obs["condition"] = np.where(ill, "ill", "healthy")
    whole.obs["treatment"] = np.where(donor % 2 == 0, "a", "b")  # nothing can tell it from the donors
    return Simulated(NESTED, whole, ORDERS | IN_STUDIES)


def measured(data: Simulated, options: dict[str, Any]) -> dict[str, Any]:
    """Measures of one correction."""
    adata, is_nested = data.adata, data.name == NESTED
    protected = {"protect": "treatment"} if is_nested else {"genes": "none"}
    settings: dict[str, Any] = dict(RECOMMENDED) | {"batch_key": "donor", "sketch_size": 5000} | options
    settings["n_components"] = min(N_COMPONENTS, adata.n_vars // 2)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        corrected, _, _ = mnn_correct(adata, diagnostics=False, **settings, **protected)
    took = time.perf_counter() - start
    cells = np.asarray(corrected.obsm["X_mnn"])
    labels, donors = adata.obs["cell_type"].astype(str), adata.obs["donor"]
    out = {
        "lisi": float(np.mean(lisi(cells, donors))),
        "same_batch": float(np.mean(same_batch_fraction(cells, donors))),
        "transfer": float(np.nanmean(label_transfer(cells, labels, donors))),
        "agreement": float(np.mean(label_agreement(cells, labels))),
        "seconds": round(took, 2),
    }
    if is_nested:
        before = adata.X / cosine_lengths(adata.X)[:, None]
        states = [fold_changes(X, adata) for X in (before, np.asarray(corrected.X))]
        out["fold_changes"] = float(np.corrcoef(*states)[0, 1])
        out["warned"] = float(any("'treatment'" in str(w.message) for w in caught))
    return out


def fold_changes(X: Floats, adata: ad.AnnData) -> Floats:
    """Mean difference between conditions within donors, of each gene."""
    ill, donors = (adata.obs["condition"] == "ill").to_numpy(), adata.obs["donor"].to_numpy()
    own = [
        X[(donors == d) & ill].mean(axis=0) - X[(donors == d) & ~ill].mean(axis=0) for d in np.unique(donors)
    ]
    out: Floats = np.mean(own, axis=0)
    return out


def run(given: Any) -> list[dict[str, Any]]:
    rows = []
    for seed in given.seeds:
        sets = [apart(n, given.cells, given.n_genes, seed) for n in given.n_batches]
        sets.append(nested(given.studies, given.donors, given.cells, given.n_genes, seed))
        for data in sets:
            for order, options in data.orders.items():
                rows.append({"set": data.name, "order": order} | measured(data, options))
    return [_mean(rows, *key) for key in dict.fromkeys((row["set"], row["order"]) for row in rows)]


def _mean(rows: list[dict[str, Any]], name: str, order: str) -> dict[str, Any]:
    """Means over seeds."""
    own = [row for row in rows if (row["set"], row["order"]) == (name, order)]
    return own[0] | {key: float(np.mean([row[key] for row in own])) for key in list(own[0])[2:]}


def main(given: Sequence[str] | None = None) -> None:
    benchmark("orders", __doc__, run, FULL, TOY, given, show=lambda rows: table_of(rows, COLUMNS))


if __name__ == "__main__":
    main()
