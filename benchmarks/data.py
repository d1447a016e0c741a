"""Simulated data in files, kept between benchmarks if a folder for it is given."""

from __future__ import annotations

import sys
from pathlib import Path

import zarr

from mnndask.datasets.simulated import simulate_to_zarr

# Far stronger than real effects, and the only one before it became an option: published figures are of it.
EFFECT = 0.45


def stored(folder: Path, n_cells: int | list[int], n_genes: int, n_batches: int) -> list[Path]:
    """Paths of batches in a folder, simulated there unless they already exist."""
    if not (folder / "batch0.zarr").exists():
        return simulate_to_zarr(folder, n_cells, n_genes, n_batches, batch_effect=EFFECT)
    paths = [folder / f"batch{b}.zarr" for b in range(len(list(folder.glob("batch*.zarr"))))]
    shapes = [zarr.open_group(path, mode="r")["X"].attrs["shape"] for path in paths]
    wanted = n_cells if isinstance(n_cells, int) else sum(n_cells)
    found = sum(n for n, _ in shapes)
    if (found, len(paths), shapes[0][1]) != (wanted, n_batches, n_genes):
        sys.exit(
            f"{folder} contains {found} cells x {shapes[0][1]} genes in {len(paths)} batches, not {wanted}"
        )
    return paths
