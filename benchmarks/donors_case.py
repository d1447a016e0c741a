"""One case of :mod:`benchmarks.donors`: corrects simulated donors, and writes the seconds that it took."""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mnndask import RECOMMENDED, mnn_correct
from mnndask._typing import Floats

N_TYPES = 12
SETTINGS: dict[str, dict[str, Any]] = {
    "components": {"n_components": 50},
    "components, recommended": dict(RECOMMENDED),
    "genes": {},
}


def donors(n_cells: int, n_genes: int, n_batches: int) -> list[Floats]:
    """Log-transformed counts of cells of some types, with an offset of each donor."""
    rng, sizes = np.random.default_rng(0), [n_cells // n_batches] * n_batches
    means = rng.gamma(1, 2, (N_TYPES, n_genes)).astype(np.float32)
    out = []
    for n in sizes:
        counts = rng.poisson(means[rng.integers(0, N_TYPES, n)])
        offset = rng.normal(0, 0.2, n_genes).clip(0)
        out.append(np.log1p(counts, dtype=np.float32) + offset.astype(np.float32))
    return out


def main() -> None:
    case = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    data = donors(case["cells"], case["genes"], case["batches"])
    settings = SETTINGS[case["distances"]]
    mnn_correct(*(X[:60] for X in data[:2]), **settings | {"n_components": None} | settings, sketch_size=None)
    order = None if case["order"] == "given" else case["order"]
    start = time.perf_counter()
    mnn_correct(*data, **settings, sketch_size=5000, mnn_order=order)
    Path(case["output"]).write_text(json.dumps({"seconds": round(time.perf_counter() - start, 2)}))


if __name__ == "__main__":
    main()
