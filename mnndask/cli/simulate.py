"""``mnndask simulate``: write a simulated data set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mnndask.cli.terminal import say
from mnndask.datasets.simulated import simulate_to_zarr


def simulate_files(output: Path, **options: Any) -> None:
    """Write the data set, and print what was written."""
    start = time.perf_counter()
    paths = simulate_to_zarr(output, **options)
    say(
        f"simulated {options['n_cells']:,} cells x {options['n_genes']:,} genes in {len(paths)} batches "
        f"in {time.perf_counter() - start:.1f} s: {output}"
    )
