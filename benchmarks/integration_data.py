"""Sets of labelled batches for `benchmarks.integration`: simulated ones, and given files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata as ad
import numpy as np

from mnndask.core.cosine import cosine_lengths
from mnndask.datasets.simulated import simulate
from mnndask.metrics import embed

N_COMPONENTS = 50
LARGE = "large"  # for sketches
GIVEN = "given"
Batches = list[ad.AnnData]


@dataclass(eq=False)
class Labelled:
    """Batches, whose genes are those that all methods use, with the label and batch of each cell."""

    name: str
    batches: Batches
    labels: np.ndarray

    def __post_init__(self) -> None:
        sizes = [batch.n_obs for batch in self.batches]
        self.batch = np.repeat(np.arange(len(sizes)), sizes)

        raw = np.concatenate([batch.X.toarray() for batch in self.batches])
        self.normalised = raw / cosine_lengths(raw)[:, None].astype(raw.dtype)

    @cached_property
    def uncorrected(self) -> np.ndarray:
        """Components of the cosine-normalised cells."""
        return embed(self.normalised, N_COMPONENTS)


def without(batches: Batches, batch: int, *types: int) -> Batches:
    """The batches, one of which lacks some types."""
    names = [f"type{t}" for t in types]
    return [b[~b.obs["cell_type"].isin(names)].copy() if i == batch else b for i, b in enumerate(batches)]


def simulated_sets(n_genes: int, scale: float) -> dict[str, Callable[[int], Batches]]:
    """Simulated sets by name, each a function of the seed. In all, batches partly mix before correction."""

    def sized(sizes: Sequence[int]) -> list[int]:
        return [max(40, round(n * scale)) for n in sizes]

    def of(
        sizes: Sequence[int], n_types: int, effect: float = 0.3, counts: float = 1.0
    ) -> Callable[[int], Batches]:
        return lambda seed: simulate(
            sized(sizes),
            n_genes,
            len(sizes),
            n_types=n_types,
            counts_per_gene=counts,
            batch_effect=effect,
            seed=seed,
        )

    def of_depths(seed: int) -> Batches:
        """One tissue and the same batch effects, of which each batch is taken at a depth of its own."""
        at = [of([700, 700], 10, counts=counts)(seed) for counts in (1.5, 0.5)]
        return [at[0][0], at[1][1]]

    three = of([500, 500, 500], 12)
    return {
        "2 batches": of([700, 500], 10),
        "types missing": lambda seed: without(without(three(seed), 0, 0, 3), 1, 1, 4),
        "rare types": of([900, 800], 18),
        "unequal sizes": of([1000, 250, 100], 8),
        "unequal depths": of_depths,
        "5 batches": of([260] * 5, 10, effect=0.4),
        "20 batches": of([80] * 20, 8, effect=0.4),
        LARGE: of([6000, 6000], 18),
    }


def simulated(name: str, seed: int, n_genes: int, scale: float) -> Labelled:
    batches = simulated_sets(n_genes, scale)[name](seed)
    return labelled(name, batches, "cell_type")


def labelled(name: str, batches: Batches, label: str) -> Labelled:
    """The batches on their highly variable genes, where all mark them."""
    if all("highly_variable" in batch.var for batch in batches):
        marked = np.logical_or.reduce([batch.var["highly_variable"].to_numpy() for batch in batches])
        batches = [batch[:, marked].copy() for batch in batches]
    return Labelled(name, batches, np.concatenate([batch.obs[label].astype(str) for batch in batches]))


def given_set(paths: Sequence[Path], label: str) -> Labelled:
    """Batches of given files, in their order: the first is the reference."""
    if len(paths) < 2:
        sys.exit(f"--data names {len(paths)} file; give one for each batch, at least two")
    batches = [ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path) for path in paths]
    for path, batch in zip(paths, batches, strict=True):
        if label not in batch.obs:
            sys.exit(f"{path} has no column {label} in obs; name that of the cells' types with --label")
        if not batch.var_names.equals(batches[0].var_names):
            sys.exit(f"{path} does not have the genes of {paths[0]} in their order")
    return labelled(GIVEN, batches, label)
