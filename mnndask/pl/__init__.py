"""Pictures of a correction. Each function takes the corrected AnnData, draws on an Axes, and returns it.

They show the cells that the correction was measured on (``uns["mnn"]["sample"]``), so they are as quick for
millions of cells, and read nothing of ``X``. Needs matplotlib: ``pip install "mnndask[plot]"``.
"""

from mnndask.pl.cells import correction_length, variance_factor
from mnndask.pl.embeddings import embedding, pairs
from mnndask.pl.measures import merge_overview, mixing

__all__ = ["correction_length", "embedding", "merge_overview", "mixing", "pairs", "variance_factor"]
