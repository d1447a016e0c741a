"""Mutual nearest neighbours correction of single-cell data that need not fit in memory."""

from importlib.metadata import version

from mnndask import datasets, errors, metrics
from mnndask.correct import mnn_correct
from mnndask.corrector import MNNCorrector
from mnndask.model import CorrectionModel, MergeStep

__all__ = ["CorrectionModel", "MNNCorrector", "MergeStep", "datasets", "errors", "metrics", "mnn_correct"]
__version__ = version("mnndask")
