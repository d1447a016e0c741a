"""Mutual nearest neighbours correction of single-cell data that need not fit in memory."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnndask._version import __version__

if TYPE_CHECKING:
    from mnndask import datasets, errors, metrics, pl, pp
    from mnndask._choices import RECOMMENDED
    from mnndask.api.correct import mnn_correct
    from mnndask.api.corrector import MNNCorrector
    from mnndask.api.write import write_zarr
    from mnndask.core.model import CorrectionModel
    from mnndask.core.step import MergeStep

__all__ = [
    "RECOMMENDED",
    "CorrectionModel",
    "MNNCorrector",
    "MergeStep",
    "__version__",
    "datasets",
    "errors",
    "metrics",
    "mnn_correct",
    "pl",
    "pp",
    "write_zarr",
]

# Loaded on first access, so that the command can be interrupted cleanly from its start.
_MODULE_OF = {
    "RECOMMENDED": "mnndask._choices",
    "CorrectionModel": "mnndask.core.model",
    "MNNCorrector": "mnndask.api.corrector",
    "MergeStep": "mnndask.core.step",
    "mnn_correct": "mnndask.api.correct",
    "write_zarr": "mnndask.api.write",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        what = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(what)
    module = import_module(_MODULE_OF.get(name, f"{__name__}.{name}"))
    globals()[name] = out = getattr(module, name) if name in _MODULE_OF else module
    return out


def __dir__() -> list[str]:
    return sorted(__all__)
