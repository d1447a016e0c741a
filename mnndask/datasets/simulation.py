"""Model of the simulated data: related cell types, batch effects and sequencing depths.

Cells of a batch are generated in groups, each with its own random stream. The data are therefore the same in
any order of generation and with any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mnndask._blocks import row_blocks

Floats32 = NDArray[np.float32]
VALUES_PER_GROUP = 2**19  # cells x genes that are dense in memory at once
MOST_VARIABLE = 2000
DECREASE = 0.85  # ratio of a type's frequency to that of the type before
RARE = (0.004, 0.002)  # shares of the two rarest types
FEWEST_TYPES_WITH_RARE = 8

# Standard deviations of natural logarithms, and shares of the variable genes that they affect.
GENES = 1.5
LINEAGE, LINEAGE_MARKERS = 1.0, 0.3
FAMILY, FAMILY_MARKERS = 0.8, 0.2
SUBTYPE, SUBTYPE_MARKERS = 1.1, 0.11
PROGRAM, PROGRAM_MARKERS, N_PROGRAMS = 0.3, 0.15, 4
BATCH_EFFECT = 0.15  # default: batches partly mix before correction, as real ones do
BATCH, BATCH_BY_LINEAGE = 0.45, 0.12  # any other effect is a multiple of this one
CELL_DEPTH, BATCH_DEPTH = 0.35, 0.25
PROPORTION = 0.4


@dataclass(frozen=True)
class Tissue:
    """Cell types shared by all batches.

    Parameters
    ----------
    log_profiles
        Logarithm of each type's expression, shape ``(n_types, n_genes)``.
    lineages
        Lineage of each type.
    programs
        Effects of cell states, which occur in all types, on log expression, shape ``(n_programs, n_genes)``.
    variable
        Whether each gene may differ between types.
    """

    log_profiles: NDArray[np.float64]
    lineages: NDArray[np.intp]
    programs: Floats32
    variable: NDArray[np.bool_]


@dataclass(frozen=True)
class SimulatedBatch:
    """One batch, whose cells are generated a group at a time.

    Parameters
    ----------
    number
        Position among the batches.
    types
        Type of each cell.
    profiles
        Expression of each type in this batch, shape ``(n_types, n_genes)``.
    programs
        See :class:`Tissue`.
    depth
        Mean number of counts per cell.
    seed
        Seed of the whole data set.
    """

    number: int
    types: NDArray[np.int16]
    profiles: Floats32
    programs: Floats32
    depth: float
    seed: int

    @property
    def groups(self) -> list[slice]:
        """Rows of the cells of each group."""
        return row_blocks(len(self.types), max(1, VALUES_PER_GROUP // self.profiles.shape[1]))

    def cells(self, group: int) -> sparse.csr_matrix:
        """Generate the log-normalised expression of the cells of a group."""
        rng = stream(self.seed, "cells", self.number, group)
        types = self.types[self.groups[group]]
        depth = self.depth * rng.lognormal(0, CELL_DEPTH, len(types))
        states = rng.standard_normal((len(types), len(self.programs)), dtype=np.float32)
        rates = np.exp(states @ self.programs)
        rates *= self.profiles[types]
        rates *= (depth / rates.sum(axis=1, dtype=np.float64)).astype(np.float32)[:, None]
        return _log_normalised(_poisson(rates, rng))


def stream(seed: int, kind: str, *numbers: int) -> np.random.Generator:
    """Create the random stream of one component of a data set."""
    key = (("tissue", "batch", "cells").index(kind), *numbers)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def simulated_tissue(n_genes: int, n_types: int, seed: int) -> Tissue:
    """Simulate types in families in lineages; each inherits the marker genes of the larger group."""
    rng = stream(seed, "tissue")
    variable = np.zeros(n_genes, bool)
    n_variable = min(MOST_VARIABLE, max(1, round(0.6 * n_genes)))
    variable[rng.choice(n_genes, n_variable, replace=False)] = True
    n_lineages = max(1, round(np.sqrt(n_types)))
    types = np.arange(n_types)
    lineages = types % n_lineages
    families = lineages + n_lineages * (types // n_lineages // 2)
    log_profiles = np.tile(rng.normal(0, GENES, n_genes), (n_types, 1))
    for members, spread, markers in (
        (lineages, LINEAGE, LINEAGE_MARKERS),
        (families, FAMILY, FAMILY_MARKERS),
        (types, SUBTYPE, SUBTYPE_MARKERS),
    ):
        log_profiles += _changes(rng, n_types, variable, spread, markers)[members]
    programs = _changes(rng, N_PROGRAMS, variable, PROGRAM, PROGRAM_MARKERS).astype(np.float32)
    return Tissue(log_profiles, lineages, programs, variable)


def _changes(
    rng: np.random.Generator, n: int, variable: NDArray[np.bool_], spread: float, share: float
) -> NDArray[np.float64]:
    """Draw n random changes of log expression, each of a share of the variable genes."""
    shape = (n, len(variable))
    return np.asarray(rng.normal(0, spread, shape) * (rng.random(shape) < share) * variable)


def simulated_batch(
    tissue: Tissue,
    number: int,
    sizes: Sequence[int],
    *,
    counts_per_gene: float,
    batch_effect: float,
    seed: int,
) -> SimulatedBatch:
    """Simulate one batch of a tissue: its batch effect, type proportions and depth."""
    rng = stream(seed, "batch", number)
    n_types, n_genes = tissue.log_profiles.shape
    strength = batch_effect / BATCH
    on_all = rng.normal(0, BATCH * strength, n_genes)
    on_lineages = rng.normal(0, BATCH_BY_LINEAGE * strength, (tissue.lineages.max() + 1, n_genes))
    profiles = np.exp(tissue.log_profiles + on_all + on_lineages[tissue.lineages]).astype(np.float32)
    shares = DECREASE ** np.arange(n_types) * rng.lognormal(0, PROPORTION, n_types)
    shares[_absent(n_types, number, len(sizes))] = 0
    depth = counts_per_gene * n_genes * rng.lognormal(0, BATCH_DEPTH)
    types = rng.choice(n_types, size=sizes[number], p=_with_rare(shares)).astype(np.int16)
    return SimulatedBatch(number, types, profiles, tissue.programs, depth, seed)


def _absent(n_types: int, batch: int, n_batches: int) -> NDArray[np.bool_]:
    """Return which types a batch lacks: of three or more batches, about a quarter lack every third type."""
    types = np.arange(n_types)
    n_absent = 0 if n_batches < 3 else max(1, n_batches // 4)
    turn = (batch + 1 + (n_types - 1 - types) // 3) % n_batches
    return np.asarray(((n_types - 1 - types) % 3 == 0) & (turn < n_absent) & (n_types > 1))


def _with_rare(shares: NDArray[np.floating]) -> NDArray[np.float64]:
    """Normalise shares to a sum of one. With many types, the last two get the shares of rare types."""
    if len(shares) < FEWEST_TYPES_WITH_RARE:
        return np.asarray(shares / shares.sum())
    rare = np.where(shares[-2:] > 0, RARE, 0)
    common = shares[:-2] / shares[:-2].sum() * (1 - rare.sum())
    return np.concatenate([common, rare])


def batch_sizes(n_cells: int | Sequence[int], n_batches: int) -> list[int]:
    """Return the cells of each batch: as given, or a total, the first with about twice those of the last."""
    if not isinstance(n_cells, int | np.integer):
        return [int(n) for n in n_cells]
    weights = np.arange(2 * n_batches, n_batches, -1)
    ends = np.round((n_cells - n_batches) * np.cumsum(weights) / max(1, weights.sum()))
    return [1 + int(n) for n in np.diff(ends, prepend=0)]


def _poisson(rates: Floats32, rng: np.random.Generator) -> sparse.csr_matrix:
    """Draw Poisson counts, most of them zero, faster than ``rng.poisson``.

    A count is nonzero only if the first event of a Poisson process comes early enough, and the events after
    it form a Poisson process again. Most entries therefore cost only one exponential waiting time.
    """
    first = rng.standard_exponential(rates.shape, dtype=np.float32)
    at = np.flatnonzero(first < rates)
    counts = 1 + rng.poisson((rates.ravel()[at] - first.ravel()[at]).astype(np.float64))
    starts = np.searchsorted(at, np.arange(len(rates) + 1) * rates.shape[1]).astype(np.int32)
    return sparse.csr_matrix((counts, (at % rates.shape[1]).astype(np.int32), starts), shape=rates.shape)


def _log_normalised(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return ``log1p`` of counts per 10,000."""
    totals = np.repeat(counts.sum(axis=1).A1, np.diff(counts.indptr))
    values = np.log1p(1e4 * counts.data / totals).astype(np.float32)
    return sparse.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)
