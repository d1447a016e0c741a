"""Before a correction: files of several labs, opened lazily. And corrections in place, of one AnnData."""

from mnndask.pp.integrate import mnn_integrate
from mnndask.pp.open_batches import open_batches

__all__ = ["mnn_integrate", "open_batches"]


def __dir__() -> list[str]:
    return sorted(__all__)
