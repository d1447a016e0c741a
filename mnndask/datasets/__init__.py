"""Simulated data sets of any size, in memory or streamed to files."""

from mnndask.datasets.simulated import simulate, simulate_to_zarr

__all__ = ["simulate", "simulate_to_zarr"]


def __dir__() -> list[str]:
    return sorted(__all__)
