"""Plots of a correction. Each function takes the corrected AnnData, draws on an Axes and returns the Axes.

The plots show the sample of cells recorded with the correction (``uns["mnn"]["sample"]``), so they are as
fast for millions of cells, and do not read ``X``. Requires matplotlib: ``pip install "mnndask[plot]"``.
"""

from mnndask.pl.cells import correction_length, variance_factor
from mnndask.pl.embeddings import embedding, pairs
from mnndask.pl.measures import merge_overview, mixing

__all__ = ["correction_length", "embedding", "merge_overview", "mixing", "pairs", "variance_factor"]


def __dir__() -> list[str]:
    return sorted(__all__)
