"""Corrections in place, of one AnnData, as scanpy's preprocessing functions have them."""

from mnndask.pp.integrate import mnn_integrate

__all__ = ["mnn_integrate"]


def __dir__() -> list[str]:
    return sorted(__all__)
