"""Time and memory of a fit in memory against the number of batches, with as many cells in all.

``python -m benchmarks.donors --json donors.json``. Each case is a process of its own; its first, small call
compiles and does not count. Prints a Markdown table.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import measured
from benchmarks.quality import table_of
from benchmarks.report import benchmark

FULL = {
    "cells": 40_000,
    "genes": 1000,
    "batches": [2, 20, 200, 1000],
    "in_genes": [2, 200],
    "order": "given",
}
TOY = {"cells": 240, "genes": 40, "batches": [2, 6], "in_genes": [2, 6]}
COLUMNS = {
    "distances": "distances in",
    "batches": "batches",
    "cells": "cells",
    "seconds": "fit and application, s",
    "times": "of 2 batches",
    "peak_mb": "peak, MB",
    "peak_times": "of 2 batches",
}


def run(given: Any) -> list[dict[str, Any]]:
    wanted = [("components", given.batches), ("components, recommended", given.batches)]
    rows: list[dict[str, Any]] = []
    for distances, numbers in [*wanted, ("genes", given.in_genes)]:
        own = [_measured(distances, n, given) for n in numbers]
        first = own[0]
        rows += [
            row
            | {
                "times": round(row["seconds"] / first["seconds"], 2),
                "peak_times": round(row["peak_mb"] / first["peak_mb"], 2),
            }
            for row in own
        ]
    return rows


def _measured(distances: str, n_batches: int, given: Any) -> dict[str, Any]:
    """Time and peak memory of one case, in a process of its own."""
    case = {"distances": distances, "batches": n_batches, "cells": given.cells, "genes": given.genes}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "seconds.json"
        asked = json.dumps(case | {"order": given.order, "output": str(output)})
        process = measured(["-m", "benchmarks.donors_case", asked])
        return case | json.loads(output.read_text()) | {"peak_mb": process["peak_mb"]}


def main(given: Sequence[str] | None = None) -> None:
    benchmark("donors", __doc__, run, FULL, TOY, given, show=lambda rows: table_of(rows, COLUMNS))


if __name__ == "__main__":
    main()
