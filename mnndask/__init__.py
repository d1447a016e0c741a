"""Mutual nearest neighbours correction of single-cell data that need not fit in memory."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnndask import datasets, errors, metrics, pl
    from mnndask.correct import mnn_correct
    from mnndask.corrector import MNNCorrector
    from mnndask.model import CorrectionModel, MergeStep

__all__ = [
    "CorrectionModel",
    "MNNCorrector",
    "MergeStep",
    "datasets",
    "errors",
    "metrics",
    "mnn_correct",
    "pl",
]
__version__ = version("mnndask")

# Loaded when first asked for, so that the command can be interrupted in good order from its start.
_MODULE_OF = {
    "CorrectionModel": "mnndask.model",
    "MNNCorrector": "mnndask.corrector",
    "MergeStep": "mnndask.model",
    "mnn_correct": "mnndask.correct",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        what = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(what)
    module = import_module(_MODULE_OF.get(name, f"{__name__}.{name}"))
    globals()[name] = out = getattr(module, name) if name in _MODULE_OF else module
    return out


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
