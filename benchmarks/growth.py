"""Time against cells, genes, sketch size and batches, varied one at a time, and the power of its growth.

``python -m benchmarks.growth --json growth.json --plot growth.png``. From sparse zarr to zarr; fit and
application are timed separately. Prints a Markdown table.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import stored
from benchmarks.quality import table_of
from benchmarks.report import benchmark
from mnndask import mnn_correct
from mnndask.api.write import write_zarr

BASE = {"cells": 20_000, "genes": 2000, "sketch": 2000, "batches": 4}
FULL = {
    "cells": [20_000, 60_000, 200_000, 1_000_000],
    "genes": [500, 1000, 2000, 4000],
    "sketch": [1000, 2000, 4000],
    "batches": [2, 4, 10, 20],
    "base": list(BASE.values()),
    "memory_limit": "2GB",
    "data": None,
    "plot": None,
}
TOY = {
    "cells": [200, 400],
    "genes": [30, 60],
    "sketch": [20, 40],
    "batches": [2, 4],
    "base": [200, 40, 30, 2],
}
COLUMNS = {
    "varied": "varied",
    **{name: name for name in BASE},
    "fit_s": "fit, s",
    "apply_s": "application, s",
    "fit_power": "power of the fit",
    "apply_power": "of the application",
}


def one(size: dict[str, int], memory_limit: str, data: Path) -> dict[str, Any]:
    folder = data / "-".join(str(size[name]) for name in ("cells", "genes", "batches"))
    paths = stored(folder, size["cells"], size["genes"], size["batches"])
    start = time.perf_counter()
    result, _, _ = mnn_correct(*paths, sketch_size=size["sketch"], memory_limit=memory_limit)
    fitted = time.perf_counter()
    write_zarr(result, data / "out.zarr", overwrite=True)
    return size | {"fit_s": fitted - start, "apply_s": time.perf_counter() - fitted}


def with_powers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to the rows of one quantity the power with which times grow: the slope on logarithmic axes."""
    varied = np.log([row[rows[0]["varied"]] for row in rows])
    powers = {
        f"{part}_power": round(float(np.polyfit(varied, np.log([row[f"{part}_s"] for row in rows]), 1)[0]), 2)
        for part in ("fit", "apply")
    }
    return [*rows[:-1], rows[-1] | powers]


def run(given: Any) -> list[dict[str, Any]]:
    base = dict(zip(BASE, given.base, strict=True))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = given.data or Path(folder)
        one(base, given.memory_limit, data)  # compiles and fills caches
        for name in BASE:
            sizes = [base | {name: value} for value in getattr(given, name)]
            rows += with_powers([{"varied": name} | one(size, given.memory_limit, data) for size in sizes])
    if given.plot:
        draw(rows, given.plot)
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(BASE), figsize=(4 * len(BASE), 3.4), layout="constrained", sharey=True)
    for ax, name in zip(axes, BASE, strict=True):
        own = [row for row in rows if row["varied"] == name]
        x = [row[name] for row in own]
        for part, label, marker in (("fit", "fit", "o"), ("apply", "application", "s")):
            y = [row[f"{part}_s"] for row in own]
            ax.loglog(x, y, marker=marker, label=f"{label}, power {own[-1][f'{part}_power']:.2f}")
        ax.set_xticks(x, [f"{value:,}" for value in x], minor=False)
        ax.minorticks_off()
        ax.set(xlabel=name, title=f"time against {name}")
        ax.legend(frameon=False, loc="upper left")
    axes[0].set_ylabel("seconds")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(given: Sequence[str] | None = None) -> None:
    benchmark("growth", __doc__, run, FULL, TOY, given, show=lambda rows: table_of(rows, COLUMNS))


if __name__ == "__main__":
    main()
