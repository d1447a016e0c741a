"""Corrections that `benchmarks.integration` compares: batches in, coordinates of all cells out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.decomposition import PCA

from benchmarks.integration_data import N_COMPONENTS, Labelled
from benchmarks.memory import Sampler, tree_bytes
from mnndask import RECOMMENDED, MNNCorrector, mnn_correct
from mnndask.metrics import embed


@dataclass
class Coordinates:
    """Coordinates of all cells after a correction, and before it, in the same components or like ones."""

    after: np.ndarray
    before: np.ndarray


@dataclass(frozen=True)
class Method:
    """A correction: what it returns, the library that it needs, and functions of a set and a seed.

    `run` is timed; `coordinates` turns what it returned into coordinates of the cells.
    """

    gives: str
    run: Callable[[Labelled, int], Any]
    coordinates: Callable[[Labelled, Any], Coordinates]
    needs: str | None = None


def genes(data: Labelled, parts: Sequence[Any]) -> Coordinates:
    """Components of corrected genes, alike for all methods that return genes."""
    X = [part.toarray() if sparse.issparse(part) else np.asarray(part) for part in parts]
    return Coordinates(embed(np.concatenate(X), N_COMPONENTS), data.uncorrected)


def embedding(data: Labelled, result: tuple[ad.AnnData, MNNCorrector]) -> Coordinates:
    """Corrected cells in the components in which pairs were found: stored, or projected from the genes."""
    corrected, corrector = result
    project = corrector.model_.components_in.project  # of all genes, which are all used for distances
    stored = corrected.obsm.get("X_mnn")
    after = project(np.asarray(corrected.X)) if stored is None else np.asarray(stored)
    return Coordinates(after, project(data.normalised))


def recommended(data: Labelled, seed: int, **options: Any) -> tuple[ad.AnnData, MNNCorrector]:
    options = {"sketch_size": None} | dict(RECOMMENDED) | options
    corrector = MNNCorrector(**options, random_state=seed)
    return corrector.fit_transform(data.batches), corrector


def sketched(size: int) -> Method:
    """The recommended settings, fitted on a random sketch of each batch."""
    options = {"sketch_size": size, "sketch_method": "random"}
    return Method("embedding", lambda data, seed: recommended(data, seed, **options), embedding)


def published(data: Labelled, seed: int) -> list[np.ndarray]:
    return [mnn_correct(*data.batches, sketch_size=None, random_state=seed)[0].X]


def harmonypy(data: Labelled, seed: int) -> Coordinates:
    """From components of log-normalised values, as its users give them."""
    X = sparse.vstack([batch.X for batch in data.batches]).toarray()
    components = PCA(min(N_COMPONENTS, *X.shape), random_state=seed).fit_transform(X)
    return Coordinates(harmonised(components, data.batch, seed), components)


def harmonised(components: np.ndarray, batch: np.ndarray, seed: int) -> np.ndarray:
    """Cells by components; version 1 returns components by cells."""
    table = pd.DataFrame({"batch": batch.astype(str)})
    call = import_module("harmonypy").run_harmony
    found = np.asarray(call(components, table, "batch", random_state=seed, verbose=False).Z_corr)
    return found if found.shape == components.shape else found.T


def scanorama(data: Labelled, seed: int) -> tuple[list[np.ndarray], list[Any]]:
    """Embedding and genes, which it returns in one call."""
    matrices = [sparse.csr_matrix(batch.X) for batch in data.batches]
    names = [list(batch.var_names) for batch in data.batches]
    call = import_module("scanorama").correct
    reduced, corrected, _ = call(matrices, names, return_dimred=True, verbose=False, seed=seed)
    return reduced, corrected


def scranpy(data: Labelled, _: int) -> Coordinates:
    """From its own components, in which each batch weighs the same."""
    library, X = import_module("scranpy"), sparse.vstack([batch.X for batch in data.batches], format="csr")
    number, jobs = min(N_COMPONENTS, min(X.shape) - 1), os.cpu_count()
    components = library.run_pca(X.T, number=number, block=data.batch, num_threads=jobs)["components"]
    found = library.correct_mnn(components, data.batch, num_threads=jobs)["corrected"]
    return Coordinates(np.asarray(found).T, np.asarray(components).T)


def as_they_are(_: Labelled, result: Coordinates) -> Coordinates:
    return result


METHODS = {
    "uncorrected": Method("", lambda data, _: Coordinates(data.uncorrected, data.uncorrected), as_they_are),
    "published defaults": Method("genes", published, genes),
    "recommended, genes": Method("genes", recommended, lambda data, result: genes(data, [result[0].X])),
    "recommended, embedding": Method("embedding", recommended, embedding),
    "harmonypy": Method("embedding", harmonypy, as_they_are, "harmonypy"),
    "scanorama, genes": Method("genes", scanorama, lambda data, both: genes(data, both[1]), "scanorama"),
    "scanorama, embedding": Method(
        "embedding",
        scanorama,
        lambda data, both: Coordinates(np.concatenate(both[0]), data.uncorrected),
        "scanorama",
    ),
    "scranpy": Method("embedding", scranpy, as_they_are, "scranpy"),
}


def why_not(library: str | None) -> str | None:
    """Why a library cannot be used; None if it can."""
    try:
        import_module(library or "mnndask")
    except Exception as error:  # whatever is wrong with it, the others are compared
        return f"cannot be imported: {type(error).__name__}: {str(error).splitlines()[0]}"
    return None


@dataclass
class Runs:
    """Runs of methods on one set with one seed; two methods with the same call share it."""

    data: Labelled
    seed: int

    def __post_init__(self) -> None:
        self._done: dict[Any, tuple[Any, dict[str, float]]] = {}

    def of(self, method: Method) -> tuple[Coordinates, dict[str, float]]:
        """Coordinates, and what the call took: processor time, and megabytes above those before it."""
        if method.run not in self._done:
            before = tree_bytes(os.getpid())
            with Sampler(os.getpid()) as sampler, redirect_stdout(sys.stderr):
                start = time.process_time()
                result = method.run(self.data, self.seed)
                taken = {"cpu_seconds": time.process_time() - start}
            taken["mb"] = max(0.0, (sampler.peak - before) / 1e6)
            self._done[method.run] = result, taken
        result, taken = self._done[method.run]
        return method.coordinates(self.data, result), taken
