"""Corrections that `benchmarks.calibration` compares: cells and their parts in, corrected cells out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from benchmarks.integration_methods import harmonised
from mnndask import RECOMMENDED, mnn_correct


@dataclass
class Corrected:
    """Corrected values, and the mean factor of the vectors of each merge, where vectors are shrunk.

    Parameters
    ----------
    values
        Of genes, or of the components that the method was given.
    factors
        One for each merge.
    """

    values: np.ndarray
    factors: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Method:
    """A correction and what it needs.

    Parameters
    ----------
    run
        Function of log-normalised cells, their parts, the components of these cells and a seed.
    scale
        Of the values that it returns: ``"cosine"`` (each cell has length 1) or ``"log"``.
    needs
        A library.
    keeps_first
        Whether the first part never moves.
    in_genes
        Whether it returns genes.
    """

    run: Callable[[np.ndarray, np.ndarray, np.ndarray, int], Corrected]
    scale: str = "cosine"
    needs: str | None = None
    keeps_first: bool = True
    in_genes: bool = True


def ours(**options: Any) -> Callable[[np.ndarray, np.ndarray, np.ndarray, int], Corrected]:
    """`mnn_correct` with these parameters, fitted on all cells unless they say otherwise."""
    options = {"sketch_size": None, "diagnostics": False, "n_jobs": 1} | options

    def run(X: np.ndarray, part: np.ndarray, _: np.ndarray, seed: int) -> Corrected:
        batches = [AnnData(X[part == p]) for p in range(part.max() + 1)]
        result = mnn_correct(*batches, random_state=seed, **options)[0]
        values = np.empty_like(X)
        values[np.argsort(part, kind="stable")] = result.X
        return Corrected(values, list(result.uns["mnn"]["steps"].get("effect", [np.nan])[1:]))

    return run


def harmonypy(_: np.ndarray, part: np.ndarray, components: np.ndarray, seed: int) -> Corrected:
    return Corrected(harmonised(components, part, seed))


def scanorama(X: np.ndarray, part: np.ndarray, _: np.ndarray, seed: int) -> Corrected:
    cells = [sparse.csr_matrix(X[part == p]) for p in range(part.max() + 1)]
    names = [[f"gene{g}" for g in range(X.shape[1])]] * len(cells)
    corrected, genes = import_module("scanorama").correct(cells, names, verbose=False, seed=seed)
    values = np.empty_like(X)
    in_order = np.argsort([int(name.removeprefix("gene")) for name in genes])  # it sorts genes by name
    values[np.argsort(part, kind="stable")] = sparse.vstack(corrected).toarray()[:, in_order]
    return Corrected(values)


PUBLISHED = "published defaults"
REFINED = "recommended"
METHODS = {
    PUBLISHED: Method(ours()),
    REFINED: Method(ours(**RECOMMENDED)),
    f"{REFINED}, sketches": Method(ours(**RECOMMENDED | {"sketch_size": 400, "sketch_method": "random"})),
    "sigma 0.1 in genes": Method(ours(sigma=0.1)),
    "k 100 in 50 components": Method(ours(n_components=50, k=100, sigma=0.15)),
    "harmonypy": Method(harmonypy, needs="harmonypy", keeps_first=False, in_genes=False),
    "scanorama": Method(scanorama, needs="scanorama", keeps_first=False),
    f"{PUBLISHED}, log": Method(ours(cos_norm_out=False), "log"),
    f"{REFINED}, log": Method(ours(**RECOMMENDED, cos_norm_out=False), "log"),
    "harmonypy, log": Method(harmonypy, "log", needs="harmonypy", keeps_first=False, in_genes=False),
}
